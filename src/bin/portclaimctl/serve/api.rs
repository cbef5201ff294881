//! What programs read: `/v1`, `/healthz` and `/metrics`.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Query as UrlQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    App,
    address::Shown,
    events,
    query::{self, ParameterError, Parameters},
    snapshot::Snapshot,
};
use crate::view::{
    claim,
    lease::{Document, Held, owners},
};

/// The description of all of it for programs.
const OPENAPI: &str = include_str!("assets/openapi.json");
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn router() -> Router<App> {
    Router::new()
        .route("/v1/ports", get(ports))
        .route("/v1/ports/{port}/{protocol}", get(one_port))
        .route("/v1/groups", get(groups))
        .route("/v1/claims", get(claims))
        .route("/v1/self", get(own))
        .route("/v1/events", get(events::stream))
        .route("/v1/openapi.json", get(openapi))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "there is no such page"))
}

/// A lease and the address under which clients reach it.
#[derive(Serialize)]
pub struct Entry<'a> {
    address: String,
    /// Where a browser may be sent to.
    url: Option<String>,
    #[serde(flatten)]
    lease: Document<'a>,
}

impl<'a> Entry<'a> {
    pub fn of(shown: &Shown, held: &Held<'a>) -> Self {
        let (address, url) = (shown.of(held.lease), shown.url_of(held.lease));
        Self { address, url, lease: held.document() }
    }
}

/// An error as programs read it.
pub fn refusal(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

impl IntoResponse for ParameterError {
    fn into_response(self) -> Response {
        refusal(StatusCode::BAD_REQUEST, &self.to_string())
    }
}

async fn ports(
    State(app): State<App>,
    parameters: Result<UrlQuery<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Response> {
    let UrlQuery(parameters) =
        parameters.map_err(|error| refusal(StatusCode::BAD_REQUEST, &error.body_text()))?;
    let query = parameters.parse().map_err(IntoResponse::into_response)?;
    let snapshot = app.now();
    let (rows, total) = query.rows(&snapshot);
    let entries: Vec<_> = rows.iter().map(|held| Entry::of(&app.shown, held)).collect();
    Ok(Json(json!({ "total": total, "ports": entries })))
}

async fn one_port(
    State(app): State<App>,
    Path((port, protocol)): Path<(String, String)>,
) -> Result<Json<Value>, Response> {
    let (Ok(port), Some(protocol)) = (port.parse::<u16>(), query::protocol(&protocol)) else {
        let message = "a port and protocol like 8080/tcp are allowed";
        return Err(refusal(StatusCode::BAD_REQUEST, message));
    };
    let snapshot = app.now();
    let entries = entries(&app, &snapshot, |held| {
        (held.lease.host.port.number(), held.lease.host.protocol) == (port, protocol)
    });
    if entries.is_empty() {
        let message = format!("host port {port}/{protocol} is held by nobody");
        return Err(refusal(StatusCode::NOT_FOUND, &message));
    }
    Ok(Json(json!({ "ports": entries })))
}

/// The ports of whoever asks, by the address that it asks from.
async fn own(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Result<Json<Value>, Response> {
    let address = peer.ip().to_canonical();
    let snapshot = app.now();
    let entries = entries(&app, &snapshot, |held| {
        held.owner.attachment().is_some() && held.owner.addresses().contains(&address)
    });
    if entries.is_empty() {
        let message = format!("no container with the address {address} has host ports");
        return Err(refusal(StatusCode::NOT_FOUND, &message));
    }
    Ok(Json(json!({ "ports": entries })))
}

fn entries(app: &App, snapshot: &Snapshot, is_meant: impl Fn(&Held<'_>) -> bool) -> Vec<Value> {
    let held = snapshot.holdings.iter();
    let held = held.flat_map(|owner| owner.leases().iter().map(move |lease| Held { lease, owner }));
    let entry = |held: Held<'_>| serde_json::to_value(Entry::of(&app.shown, &held));
    let entries = held.filter(is_meant).map(entry);
    entries.collect::<Result<_, _>>().expect("an entry can be written as JSON")
}

async fn groups(State(app): State<App>) -> Json<Value> {
    Json(json!({ "groups": app.now().group_documents() }))
}

async fn claims(State(app): State<App>) -> Json<Value> {
    let snapshot = app.now();
    let owners = owners(&snapshot.holdings);
    let claims: Vec<_> = snapshot.claims.iter().map(|it| claim::document(it, &owners)).collect();
    Json(json!({ "claims": claims }))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn health(State(app): State<App>) -> Response {
    match &app.now().error {
        None => "ok\n".into_response(),
        Some(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(State(app): State<App>) -> Response {
    let text = render_metrics(&app.now());
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

/// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
fn render_metrics(snapshot: &Snapshot) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments).and_then(|()| text.write_char('\n')).expect("memory takes it");
    };
    line(format_args!("# TYPE portclaim_group_ports gauge"));
    line(format_args!(
        "# HELP portclaim_group_ports Ports of a group, by what has become of them."
    ));
    snapshot.groups(|group| {
        for (protocols, usage) in &group.usages {
            for protocol in protocols.iter() {
                for (state, count) in [
                    ("leased", usage.leased),
                    ("reserved", usage.reserved),
                    ("cooling", usage.cooling),
                    ("free", usage.free),
                ] {
                    // The names of groups and protocols need no escapes.
                    line(format_args!(
                        "portclaim_group_ports{{group=\"{}\",protocol=\"{protocol}\",state=\"{state}\"}} {count}",
                        group.pool.name
                    ));
                }
            }
        }
    });
    line(format_args!("# TYPE portclaim_leases gauge"));
    line(format_args!("# HELP portclaim_leases Host ports that are held."));
    for (kind, is_module) in [("container", false), ("module", true)] {
        let of_kind = snapshot.holdings.iter().filter(|it| it.module().is_some() == is_module);
        let count: usize = of_kind.map(|holding| holding.leases().len()).sum();
        line(format_args!("portclaim_leases{{holder=\"{kind}\"}} {count}"));
    }
    line(format_args!("# TYPE portclaim_claims gauge"));
    line(format_args!("# HELP portclaim_claims Claims, in use or not."));
    for (state, is_used) in [("used", true), ("unused", false)] {
        let count = snapshot.claims.iter().filter(|it| it.holder.is_some() == is_used).count();
        line(format_args!("portclaim_claims{{state=\"{state}\"}} {count}"));
    }
    line(format_args!("# TYPE portclaim_read_timestamp_seconds gauge"));
    line(format_args!("# HELP portclaim_read_timestamp_seconds When the database was read."));
    line(format_args!("portclaim_read_timestamp_seconds {}", snapshot.at));
    line(format_args!("# EOF"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::lease::tests::{block, forwarding};

    #[test]
    fn metrics_are_those_of_the_snapshot() {
        let holdings = vec![
            forwarding("shop/web", &["8080/tcp", "80/udp"]).into(),
            block("mail1", 25, 2).into(),
        ];
        let text = render_metrics(&Snapshot { holdings, at: 7, ..Snapshot::default() });
        for line in [
            "portclaim_leases{holder=\"container\"} 2\n",
            "portclaim_leases{holder=\"module\"} 2\n",
            "portclaim_claims{state=\"used\"} 0\n",
            "portclaim_read_timestamp_seconds 7\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
