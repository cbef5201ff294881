//! What somebody means by a port, a pod, a container or a claim.

use std::{fmt, str::FromStr};

use portclaim::lease::{
    Attachment, Claim, Excerpt, HostAddress, HostPort, Lease, Namespace, Pod, Port, Protocol,
    Protocols,
};

use super::holding::Holding;

/// A host port as people write it: `8080`, `8080/udp` or `192.0.2.1:8080/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPattern {
    /// Every address, where none is written.
    pub address: HostAddress,
    pub port: Port,
    /// All of them, where none is written.
    pub protocols: Protocols,
}

/// The text is no host port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a host port like 8080, 8080/udp, 192.0.2.1:8080/tcp or [::]:8080/tcp")]
pub struct ParsePatternError(Excerpt);

impl FromStr for PortPattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, ParsePatternError> {
        let parse = || {
            let (host, protocols) = match text.split_once('/') {
                Some((host, protocol)) => (host, Protocol::from_name(protocol)?.into()),
                None => (text, Protocols::ALL),
            };
            let (address, number) = match host.rsplit_once(':') {
                Some((address, number)) => {
                    let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                    let is_v6 = address.contains(':');
                    let address = if is_v6 { inner? } else { address };
                    if address.is_empty() {
                        return None;
                    }
                    (address.parse().ok()?, number)
                }
                None => (HostAddress::Any, host),
            };
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let port = Port::new(number.parse().ok()?)?;
            Some(Self { address, port, protocols })
        };
        parse().ok_or_else(|| ParsePatternError(Excerpt::quoted(text)))
    }
}

impl PortPattern {
    fn is_about(&self, host: &HostPort) -> bool {
        self.port == host.port
            && self.protocols.contains(host.protocol)
            && self.address.overlaps(&host.address)
    }
}

/// What was found on a node.
#[derive(Debug, Default)]
pub struct Found<'a> {
    /// Owners, and those of their leases that are meant.
    pub owners: Vec<(&'a Holding, Vec<&'a Lease>)>,
    pub claims: Vec<&'a Claim>,
}

/// Nothing is known by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    Port(Excerpt),
    Name(Excerpt),
    /// The beginning of so many container IDs.
    Ambiguous(Excerpt, usize),
}

impl std::error::Error for NotFound {}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => {
                write!(f, "host port {port} is neither held by anybody nor reserved by a claim")
            }
            Self::Name(name) => {
                write!(
                    f,
                    "no pod, container or module with host ports, and no claim, is known as {name}"
                )
            }
            Self::Ambiguous(start, count) => {
                write!(f, "{start} begins the IDs of {count} containers: write more of it")
            }
        }
    }
}

/// Everything that is meant by a text: what a port is about, if anything is; else
/// the pods, claims and containers of that name, or the one container whose ID
/// begins like this.
pub fn find<'a>(
    text: &str,
    holdings: &'a [Holding],
    claims: &'a [Claim],
) -> Result<Found<'a>, NotFound> {
    let pattern: Option<PortPattern> = text.parse().ok();
    if let Some(pattern) = pattern {
        let found = on_port(&pattern, holdings, claims);
        if !found.owners.is_empty() || !found.claims.is_empty() {
            return Ok(found);
        }
    }
    let found = by_name(text, holdings, claims);
    if !found.owners.is_empty() || !found.claims.is_empty() {
        return Ok(found);
    }
    let begins = |at: &Attachment| at.container.as_str().starts_with(text);
    let begun =
        holdings.iter().filter(|owner| !text.is_empty() && owner.attachment().is_some_and(begins));
    let begun: Vec<_> = begun.collect();
    let mut containers: Vec<_> =
        begun.iter().filter_map(|owner| Some(&owner.attachment()?.container)).collect();
    containers.sort_unstable();
    containers.dedup();
    match (containers.len(), pattern) {
        (1, _) => Ok(Found { owners: begun.into_iter().map(whole).collect(), claims: Vec::new() }),
        (_, Some(_)) => Err(NotFound::Port(Excerpt::plain(text))),
        (0, None) => Err(NotFound::Name(Excerpt::quoted(text))),
        (count, None) => Err(NotFound::Ambiguous(Excerpt::quoted(text), count)),
    }
}

fn on_port<'a>(pattern: &PortPattern, holdings: &'a [Holding], claims: &'a [Claim]) -> Found<'a> {
    let leases = |owner: &'a Holding| {
        let leases = owner.leases().iter().filter(|lease| pattern.is_about(&lease.host));
        (owner, leases.collect::<Vec<_>>())
    };
    let owners = holdings.iter().map(leases).filter(|(_, leases)| !leases.is_empty());
    let is_meant = |claim: &&Claim| claim.ports().any(|port| pattern.is_about(&port));
    Found { owners: owners.collect(), claims: claims.iter().filter(is_meant).collect() }
}

fn by_name<'a>(text: &str, holdings: &'a [Holding], claims: &'a [Claim]) -> Found<'a> {
    let (namespace, name) =
        text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
    let is_in = |found: Option<&str>| namespace.is_none() || namespace == found;
    let is_claim = |claim: &&Claim| {
        claim.key.claim.as_str() == name
            && is_in(claim.key.namespace.as_ref().map(Namespace::as_str))
    };
    let claims: Vec<&Claim> = claims.iter().filter(is_claim).collect();
    let is_owner = |owner: &Holding| {
        let is_pod = |pod: &Pod| pod.name.as_str() == name && is_in(Some(pod.namespace.as_str()));
        owner.attachment().is_some_and(|at| at.container.as_str() == text)
            || owner.module() == Some(text)
            || owner.claim() == Some(text)
            || owner.pod().is_some_and(is_pod)
    };
    let mut owners = Vec::new();
    for owner in holdings {
        if is_owner(owner) {
            owners.push(whole(owner));
            continue;
        }
        let is_under = |lease: &&Lease| {
            let key = lease.claim_key(owner.namespace());
            key.is_some_and(|key| claims.iter().any(|claim| claim.key == key))
        };
        let leases: Vec<_> = owner.leases().iter().filter(is_under).collect();
        if !leases.is_empty() {
            owners.push((owner, leases));
        }
    }
    Found { owners, claims }
}

fn whole(owner: &Holding) -> (&Holding, Vec<&Lease>) {
    (owner, owner.leases().iter().collect())
}

#[cfg(test)]
mod tests {
    use portclaim::lease::ModuleLease;

    use super::*;
    use crate::view::{
        claim::tests::claim,
        lease::tests::{block, forwarding},
    };

    #[test]
    fn ports_are_written_in_several_ways() {
        for (text, address, port, protocols) in [
            ("8080", "", 8080, "tcp+udp+sctp"),
            ("8080/UDP", "", 8080, "udp"),
            ("192.0.2.1:80/tcp", "192.0.2.1", 80, "tcp"),
            ("0.0.0.0:80", "0.0.0.0", 80, "tcp+udp+sctp"),
            ("[2001:db8::1]:80/sctp", "2001:db8::1", 80, "sctp"),
        ] {
            let pattern: PortPattern = text.parse().unwrap();
            let shown =
                (pattern.address.to_string(), pattern.port.number(), pattern.protocols.to_string());
            assert_eq!(shown, (address.to_owned(), port, protocols.to_owned()), "{text}");
        }
        for text in [
            "",
            "0",
            "65536",
            "+80",
            "80/",
            "80/icmp",
            ":80",
            "::1:80",
            "[::1]",
            "a:80",
            "80/tcp/udp",
            "[]:80",
        ] {
            assert!(text.parse::<PortPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_meant_is_found() {
        let mut arena = forwarding("games/arena", &["7000/udp", "80/tcp"]);
        arena.leases[0].claim = "arena".parse().ok();
        arena.leases[0].name = "game".parse().ok();
        let all = [
            arena.clone(),
            forwarding("shop/web", &["80/udp"]),
            forwarding("shop-2/web", &["81/udp"]),
        ];
        let mut all: Vec<Holding> = all.map(Holding::from).into();
        all.push(block("mail1", 25, 2).into());
        let named = ModuleLease { name: "smtp".parse().ok(), ..block("mail1", 27, 1) };
        all.push(named.into());
        let claims = [claim(7000, 1, Some(arena.attachment), None), claim(7001, 4, None, None)];
        let shown = |text: &str| {
            find(text, &all, &claims).map(|found| {
                let leases = found.owners.iter().flat_map(|(owner, leases)| {
                    leases.iter().map(move |lease| format!("{owner} {}", lease.host))
                });
                (leases.collect::<Vec<_>>().join(", "), found.claims.len())
            })
        };
        for (text, leases, claims) in [
            ("80", "games/arena 80/tcp, shop/web 80/udp", 0),
            ("80/udp", "shop/web 80/udp", 0),
            ("7000", "games/arena 7000/udp", 1),
            ("7003/udp", "", 1),
            ("web", "shop/web 80/udp, shop-2/web 81/udp", 0),
            ("shop-2/web", "shop-2/web 81/udp", 0),
            ("games/arena", "games/arena 7000/udp, games/arena 80/tcp", 2),
            ("arena0123", "games/arena 7000/udp, games/arena 80/tcp", 0),
            ("arena0", "games/arena 7000/udp, games/arena 80/tcp", 0),
            ("mail1", "module mail1 25/tcp, module mail1 26/tcp, module mail1 27/tcp", 0),
            ("smtp", "module mail1 27/tcp", 0),
            ("26", "module mail1 26/tcp", 0),
        ] {
            assert_eq!(shown(text), Ok((leases.to_owned(), claims)), "{text}");
        }
        for (text, error) in [
            ("82", "host port 82 is neither held by anybody nor reserved by a claim"),
            (
                "shop/x",
                "no pod, container or module with host ports, and no claim, is known as \"shop/x\"",
            ),
            ("", "no pod, container or module with host ports, and no claim, is known as \"\""),
            (
                "\x1b",
                "no pod, container or module with host ports, and no claim, is known as \"\\u{1b}\"",
            ),
        ] {
            assert_eq!(shown(text).unwrap_err().to_string(), error);
        }
        let twins = ["a/web1", "a/web2"].map(|pod| forwarding(pod, &["80/tcp"]).into());
        let error = find("web", &twins, &[]).unwrap_err();
        assert_eq!(error.to_string(), "\"web\" begins the IDs of 2 containers: write more of it");
    }
}
