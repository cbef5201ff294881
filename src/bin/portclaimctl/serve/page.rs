//! The page: a table that works without scripts, and follows changes with them.

use std::{fmt::Write as _, sync::LazyLock};

use axum::{
    Router,
    extract::{Query as UrlQuery, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use minijinja::{AutoEscape, Environment, Value, context, value::Serde};
use portclaim::lease::Protocol;
use serde::Serialize;

use super::{
    App,
    address::Shown,
    health::Health,
    query::{Key, MOST, Parameters, Query},
    row::Row,
    snapshot::Snapshot,
    stored::Stored,
};
use crate::view::{
    claim::{self, State as ClaimState},
    group::Usage,
    lease::owners,
    time,
};

const PAGE: &str = include_str!("assets/page.html");
/// The name that the engine knows the page by.
const NAME: &str = "page";
const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The page, read once for all who ask.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::new();
    engine.set_auto_escape_callback(|_| AutoEscape::Html);
    engine.add_template(NAME, PAGE).expect("the page is a template");
    engine
});

pub fn router() -> Router<App> {
    Router::new()
        .route("/", get(page))
        .route("/style.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/script.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/icon.svg", get(async || asset("image/svg+xml", ICON)))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A row of the table of ports.
#[derive(Serialize)]
struct Cells {
    /// What no other row has, so that scripts know it again.
    key: String,
    name: String,
    address: String,
    link: Option<String>,
    protocol: &'static str,
    owner: String,
    target: String,
    group: String,
    claim: String,
    tags: Vec<String>,
    age: String,
    /// `healthy`, `unhealthy`, `pending`, or empty where it is not checked.
    health: &'static str,
    reason: String,
}

impl Cells {
    fn of(shown: &Shown, snapshot: &Snapshot, row: &Row<'_>) -> Self {
        let health = row.health(snapshot);
        Self {
            key: row.key(),
            name: row.name().unwrap_or_default().to_owned(),
            address: row.address(shown),
            link: row.url(shown),
            protocol: row.protocol().map_or("", Protocol::name),
            owner: row.owner(),
            target: row.target().unwrap_or_default(),
            group: row.group().unwrap_or_default(),
            claim: row.claim().unwrap_or_default(),
            tags: row.tags().iter().map(ToString::to_string).collect(),
            age: time::span(snapshot.stored.at.saturating_sub(row.since())),
            health: health.map_or("", Health::name),
            reason: health.and_then(Health::reason).unwrap_or_default().to_owned(),
        }
    }
}

/// A row of the table of groups: one for those protocols of which the same is true.
#[derive(Serialize)]
struct Group {
    name: String,
    protocols: String,
    size: u32,
    leased: u32,
    reserved: u32,
    cooling: u32,
    free: u32,
}

/// A row of the table of claims.
#[derive(Serialize)]
struct Claim {
    key: String,
    ports: String,
    group: String,
    state: String,
}

/// The head of a column, which leads to the table in its order.
#[derive(Serialize)]
struct Column {
    title: &'static str,
    link: Option<String>,
    /// `ascending` or `descending`, as ARIA has it, for the one that the table is in
    /// the order of.
    order: Option<&'static str>,
}

async fn page(
    State(app): State<App>,
    parameters: Result<UrlQuery<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let UrlQuery(parameters) = match parameters {
        Ok(parameters) => parameters,
        Err(error) => return (StatusCode::BAD_REQUEST, error.body_text()).into_response(),
    };
    // A part of a word while it is typed is no error: what is wrong is said on the page.
    let (query, error) = match parameters.parse() {
        Ok(query) => (query, None),
        Err(error) => {
            let none = Parameters { limit: "1".to_owned(), ..Parameters::default() };
            (none.parse().expect("it is understood"), Some(error.to_string()))
        }
    };
    match render(&app.shown, &app.now(), &parameters, &query, error) {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            log::error!("cannot render the page: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be shown").into_response()
        }
    }
}

fn render(
    shown: &Shown,
    snapshot: &Snapshot,
    parameters: &Parameters,
    query: &Query,
    error: Option<String>,
) -> Result<String, minijinja::Error> {
    let mut query = query.clone();
    let all_rows = |query: &Query| query.rows(snapshot, |_| true);
    let (mut rows, total) = if error.is_some() { (Vec::new(), 0) } else { all_rows(&query) };
    if rows.is_empty() && total > 0 {
        // The page that was shown has gone.
        query.offset = (total - 1) / query.limit * query.limit;
        rows = all_rows(&query).0;
    }
    let rows: Vec<_> = rows.iter().map(|row| Cells::of(shown, snapshot, row)).collect();
    let count = rows.len();
    let filters = [
        ("q", "Search", &parameters.q),
        ("namespace", "Namespace", &parameters.namespace),
        ("group", "Group", &parameters.group),
        ("protocol", "Protocol", &parameters.protocol),
        ("port", "Ports", &parameters.port),
        ("health", "Health", &parameters.health),
    ];
    let filters: Vec<_> = filters
        .iter()
        .map(|(key, title, value)| context! { key => *key, title => *title, value => *value })
        .collect();
    // What has no field stays as it is.
    let kept = [
        ("pod", &parameters.pod),
        ("network", &parameters.network),
        ("module", &parameters.module),
        ("sort", &parameters.sort),
        ("limit", &parameters.limit),
    ]
    .map(|(key, value)| context! { key, value });
    let at = |offset: usize| link(parameters, &[("offset", &offset.to_string())]);
    let previous = (query.offset > 0).then(|| at(query.offset.saturating_sub(query.limit)));
    let next = (query.offset + count < total).then(|| at(query.offset + query.limit));
    let most = total.min(MOST);
    let all =
        (count < most).then(|| link(parameters, &[("offset", ""), ("limit", &most.to_string())]));
    ENGINE.get_template(NAME)?.render(context! {
        filters,
        error,
        warning => snapshot.stored.error.clone(),
        columns => Value::from(Serde(columns(parameters, &query))),
        rows => Value::from(Serde(rows)),
        first => if count == 0 { 0 } else { query.offset + 1 },
        last => query.offset + count,
        total,
        is_empty => snapshot.stored.holdings.is_empty() && snapshot.instances.is_empty(),
        previous,
        next,
        all,
        most,
        kept => kept.to_vec(),
        groups => groups(&snapshot.stored),
        claims => claims(&snapshot.stored),
        version => env!("CARGO_PKG_VERSION"),
    })
}

fn columns(parameters: &Parameters, query: &Query) -> Vec<Column> {
    let titles = [
        ("Name", Some("name")),
        ("Address", Some("port")),
        ("Protocol", Some("protocol")),
        ("Pod or service", Some("owner")),
        ("Leads to", None),
        ("Group", Some("group")),
        ("Claim", None),
        ("Age", Some("age")),
        ("Health", Some("health")),
    ];
    let column = |(title, key): (&'static str, Option<&str>)| {
        let Some(key) = key else { return Column { title, link: None, order: None } };
        let is_current = Key::ALL.iter().any(|(name, it)| *name == key && *it == query.key);
        let order = match (is_current, query.is_descending) {
            (false, _) => None,
            (true, false) => Some("ascending"),
            (true, true) => Some("descending"),
        };
        let sort = if order == Some("ascending") { format!("-{key}") } else { key.to_owned() };
        Column { title, link: Some(link(parameters, &[("sort", &sort), ("offset", "")])), order }
    };
    titles.into_iter().map(column).collect()
}

/// The page with some parameters changed.
fn link(parameters: &Parameters, changes: &[(&str, &str)]) -> String {
    let current = [
        ("q", &parameters.q),
        ("namespace", &parameters.namespace),
        ("pod", &parameters.pod),
        ("group", &parameters.group),
        ("protocol", &parameters.protocol),
        ("port", &parameters.port),
        ("network", &parameters.network),
        ("module", &parameters.module),
        ("health", &parameters.health),
        ("sort", &parameters.sort),
        ("limit", &parameters.limit),
        ("offset", &parameters.offset),
    ];
    let pairs = current.iter().filter_map(|(key, value)| {
        let new = changes.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
        let value = new.unwrap_or(value);
        (!value.is_empty()).then(|| format!("{key}={}", encode(value)))
    });
    let pairs: Vec<_> = pairs.collect();
    if pairs.is_empty() { "/".to_owned() } else { format!("/?{}", pairs.join("&")) }
}

/// A value of a query (RFC 3986, section 2).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("memory takes it");
        }
    }
    encoded
}

fn groups(stored: &Stored) -> Value {
    let mut rows = Vec::new();
    for group in &stored.groups {
        for (protocols, usage) in &group.usages {
            let Usage { leased, reserved, cooling, free } = *usage;
            rows.push(Group {
                name: group.name.clone(),
                protocols: protocols.to_string(),
                size: group.size,
                leased,
                reserved,
                cooling,
                free,
            });
        }
    }
    Value::from(Serde(rows))
}

fn claims(stored: &Stored) -> Value {
    let owners = owners(&stored.holdings);
    let row = |it: &portclaim::lease::Claim| Claim {
        key: it.key.to_string(),
        ports: claim::ports(it),
        group: it.group.to_string(),
        state: ClaimState::of(it, &owners, stored.at).to_string(),
    };
    Value::from(Serde(stored.claims.iter().map(row).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::instance, *};
    use crate::view::lease::tests::forwarding;

    fn shown(parameters: &Parameters, snapshot: &Snapshot) -> String {
        let query = parameters.parse().unwrap();
        render(&Shown::default(), snapshot, parameters, &query, None).unwrap()
    }

    #[test]
    fn text_of_others_is_text() {
        let mut web = forwarding("shop/web", &["8080/tcp"]);
        web.leases[0].claim = "c".parse().ok();
        let stored = Stored {
            holdings: vec![web.into()],
            error: Some("<script>alert(1)</script>".to_owned()),
            ..Stored::default()
        };
        let mut known = instance::tests::instance("known", "h:1");
        known.tags = instance::tags(["<script>alert(2)</script>"].into_iter()).unwrap();
        let instances = Arc::new(vec![known]);
        let snapshot = Snapshot { stored: Arc::new(stored), instances, ..Snapshot::default() };
        let tagged = shown(&Parameters::default(), &snapshot);
        assert!(tagged.contains("&lt;script&gt;alert(2)"), "{tagged}");
        let q = "\"><b>".to_owned();
        let text = shown(&Parameters { q, ..Parameters::default() }, &snapshot);
        assert!(!text.contains("<script>alert") && !text.contains("\"><b>"), "{text}");
        assert!(text.contains("&lt;script&gt;"), "{text}");
    }

    #[test]
    fn an_empty_node_says_what_to_do() {
        let text = shown(&Parameters::default(), &Snapshot::default());
        assert!(text.contains("No host port is held"), "{text}");
    }

    /// The second page is shown while its rows go.
    #[test]
    fn a_page_that_has_gone_is_the_last_one() {
        let web = forwarding("shop/web", &["80/tcp", "81/tcp", "82/tcp"]);
        let stored = Stored { holdings: vec![web.into()], ..Stored::default() };
        let snapshot = Snapshot { stored: Arc::new(stored), ..Snapshot::default() };
        let (limit, offset) = ("2".to_owned(), "4".to_owned());
        let text = shown(&Parameters { limit, offset, ..Parameters::default() }, &snapshot);
        assert!(text.contains("3–3 of 3") && !text.contains("rel=\"next\""), "{text}");
    }

    #[test]
    fn links_keep_what_was_asked() {
        let parameters = Parameters {
            q: "a&b".to_owned(),
            sort: "age".to_owned(),
            offset: "100".to_owned(),
            ..Parameters::default()
        };
        assert_eq!(link(&parameters, &[("offset", "")]), "/?q=a%26b&sort=age");
        assert_eq!(link(&Parameters::default(), &[]), "/");
    }
}
