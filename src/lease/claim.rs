//! Claims: reservations of host ports that outlive those who use them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Attachment, ClaimName, GroupName, HostAddress, HostPort, Namespace, Port, PortName, Protocol,
};

/// What a claim is known by. Shown as `shop/web (http/tcp)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimKey {
    /// The namespace of the pods that may use it; none: of containers that are
    /// in no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Its name.
    pub claim: ClaimName,
    /// The name of the port: a claim may be about several.
    pub name: PortName,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{} ({}/{})", self.claim, self.name, self.protocol)
    }
}

/// A named reservation of a host port, or of a block of them: whoever uses the
/// name gets the same port again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// What it is known by.
    #[serde(flatten)]
    pub key: ClaimKey,
    /// The port that is reserved, the lowest of a block.
    #[serde(rename = "hostPort")]
    pub port: Port,
    /// How many ports are reserved, from that one on upwards; at least 1.
    pub count: u16,
    /// The host's addresses on which they are.
    #[serde(rename = "hostIP", default, skip_serializing_if = "HostAddress::is_any")]
    pub address: HostAddress,
    /// The group that the ports are from.
    pub group: GroupName,
    /// How long it is kept while nobody uses it, in seconds.
    pub ttl: u64,
    /// Who holds its ports now.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Attachment>,
    /// When it is given up, in seconds since the Unix epoch; none while it is in
    /// use, and while nobody knows since when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl Claim {
    /// Everything that is reserved, lowest port first.
    pub fn ports(&self) -> impl Iterator<Item = HostPort> + use<> {
        let (first, protocol, address) = (self.port, self.key.protocol, self.address);
        let numbers = (0..self.count).filter_map(move |at| first.above(at));
        numbers.map(move |port| HostPort { protocol, port, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let claim = |holder, expires, namespace: Option<&str>, address: &str| Claim {
            key: ClaimKey {
                namespace: namespace.map(|name| name.parse().unwrap()),
                claim: "web-0".parse().unwrap(),
                name: "http".parse().unwrap(),
                protocol: Protocol::Tcp,
            },
            port: Port::new(65534).unwrap(),
            count: 2,
            address: address.parse().unwrap(),
            group: "default".parse().unwrap(),
            ttl: 60,
            holder,
            expires,
        };
        let holder = Attachment {
            network: "net".parse().unwrap(),
            container: "abc".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        };
        for claim in [
            claim(None, None, None, ""),
            claim(None, Some(u64::MAX), None, "::"),
            claim(Some(holder), None, Some("shop"), "192.0.2.1"),
        ] {
            let text = serde_json::to_string(&claim).unwrap();
            assert_eq!(serde_json::from_str::<Claim>(&text).unwrap(), claim, "{text}");
            assert_eq!(claim.ports().count(), 2);
        }
        assert_eq!(claim(None, None, Some("shop"), "").key.to_string(), "shop/web-0 (http/tcp)");
    }
}
