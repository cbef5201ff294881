//! Claims: what they keep, and who uses them.

use portclaim::lease::{Claim, Namespace};
use serde::Serialize;

use super::{lease::Owners, time};

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Somebody holds its ports: the pod, or the attachment where there is none.
    Held(String),
    /// It is given up in so many seconds.
    Expires(u64),
    /// Nobody knows since when it is unused: it is given up so many seconds after
    /// the next container has come.
    Waits(u64),
    /// It goes when the next container comes.
    Expired,
}

impl State {
    /// What is true of a claim at this time, in seconds since the Unix epoch.
    pub fn of(claim: &Claim, owners: &Owners<'_>, now: u64) -> Self {
        match (&claim.holder, claim.expires) {
            (Some(attachment), _) => {
                let owner = owners.get(attachment);
                Self::Held(owner.map_or_else(|| attachment.to_string(), ToString::to_string))
            }
            (None, None) => Self::Waits(claim.ttl),
            (None, Some(expires)) if expires > now => Self::Expires(expires - now),
            (None, Some(_)) => Self::Expired,
        }
    }

    /// Whether its ports are kept from others.
    pub fn is_kept(&self) -> bool {
        *self != Self::Expired
    }

    /// Whether nobody uses it.
    pub fn is_unused(&self) -> bool {
        !matches!(self, Self::Held(_))
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held(holder) => f.write_str(holder),
            Self::Expires(left) => write!(f, "unused, expires in {}", time::span(*left)),
            Self::Waits(ttl) => write!(f, "unused, kept for {} more", time::span(*ttl)),
            Self::Expired => f.write_str("unused, expired"),
        }
    }
}

/// The host ports of a claim, as one text: `7000/udp`, or `7000-7003/udp` for a block.
pub fn ports(claim: &Claim) -> String {
    let mut ports = claim.ports();
    let Some(first) = ports.next() else { return String::new() };
    match ports.last() {
        Some(last) => {
            let range = format!("{}-{}/", first.port, last.port);
            first.to_string().replace(&format!("{}/", first.port), &range)
        }
        None => first.to_string(),
    }
}

/// One claim as an object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    namespace: Option<&'a str>,
    claim: &'a str,
    name: &'a str,
    protocol: &'static str,
    #[serde(rename = "hostIP")]
    host_ip: String,
    /// The lowest of a block.
    host_port: u16,
    count: u16,
    group: &'a str,
    /// How long it is kept while nobody uses it, in seconds.
    ttl: u64,
    /// RFC 3339, in UTC; none while it is in use, and while nobody knows since when
    /// it is not.
    expires: Option<String>,
    holder: Option<Holder<'a>>,
}

#[derive(Clone, Debug, Serialize)]
struct Holder<'a> {
    network: &'a str,
    #[serde(rename = "containerID")]
    container_id: &'a str,
    ifname: &'a str,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
}

/// The claim as programs read it.
pub fn document<'a>(claim: &'a Claim, owners: &Owners<'a>) -> Document<'a> {
    let holder = claim.holder.as_ref().map(|attachment| {
        let pod = owners.get(attachment).and_then(|owner| owner.pod());
        Holder {
            network: attachment.network.as_str(),
            container_id: attachment.container.as_str(),
            ifname: attachment.interface.as_str(),
            namespace: pod.map(|pod| pod.namespace.as_str()),
            pod: pod.map(|pod| pod.name.as_str()),
        }
    });
    Document {
        namespace: claim.key.namespace.as_ref().map(Namespace::as_str),
        claim: claim.key.claim.as_str(),
        name: claim.key.name.as_str(),
        protocol: claim.key.protocol.name(),
        host_ip: claim.address.to_string(),
        host_port: claim.port.number(),
        count: claim.count,
        group: claim.group.as_str(),
        ttl: claim.ttl,
        expires: claim.expires.map(time::rfc3339),
        holder,
    }
}

#[cfg(test)]
pub mod tests {
    use portclaim::lease::{Attachment, ClaimKey, Port, Protocol};

    use super::*;
    use crate::view::lease::{owners, tests::forwarding};

    /// A claim on `count` UDP ports of group `games`.
    pub fn claim(port: u16, count: u16, holder: Option<Attachment>, expires: Option<u64>) -> Claim {
        Claim {
            key: ClaimKey {
                namespace: "games".parse().ok(),
                claim: "arena".parse().unwrap(),
                name: "game".parse().unwrap(),
                protocol: Protocol::Udp,
            },
            port: Port::new(port).unwrap(),
            count,
            address: "".parse().unwrap(),
            group: "games".parse().unwrap(),
            ttl: 90 * 24 * 60 * 60,
            holder,
            expires,
        }
    }

    #[test]
    fn what_becomes_of_a_claim_is_said() {
        let owner = forwarding("games/arena-0", &["7000/udp"]);
        let holder = owner.attachment.clone();
        let all = [owner.into()];
        let state = |claim: &Claim, all| State::of(claim, &owners(all), 1000).to_string();
        let held = claim(7000, 1, Some(holder), None);
        assert_eq!(state(&held, &all), "games/arena-0");
        assert_eq!(state(&held, &[]), "arena-00123/eth0");
        assert_eq!(state(&claim(7000, 1, None, Some(1045)), &[]), "unused, expires in 45s");
        assert_eq!(state(&claim(7000, 1, None, Some(1000)), &[]), "unused, expired");
        assert_eq!(state(&claim(7000, 1, None, None), &[]), "unused, kept for 90d more");
    }

    #[test]
    fn blocks_are_shown_as_ranges() {
        let mut block = claim(7000, 4, None, None);
        assert_eq!(ports(&block), "7000-7003/udp");
        block.address = "2001:db8::7000".parse().unwrap();
        assert_eq!(ports(&block), "[2001:db8::7000]:7000-7003/udp");
        assert_eq!(ports(&claim(65535, 1, None, None)), "65535/udp");
    }
}
