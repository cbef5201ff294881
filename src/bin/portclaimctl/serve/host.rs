//! By which names this may be reached.
//!
//! A page of somebody else's may have its own name lead to this node (DNS rebinding), and
//! would then be allowed by browsers to read all answers. An address that is a number
//! cannot be made to lead elsewhere; a name must be known.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::refusal::Refusal;

const LOCALHOST: &str = "localhost";

/// The names, in lower case.
pub struct Hosts(Vec<String>);

impl Hosts {
    pub fn new<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        Self(names.map(|name| canonical(name)).chain([LOCALHOST.to_owned()]).collect())
    }

    /// Whether a request for this host and port is meant for us.
    fn admit(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        let host = authority.host();
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = match v6 {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<IpAddr>().is_ok(),
        };
        // Nobody who is asked by a browser has a user in front of its name.
        let has_user = authority.as_str().contains('@');
        !has_user && (is_address || self.0.contains(&canonical(host)))
    }
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

pub async fn check(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    // Of HTTP/1.0 there may be none: no browser is so old.
    let named = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().ok());
    let target = request.uri().authority().map(|authority| Some(authority.as_str()));
    let stranger = named.chain(target).find(|host| !host.is_some_and(|host| hosts.admit(host)));
    let Some(stranger) = stranger else { return next.run(request).await };
    let stranger: String = stranger.unwrap_or_default().chars().take(80).collect();
    let message = format!(
        "{stranger:?} is no name of this node: ask by its address, or start portclaimctl serve \
         with --allowed-host"
    );
    Refusal::new(StatusCode::MISDIRECTED_REQUEST, message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_known_names_are_admitted() {
        let names = ["Games.example".to_owned(), "node-1.".to_owned()];
        let hosts = Hosts::new(names.iter());
        for host in [
            "127.0.0.1",
            "127.0.0.1:8642",
            "[::1]:8642",
            "[2001:db8::1]",
            "localhost:8642",
            "LOCALHOST",
            "localhost.",
            "games.example:80",
            "node-1",
        ] {
            assert!(hosts.admit(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.example:8642",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f.1",
            "[::1",
            "[localhost]",
            "localhost@evil.example",
            "evil.example@127.0.0.1",
            "evil.example/localhost",
            "games.example.evil",
        ] {
            assert!(!hosts.admit(host), "{host}");
        }
    }
}
