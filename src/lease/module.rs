//! Modules: services of the host itself that hold ports, and who holds a port at
//! all.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{
    Attachment, ClaimName, ContainerAddresses, Excerpt, Forwarding, GroupName, HostAddress,
    HostPort, Lease, ModuleId, NetworkName, Port, Protocol, Rest,
};

/// Who holds a port. Shown as `3f2a…/eth0` or `module mail1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A container, by one of its attachments.
    Attachment(Attachment),
    /// A service of the host.
    Module(ModuleId),
}

impl From<Attachment> for Owner {
    fn from(attachment: Attachment) -> Self {
        Self::Attachment(attachment)
    }
}

impl Owner {
    /// Whose forwarding it is: a module's are those of the network of modules.
    #[must_use]
    pub fn of(forwarding: &Forwarding) -> Self {
        let attachment = &forwarding.attachment;
        let module = attachment.container.as_str().parse().ok();
        match module.filter(|_| attachment.network == NetworkName::modules()) {
            Some(module) => Self::Module(module),
            None => Self::Attachment(attachment.clone()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment(attachment) => attachment.fmt(f),
            Self::Module(module) => write!(f, "module {module}"),
        }
    }
}

/// Where the ports of a module are forwarded to: the first of a block to this
/// port, the second to the one above, and so on. Shown as `10.0.0.5:8080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// An address that packets can be sent on to: of one host, and neither of its
    /// loopback nor of a link.
    address: IpAddr,
    /// The port there.
    port: Port,
}

/// The text says nothing that packets can be sent on to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an address and port to forward to, like 10.0.0.5:8080 or [fd00::5]:8080")]
pub struct ParseEndpointError(Excerpt);

impl Endpoint {
    /// The address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The port that the first of a block leads to.
    #[must_use]
    pub fn port(self) -> Port {
        self.port
    }
}

/// Whether packets that came in by some link can be sent on to the address.
fn is_reachable(address: IpAddr) -> bool {
    let is_of_a_link = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == Ipv6Addr::UNSPECIFIED,
    };
    !(is_of_a_link || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let wrong = || ParseEndpointError(Excerpt::quoted(text));
        let socket: SocketAddr = text.parse().map_err(|_| wrong())?;
        let is_scoped = matches!(socket, SocketAddr::V6(v6) if v6.scope_id() != 0);
        let address = socket.ip().to_canonical();
        match Port::new(socket.port()) {
            Some(port) if is_reachable(address) && !is_scoped => Ok(Self { address, port }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = ParseEndpointError;

    fn try_from(text: String) -> Result<Self, ParseEndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(target: Endpoint) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port.number()).fmt(f)
    }
}

/// A block of neighbouring host ports that a module holds, on every address of the
/// host and until they are given back: also over a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleLease {
    /// The owner.
    pub module: ModuleId,
    /// What the module calls it, where it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ClaimName>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The lowest port.
    #[serde(rename = "hostPort")]
    pub port: Port,
    /// How many ports, from that one on upwards; at least 1.
    pub count: u16,
    /// The group that they were taken from.
    pub group: GroupName,
    /// Where they are forwarded to; none: the module listens on them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Endpoint>,
    /// When they were taken, in seconds since the Unix epoch. Of the blocks that a
    /// module holds, no later one has an earlier time.
    pub since: u64,
    /// How the ports rest once they are given back.
    pub rest: Rest,
}

/// Shown as `20001-20004/tcp of mail1`.
impl fmt::Display for ModuleLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        if self.count > 1 {
            write!(f, "-{}", self.last())?;
        }
        write!(f, "/{} of {}", self.protocol, self.module)
    }
}

impl ModuleLease {
    /// Every port of the block, lowest first.
    pub fn ports(&self) -> impl Iterator<Item = HostPort> + use<> {
        let (first, protocol) = (self.port, self.protocol);
        let numbers = (0..self.count).filter_map(move |at| first.above(at));
        numbers.map(move |port| HostPort { protocol, port, address: HostAddress::Any })
    }

    /// The highest port of the block.
    #[must_use]
    pub fn last(&self) -> Port {
        self.port.above(self.count.saturating_sub(1)).expect("a block ends at 65535 at most")
    }

    /// Each port as a lease that leads to itself, or to where it is forwarded.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + use<'_> {
        let lowest = self.to.map_or(self.port, Endpoint::port);
        self.ports().zip(0..).map(move |(host, at)| Lease {
            host,
            container_port: lowest.above(at).expect("a block leads to ports that there are"),
            // A name with dots in it makes no variable.
            name: self.name.as_ref().and_then(|name| name.as_str().parse().ok()),
            group: Some(self.group.clone()),
            claim: self.name.clone(),
            rest: Some(self.rest),
        })
    }

    /// What is forwarded, in the network of modules ([`NetworkName::modules`]),
    /// without the host's link towards the target. None where nothing is.
    #[must_use]
    pub fn forwarding(&self) -> Option<Forwarding> {
        let to = self.to?;
        let interface = format!("{}-{}", self.protocol, self.port);
        let attachment = Attachment {
            network: NetworkName::modules(),
            container: self.module.as_str().parse().expect("a module's name is a container's ID"),
            interface: interface.parse().expect("a protocol and a port name an interface"),
        };
        let container = match to.address() {
            IpAddr::V4(v4) => ContainerAddresses { v4: Some(v4), v6: None },
            IpAddr::V6(v6) => ContainerAddresses { v4: None, v6: Some(v6) },
        };
        let leases = self.leases().collect();
        let (pod, link, sandbox, health, since) = (None, None, None, None, self.since);
        Some(Forwarding { attachment, pod, container, link, sandbox, health, since, leases })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(to: Option<&str>) -> ModuleLease {
        ModuleLease {
            module: "mail1".parse().unwrap(),
            name: Some("smtp".parse().unwrap()),
            protocol: Protocol::Tcp,
            port: Port::new(65534).unwrap(),
            count: 2,
            group: "default".parse().unwrap(),
            to: to.map(|to| to.parse().unwrap()),
            since: 1,
            rest: Rest { cooldown: 60_000, is_remembered: false },
        }
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        for to in [None, Some("10.0.0.5:25"), Some("[fd00::5]:25")] {
            let lease = lease(to);
            let text = serde_json::to_string(&lease).unwrap();
            assert_eq!(serde_json::from_str::<ModuleLease>(&text).unwrap(), lease, "{text}");
            assert_eq!((lease.ports().count(), lease.last().number()), (2, 65535));
            assert_eq!(lease.to_string(), "65534-65535/tcp of mail1");
        }
    }

    #[test]
    fn a_block_is_forwarded_port_by_port() {
        assert_eq!(lease(None).forwarding(), None);
        let forwarding = lease(Some("10.0.0.5:25")).forwarding().unwrap();
        let ports = forwarding.leases.iter().map(|it| (it.host.to_string(), it.container_port));
        let ports: Vec<_> = ports.map(|(host, to)| (host, to.number())).collect();
        assert_eq!(ports, [("65534/tcp".to_owned(), 25), ("65535/tcp".to_owned(), 26)]);
        assert_eq!(forwarding.attachment.to_string(), "mail1/tcp-65534");
        assert_eq!(Owner::of(&forwarding).to_string(), "module mail1");
        // No configuration can have a network of that name.
        assert!(forwarding.attachment.network.as_str().parse::<NetworkName>().is_err());
    }

    #[test]
    fn packets_are_forwarded_to_hosts_only() {
        for right in ["10.0.0.5:1", "[2001:db8::1]:65535"] {
            assert_eq!(right.parse::<Endpoint>().unwrap().to_string(), right);
        }
        let mapped: Endpoint = "[::ffff:10.0.0.5]:25".parse().unwrap();
        assert_eq!(mapped.to_string(), "10.0.0.5:25");
        for wrong in [
            "",
            "10.0.0.5",
            "10.0.0.5:0",
            "10.0.0.5:65536",
            "fd00::5:25",
            "mail:25",
            "0.0.0.0:25",
            "[::]:25",
            "127.0.0.1:25",
            "[::1]:25",
            "224.0.0.1:25",
            "[ff02::1]:25",
            "169.254.1.1:25",
            "[fe80::1]:25",
            "[fe80::1%2]:25",
            "255.255.255.255:25",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
