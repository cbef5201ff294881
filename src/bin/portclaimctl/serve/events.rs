//! `/v1/events`: what changes, as it changes (server-sent events).

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde_json::json;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};

use super::{
    App,
    address::Shown,
    api::{Entry, refusal},
    snapshot::Snapshot,
};
use crate::view::lease::{Filter, changes, rows};

/// How many streams there may be at once.
const STREAMS: usize = 256;
/// How often a stream that has nothing to say shows that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many there are.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The place of one of them.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = OPEN.fetch_add(1, Ordering::Relaxed);
        let place = Self;
        (taken < STREAMS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

pub async fn stream(State(app): State<App>) -> Response {
    match Place::take() {
        Some(place) => {
            let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
            Sse::new(changes_from_now(app.snapshots, place)).keep_alive(keep_alive).into_response()
        }
        None => refusal(StatusCode::SERVICE_UNAVAILABLE, "there are too many event streams"),
    }
}

/// Each change of what is held. Who is slow and has missed some is told to read anew.
fn changes_from_now(
    snapshots: watch::Receiver<Arc<Snapshot>>,
    place: Place,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut seen: Option<u64> = None;
    WatchStream::new(snapshots).filter_map(move |snapshot| {
        let _place = &place;
        let event = match seen {
            None => Some(Event::default().event("ready").data("{}")),
            Some(seen) if seen + 1 < snapshot.number => {
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

/// What has changed, as JSON; nothing where the same is shown.
pub fn describe(shown: &Shown, before: &Snapshot, after: &Snapshot) -> Option<String> {
    let all = Filter::default();
    let (before_rows, after_rows) = (rows(&before.holdings, &all), rows(&after.holdings, &all));
    let (gone, come) = changes(&before_rows, &after_rows);
    let claims_differ = before.claims != after.claims;
    if gone.is_empty() && come.is_empty() && !claims_differ {
        return None;
    }
    let entries = |rows: &[_]| rows.iter().map(|held| Entry::of(shown, held)).collect::<Vec<_>>();
    let change =
        json!({ "removed": entries(&gone), "added": entries(&come), "claims": claims_differ });
    Some(change.to_string())
}
