//! What a container asks for: port mappings become validated requests. No I/O.

mod mapping;

pub use mapping::{MappingError, parse_port_mappings};

use crate::lease::{ContainerAddresses, HostAddress, HostPort, Port, Protocol};

/// One port that a container asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The port inside the container.
    pub container_port: Port,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The host's addresses on which the port is to be held.
    pub address: HostAddress,
    /// This host port (static), or one from a group (dynamic).
    pub host_port: Option<Port>,
}

impl Request {
    /// What a static request holds; none for a dynamic one.
    #[must_use]
    pub fn static_port(&self) -> Option<HostPort> {
        self.host_port.map(|port| self.on(port))
    }

    /// What the request holds when it gets `port`.
    #[must_use]
    pub fn on(&self, port: Port) -> HostPort {
        HostPort { protocol: self.protocol, port, address: self.address }
    }

    /// Whether the container has an address of a family that is asked for.
    #[must_use]
    pub fn reaches(&self, container: &ContainerAddresses) -> bool {
        (self.address.has_v4() && container.v4.is_some())
            || (self.address.has_v6() && container.v6.is_some())
    }
}
