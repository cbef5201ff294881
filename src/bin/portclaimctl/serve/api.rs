//! What programs read: `/v1`, `/healthz` and `/metrics`.

use axum::{
    Extension, Json, Router,
    extract::{Path, Query as UrlQuery, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{
    App, events,
    health::Health,
    listen::Peer,
    metrics,
    query::{self, Parameters},
    refusal::Refusal,
    row::{self, EndpointDocument, InstanceDocument, PortDocument, Row},
    snapshot::Snapshot,
};
use crate::view::{
    claim,
    lease::{Held, owners},
};

/// The description of all of it for programs.
const OPENAPI: &str = include_str!("assets/openapi.json");

pub fn router() -> Router<App> {
    Router::new()
        .route("/v1/ports", get(ports))
        .route("/v1/ports/{port}/{protocol}", get(one_port))
        .route("/v1/instances", get(instances))
        .route("/v1/discovery", get(discovery))
        .route("/v1/groups", get(groups))
        .route("/v1/claims", get(claims))
        .route("/v1/self", get(own))
        .route("/v1/events", get(events::stream))
        .route("/v1/openapi.json", get(openapi))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics::show))
        .method_not_allowed_fallback(async |method: Method| {
            let message = format!("{method} is not possible here");
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "there is no such page"))
}

type Asked = Result<UrlQuery<Parameters>, axum::extract::rejection::QueryRejection>;

/// A list as programs read it, cut as they ask.
fn list<'s>(
    snapshot: &'s Snapshot,
    asked: Asked,
    key: &str,
    admitted: impl Fn(&Row<'s>) -> bool,
    document: impl Fn(&Row<'s>) -> Value,
) -> Result<Json<Value>, Refusal> {
    let UrlQuery(parameters) = asked.map_err(|error| Refusal::invalid(error.body_text()))?;
    let query = parameters.parse().map_err(Refusal::invalid)?;
    let (rows, total) = query.rows(snapshot, admitted);
    let documents: Vec<_> = rows.iter().map(document).collect();
    Ok(Json(json!({ "total": total, key: documents })))
}

async fn ports(State(app): State<App>, asked: Asked) -> Result<Json<Value>, Refusal> {
    let snapshot = app.now();
    let is_port = |row: &Row<'_>| matches!(row, Row::Lease(_));
    list(&snapshot, asked, "ports", is_port, |row| document(&app, &snapshot, row))
}

async fn instances(State(app): State<App>, asked: Asked) -> Result<Json<Value>, Refusal> {
    let snapshot = app.now();
    let is_instance = |row: &Row<'_>| matches!(row, Row::Instance(_));
    list(&snapshot, asked, "instances", is_instance, |row| document(&app, &snapshot, row))
}

/// Either kind by itself.
fn document(app: &App, snapshot: &Snapshot, row: &Row<'_>) -> Value {
    match row {
        Row::Lease(held) => row::value(&PortDocument::of(&app.shown, snapshot, held)),
        Row::Instance(instance) => row::value(&InstanceDocument::of(snapshot, instance)),
    }
}

/// Whatever clients may use: what is known not to work is left out.
async fn discovery(State(app): State<App>, asked: Asked) -> Result<Json<Value>, Refusal> {
    let snapshot = app.now();
    let may_work = |row: &Row<'_>| !matches!(row.health(&snapshot), Some(Health::Unhealthy(_)));
    let document = |row: &Row<'_>| row::value(&EndpointDocument::of(&app.shown, &snapshot, row));
    list(&snapshot, asked, "endpoints", may_work, document)
}

async fn one_port(
    State(app): State<App>,
    Path((port, protocol)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let (Ok(port), Some(protocol)) = (port.parse::<u16>(), query::protocol(&protocol)) else {
        let message = "a port and protocol like 8080/tcp are allowed";
        return Err(Refusal::invalid(message));
    };
    let snapshot = app.now();
    let entries = entries(&app, &snapshot, |held| {
        (held.lease.host.port.number(), held.lease.host.protocol) == (port, protocol)
    });
    if entries.is_empty() {
        let message = format!("host port {port}/{protocol} is held by nobody");
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    Ok(Json(json!({ "ports": entries })))
}

/// The ports of whoever asks, by the address that it asks from.
async fn own(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Value>, Refusal> {
    let Peer::Address(peer) = peer else {
        let message = "who asks over the Unix socket has no address";
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    };
    let address = peer.ip().to_canonical();
    let snapshot = app.now();
    let entries = entries(&app, &snapshot, |held| {
        held.owner.attachment().is_some() && held.owner.addresses().contains(&address)
    });
    if entries.is_empty() {
        let message = format!("no container with the address {address} has host ports");
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    Ok(Json(json!({ "ports": entries })))
}

fn entries(app: &App, snapshot: &Snapshot, is_meant: impl Fn(&Held<'_>) -> bool) -> Vec<Value> {
    let held = snapshot.stored.holdings.iter();
    let held = held.flat_map(|owner| owner.leases().iter().map(move |lease| Held { lease, owner }));
    let entry = |held| row::value(&PortDocument::of(&app.shown, snapshot, &held));
    held.filter(is_meant).map(entry).collect()
}

async fn groups(State(app): State<App>) -> Json<Value> {
    let stored = app.now().stored.clone();
    let groups: Vec<_> = stored.groups.iter().map(|group| &group.document).collect();
    Json(json!({ "groups": groups }))
}

async fn claims(State(app): State<App>) -> Json<Value> {
    let stored = app.now().stored.clone();
    let owners = owners(&stored.holdings);
    let claims: Vec<_> = stored.claims.iter().map(|it| claim::document(it, &owners)).collect();
    Json(json!({ "claims": claims }))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn health(State(app): State<App>) -> Response {
    match &app.now().stored.error {
        None => "ok\n".into_response(),
        Some(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
