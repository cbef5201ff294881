//! Answers that are the same for all who ask the same, until there is a new snapshot:
//! made once, however many ask.
//!
//! Only what a snapshot and the request line alone decide may be kept, whoever asks and
//! however often.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes, HttpBody as _, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, refusal::Refusal};

/// The paths of such answers.
const KEPT: [&str; 6] =
    ["/", "/v1/claims", "/v1/discovery", "/v1/groups", "/v1/instances", "/v1/ports"];
/// How many bytes are kept at most, requests and answers, and of one answer.
const ROOM: usize = 4 << 20;
const LARGEST: usize = 1 << 20;

/// What was answered to each request, if with success.
#[derive(Default)]
pub struct Cache(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    /// The number of the snapshot that they are of.
    snapshot: u64,
    by_target: HashMap<String, (HeaderMap, Bytes)>,
    bytes: usize,
}

impl Cache {
    fn get(&self, snapshot: u64, target: &str) -> Option<(HeaderMap, Bytes)> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = answers.snapshot == snapshot;
        is_new.then(|| answers.by_target.get(target).cloned()).flatten()
    }

    fn put(&self, snapshot: u64, target: String, headers: HeaderMap, body: Bytes) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.snapshot > snapshot {
            return;
        }
        if answers.snapshot < snapshot {
            *answers = Answers { snapshot, ..Answers::default() };
        }
        let size = target.len() + body.len();
        if answers.bytes + size <= ROOM && !answers.by_target.contains_key(&target) {
            answers.bytes += size;
            answers.by_target.insert(target, (headers, body));
        }
    }
}

pub async fn answer(State(app): State<App>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET || !KEPT.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let snapshot = app.now().number;
    if let Some((headers, body)) = app.cache.get(snapshot, &target) {
        let mut response = Response::new(Body::from(body));
        *response.headers_mut() = headers;
        return response;
    }
    let response = next.run(request).await;
    let is_small = response.body().size_hint().upper().is_some_and(|size| size <= LARGEST as u64);
    if response.status() != StatusCode::OK || !is_small {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, LARGEST).await else {
        let message = "the answer cannot be read";
        return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response();
    };
    // What is made of a later one is kept for that one only when it is asked again.
    if app.now().number == snapshot {
        app.cache.put(snapshot, target, parts.headers.clone(), body.clone());
    }
    Response::from_parts(parts, Body::from(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_until_there_is_a_new_snapshot() {
        let cache = Cache::default();
        let put = |snapshot, target: &str, body: &'static str| {
            cache.put(snapshot, target.to_owned(), HeaderMap::new(), body.into());
        };
        let get = |snapshot, target| cache.get(snapshot, target).map(|(_, body)| body);
        assert_eq!(get(0, "/"), None);
        put(3, "/", "three");
        assert_eq!(get(3, "/").as_deref(), Some(&b"three"[..]));
        assert_eq!((get(4, "/"), get(3, "/?q=a")), (None, None));
        put(2, "/?q=a", "late");
        assert_eq!(get(3, "/?q=a"), None);
        put(4, "/?q=a", "four");
        assert_eq!((get(3, "/"), get(4, "/")), (None, None));
        assert_eq!(get(4, "/?q=a").as_deref(), Some(&b"four"[..]));
    }

    #[test]
    fn many_who_ask_for_different_things_do_not_fill_the_memory() {
        let cache = Cache::default();
        for number in 0..10_000 {
            cache.put(1, number.to_string(), HeaderMap::new(), vec![0; 10_000].into());
        }
        let answers = cache.0.lock().unwrap();
        assert!(answers.bytes <= ROOM && answers.by_target.len() > 400);
    }
}
