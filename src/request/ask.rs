//! Asks: what is written of the ports that a container asks for, in whatever
//! form it was written, before any policy. What a part of them may be stands
//! here where several forms share it.

use std::{fmt, net::Ipv6Addr};

use super::ContainerPort;
use crate::lease::{
    ClaimName, GroupName, HostAddress, Pod, Port, PortName, Protocol, Protocols, Strategy,
};

/// The ports that are asked for in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) place: Place,
    pub(super) name: Option<PortName>,
    pub(super) container: ContainerPort,
    /// Never empty.
    pub(super) protocols: Protocols,
    pub(super) address: HostAddress,
    /// At least 1. So many ports exist from the container's and the host's on.
    pub(super) count: u16,
    pub(super) wish: Wish,
}

/// Which host ports are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// This one, and those above it.
    Static(Port),
    /// Any that fit.
    Dynamic(Fit),
}

/// What is said of a host port that is asked for without its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) group: Option<GroupName>,
    pub(super) strategy: Option<Strategy>,
    /// None below this one.
    pub(super) base: Option<Port>,
    /// Never below `base`.
    pub(super) preferred: Option<Port>,
    /// Only where there is a name.
    pub(super) claim: Option<ClaimName>,
}

impl Ask {
    /// Each protocol of each port counts.
    pub(super) fn leases(&self) -> u64 {
        u64::from(self.count) * u64::from(self.protocols.len())
    }
}

/// Where ports can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `runtimeConfig.portMappings`.
    PortMappings,
    /// The annotation `hostport.io/ports`.
    Annotations,
    /// `runtimeConfig.portClaims`.
    PortClaims,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortMappings => "runtimeConfig.portMappings",
            Self::Annotations => "hostport.io/ports",
            Self::PortClaims => "runtimeConfig.portClaims",
        })
    }
}

/// One entry of what is asked for. Shown as `runtimeConfig.portMappings[0]` or
/// `hostport.io/ports, entry 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub source: Source,
    /// Its position there, from 0.
    pub index: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::PortMappings => write!(f, "{}[{}]", self.source, self.index),
            Source::Annotations | Source::PortClaims => {
                write!(f, "{}, entry {}", self.source, self.index + 1)
            }
        }
    }
}

/// Where a part of a text begins: the character, counted from 1.
///
/// `part` is a slice of `text`.
pub(super) fn character(text: &str, part: &str) -> usize {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    text[..start].chars().count() + 1
}

/// A port in digits.
pub(super) fn port(text: &str) -> Option<Port> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).and_then(Port::new)
}

/// One protocol, or `tcp+udp`, in any case.
pub(super) fn protocols(text: &str) -> Option<Protocols> {
    if text.eq_ignore_ascii_case("tcp+udp") {
        return Some(Protocols::TCP_AND_UDP);
    }
    Protocol::from_name(text).map(Protocols::from)
}

pub(super) const CONTAINER_PORTS: &str = "a number from 1 to 65535 is allowed";
pub(super) const ADDRESSES: &str = "an address of the host, or nothing for all of them, is allowed";

/// `hostIP`: an address that packets to the host can have, empty for all of them.
/// The error says what is allowed.
pub(super) fn host_address(text: &str) -> Result<HostAddress, &'static str> {
    match text.parse() {
        // The kernel drops the replies; there is no route_localnet for IPv6.
        Ok(HostAddress::V6(Ipv6Addr::LOCALHOST)) => {
            Err("of loopback addresses, those of IPv4 are allowed")
        }
        Ok(HostAddress::V4(group)) if group.is_multicast() || group.is_broadcast() => {
            Err(ADDRESSES)
        }
        Ok(HostAddress::V6(group)) if group.is_multicast() => Err(ADDRESSES),
        parsed => parsed.map_err(|_| ADDRESSES),
    }
}

/// A claim's name, in which `$(POD_NAME)` and `$(POD_NAMESPACE)` stand for those
/// of the pod, as in the variables of a container in Kubernetes: the pods of a
/// `StatefulSet` share one template, and each needs a claim of its own. The error
/// says what is allowed.
pub(super) fn claim_name(text: &str, pod: Option<&Pod>) -> Result<ClaimName, &'static str> {
    const NAME: &str = "$(POD_NAME)";
    const NAMESPACE: &str = "$(POD_NAMESPACE)";
    let parse = |name: &str| {
        name.parse().map_err(|_| {
            "a DNS subdomain of at most 253 characters is allowed, in which $(POD_NAME) and \
             $(POD_NAMESPACE) stand for those of the pod"
        })
    };
    if !text.contains(NAME) && !text.contains(NAMESPACE) {
        return parse(text);
    }
    let pod = pod.ok_or("without a pod, neither $(POD_NAME) nor $(POD_NAMESPACE) is allowed")?;
    parse(&text.replace(NAME, pod.name.as_str()).replace(NAMESPACE, pod.namespace.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_can_be_those_of_the_pod() {
        let pod = Pod {
            namespace: "shop".parse().unwrap(),
            name: "web-0.node".parse().unwrap(),
            uid: None,
        };
        for (text, expected) in [
            ("web", Some("web")),
            ("$(POD_NAME)", Some("web-0.node")),
            ("x-$(POD_NAMESPACE).$(POD_NAME)", Some("x-shop.web-0.node")),
            ("$(POD_NAME)$(POD_NAME)", Some("web-0.nodeweb-0.node")),
            ("$$(POD_NAME)", None),
            ("$(POD_IP)", None),
            ("", None),
            ("a/b", None),
        ] {
            let name = claim_name(text, Some(&pod)).ok();
            assert_eq!(name.as_ref().map(ClaimName::as_str), expected, "{text}");
        }
        assert!(claim_name("web", None).is_ok() && claim_name("$(POD_NAME)", None).is_err());
        assert!(claim_name(&"$(POD_NAME)".repeat(20_000), Some(&pod)).is_err());
    }

    #[test]
    fn places_are_counted_in_characters() {
        let text = "äöü=80";
        assert_eq!(character(text, &text["äöü=".len()..]), 5);
        assert_eq!((character(text, text), character(text, &text[text.len()..])), (1, 7));
    }

    #[test]
    fn ports_are_digits() {
        for (text, number) in [
            ("1", Some(1)),
            ("080", Some(80)),
            ("65535", Some(65535)),
            ("65536", None),
            ("0", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1.0", None),
            ("٣", None),
            (" 1", None),
        ] {
            assert_eq!(port(text).map(Port::number), number, "{text:?}");
        }
    }
}
