//! `/v1/events`: what changes, as it changes (server-sent events).

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};

use super::{
    App,
    address::Shown,
    instance::Instance,
    listen::{Peer, Who},
    refusal::Refusal,
    row::{self, InstanceDocument, PortDocument},
    snapshot::Snapshot,
};
use crate::{
    places::{Place, Places},
    view::lease::{Filter, Held, changes, rows},
};

/// How many streams there may be at once.
const STREAMS: usize = 256;
/// How many of them one client may have.
const STREAMS_OF_ONE: usize = 64;
/// The largest change that is told in full, in bytes.
const LARGEST: usize = 64 * 1024;
/// How often a stream that has nothing to say shows that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Who has them.
static OPEN: LazyLock<Places<Who>> = LazyLock::new(|| Places::new(STREAMS, STREAMS_OF_ONE));

pub async fn stream(State(app): State<App>, Extension(peer): Extension<Peer>) -> Response {
    match OPEN.take(peer.who()) {
        Some(place) => {
            let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
            Sse::new(changes_from_now(app.snapshots, place)).keep_alive(keep_alive).into_response()
        }
        None => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "there are too many event streams")
            .into_response(),
    }
}

/// Each change of what is held. Who is slow and has missed some is told to read anew.
fn changes_from_now(
    snapshots: watch::Receiver<Arc<Snapshot>>,
    place: Place<Who>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut seen: Option<u64> = None;
    WatchStream::new(snapshots).filter_map(move |snapshot| {
        let _place = &place;
        let event = match seen {
            None => Some(Event::default().event("ready").data("{}")),
            Some(seen) if seen + 1 < snapshot.number || is_large(&snapshot) => {
                Some(Event::default().event("reset").data("{}"))
            }
            Some(_) => {
                snapshot.change.as_ref().map(|change| Event::default().event("change").data(change))
            }
        };
        seen = Some(snapshot.number);
        event.map(Ok)
    })
}

/// Whether each stream would have to have more of it than is worth it.
fn is_large(snapshot: &Snapshot) -> bool {
    snapshot.change.as_ref().is_some_and(|change| change.len() > LARGEST)
}

/// What is different between two lists.
#[derive(Default, Serialize)]
struct Change {
    removed: Vec<Value>,
    added: Vec<Value>,
    /// Those that are in both, and of which something else is known.
    health: Vec<Value>,
}

/// What has changed, as JSON; nothing where the same is shown.
pub fn describe(shown: &Shown, before: &Snapshot, after: &Snapshot) -> Option<String> {
    let (ports, instances) = (of_ports(shown, before, after), of_instances(before, after));
    let (was, is) = (&before.stored, &after.stored);
    let claims = was.claims != is.claims;
    let is_same =
        |it: &Change| it.removed.is_empty() && it.added.is_empty() && it.health.is_empty();
    if is_same(&ports) && is_same(&instances) && !claims && was.error == is.error {
        return None;
    }
    let mut change = row::value(&ports);
    change["claims"] = claims.into();
    change["instances"] = row::value(&instances);
    change["error"] = is.error.clone().into();
    Some(change.to_string())
}

fn of_ports(shown: &Shown, before: &Snapshot, after: &Snapshot) -> Change {
    let document = |of, held: &Held<'_>| row::value(&PortDocument::of(shown, of, held));
    let all = Filter::default();
    let rows_after = rows(&after.stored.holdings, &all);
    let (gone, come) = if Arc::ptr_eq(&before.stored, &after.stored) {
        Default::default()
    } else {
        changes(&rows(&before.stored.holdings, &all), &rows_after)
    };
    let new: HashSet<_> = come.iter().map(|held| held.lease.host).collect();
    let differs = |held: &&Held<'_>| {
        before.health_of(held) != after.health_of(held) && !new.contains(&held.lease.host)
    };
    let health = rows_after.iter().filter(differs).map(|held| document(after, held)).collect();
    Change {
        removed: gone.iter().map(|held| document(before, held)).collect(),
        added: come.iter().map(|held| document(after, held)).collect(),
        health,
    }
}

fn of_instances(before: &Snapshot, after: &Snapshot) -> Change {
    let document = |of, it: &Instance| row::value(&InstanceDocument::of(of, it));
    let find = |of: &'_ Snapshot, it: &Instance| {
        of.instances.binary_search_by(|other| other.name.cmp(&it.name)).ok()
    };
    let is_in =
        |of: &Snapshot, it: &Instance| find(of, it).is_some_and(|at| of.instances[at] == *it);
    let mut change = Change::default();
    for gone in before.instances.iter().filter(|it| !is_in(after, it)) {
        change.removed.push(document(before, gone));
    }
    for instance in after.instances.iter() {
        let health = |of: &Snapshot| of.health_of_instance(instance).cloned();
        if !is_in(before, instance) {
            change.added.push(document(after, instance));
        } else if health(before) != health(after) {
            change.health.push(document(after, instance));
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            health::{Marks, Subject},
            instance::tests::instance,
            stored::Stored,
        },
        *,
    };
    use crate::view::lease::tests::forwarding;

    #[test]
    fn changes_are_told_by_kind() {
        let web = forwarding("shop/web", &["80/tcp", "81/tcp"]);
        let subject = Subject::Container(web.attachment.clone());
        let stored = Arc::new(Stored { holdings: vec![web.into()], ..Stored::default() });
        let before = Snapshot {
            instances: Arc::new(vec![instance("a", "h:1"), instance("b", "h:2")]),
            stored: stored.clone(),
            ..Snapshot::default()
        };
        let db = forwarding("shop/db", &["82/tcp"]);
        let mut holdings = stored.holdings.clone();
        holdings.push(db.into());
        let after = Snapshot {
            stored: Arc::new(Stored { holdings, ..Stored::default() }),
            instances: Arc::new(vec![instance("b", "h:3"), instance("c", "h:4")]),
            marks: Arc::new(Marks::unhealthy(subject, "HTTP 500")),
            ..Snapshot::default()
        };
        let shown = Shown::default();
        assert_eq!(describe(&shown, &after, &after), None);
        let told = describe(&shown, &before, &after).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        let of = |list: &Value, key: &str| -> Vec<String> {
            list.as_array().unwrap().iter().map(|it| it[key].to_string()).collect()
        };
        assert_eq!(of(&told["added"], "hostPort"), ["82"]);
        assert_eq!(of(&told["removed"], "hostPort"), [""; 0]);
        assert_eq!(of(&told["health"], "hostPort"), ["80", "81"]);
        assert_eq!(of(&told["health"], "healthReason"), ["\"HTTP 500\""; 2]);
        assert_eq!(of(&told["instances"]["removed"], "address"), ["\"h:1\"", "\"h:2\""]);
        assert_eq!(of(&told["instances"]["added"], "address"), ["\"h:3\"", "\"h:4\""]);
        assert_eq!(told["claims"], false);
    }
}
