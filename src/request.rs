//! What a container asks for: what comes in from several sources becomes
//! validated requests. No I/O.
//!
//! ```text
//! portMappings → mapping ────────────┐
//! annotations  → annotation → list ──┼→ asks → policy → requests
//!                           ↘        │   (names)      (overlaps)
//! portClaims   ───────────→ document ┘
//! ```

mod annotation;
mod ask;
mod document;
#[cfg(test)]
mod hostile;
mod list;
mod mapping;
mod policy;
#[cfg(test)]
mod tests;
mod unserved;

use std::collections::HashMap;

use serde_json::value::RawValue;

pub use annotation::AnnotationError;
use annotation::HEALTH;
use ask::Ask;
pub use ask::{Place, Source};
pub use document::DocumentError;
pub use list::ListError;
pub use mapping::MappingError;
use policy::Policy;
pub use policy::{PolicyError, Tenant, Usable, namespace_quota};
pub use unserved::unserved;

use crate::{
    cni::{Config, ConfigError, config::Settings},
    lease::{
        ClaimName, ContainerAddresses, GroupName, HealthCheck, HostAddress, HostPort, Pod, Port,
        PortName, Protocol, Protocols, Strategy,
    },
};

/// Why what a container asks for is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `runtimeConfig.portMappings`.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The pod's annotations.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// `runtimeConfig.portClaims`.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Two ports have one name.
    #[error("{first} and {second} both have the name \"{name}\": a name belongs to one entry")]
    Name {
        /// The one entry.
        first: Place,
        /// The other.
        second: Place,
        /// The name.
        name: PortName,
    },
    /// Two entries ask for the same host port.
    #[error("{first} and {second} both ask for host port {host}")]
    Overlap {
        /// The one entry.
        first: Place,
        /// The other.
        second: Place,
        /// What the other asks for.
        host: HostPort,
    },
    /// The port that is to be checked is not asked for.
    #[error("{HEALTH} is {check:?}: {reason}", check = check.to_string())]
    Unchecked {
        /// The check.
        check: HealthCheck,
        /// What is the matter.
        reason: &'static str,
    },
    /// What is asked for is understood, and not allowed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Where a container's wishes are written, as they came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// `runtimeConfig.portMappings`.
    pub port_mappings: Option<&'a RawValue>,
    /// The pod's annotations.
    pub annotations: Option<&'a RawValue>,
    /// `runtimeConfig.portClaims`.
    pub port_claims: Option<&'a RawValue>,
}

impl<'a> Sources<'a> {
    /// What the runtime hands on.
    pub fn read(config: &'a Config) -> Result<Self, ConfigError> {
        Ok(Self {
            port_mappings: config.runtime_config("portMappings")?,
            annotations: config.runtime_config(annotation::CAPABILITY)?,
            port_claims: config.runtime_config("portClaims")?,
        })
    }
}

/// What a container asks for and may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Port mappings first, then annotations, then port claims, each in the order in
    /// which they are written. Names are not there twice, and no two ask for one host
    /// port by number.
    pub requests: Vec<Request>,
    /// The check of one of them.
    pub health: Option<HealthCheck>,
}

/// Reads what a container asks for. `pod` is the container's, where it is in one.
pub fn asked(
    sources: &Sources<'_>,
    settings: &Settings,
    pod: Option<&Pod>,
) -> Result<Asked, RequestError> {
    let (mut asks, mut health) = (Vec::new(), None);
    if let Some(raw) = sources.port_mappings {
        asks.extend(mapping::parse(raw)?);
    }
    if let Some(raw) = sources.annotations {
        let annotations = annotation::parse(raw, pod)?;
        asks.extend(annotations.asks);
        health = annotations.health;
    }
    if let Some(raw) = sources.port_claims {
        asks.extend(document::parse(raw.get(), Source::PortClaims, pod)?);
    }
    refuse_shared_names(&asks)?;
    let requests = Policy::new(settings, pod).requests(&asks)?;
    refuse_overlaps(&asks, &requests)?;
    if let Some(check) = &health {
        refuse_unchecked(check, &requests)?;
    }
    Ok(Asked { requests, health })
}

/// A check is of a TCP port that is asked for.
fn refuse_unchecked(check: &HealthCheck, requests: &[Request]) -> Result<(), RequestError> {
    let is_tcp = |request: &Request| request.protocols.contains(Protocol::Tcp);
    let reason = match &check.port {
        None if requests.iter().any(is_tcp) => return Ok(()),
        None => "no TCP port is asked for",
        Some(name) => match requests.iter().find(|request| request.name.as_ref() == Some(name)) {
            Some(request) if is_tcp(request) => return Ok(()),
            Some(_) => "the port of this name is not a TCP port",
            None => "no port of this name is asked for",
        },
    };
    Err(RequestError::Unchecked { check: check.clone(), reason })
}

fn refuse_shared_names(asks: &[Ask]) -> Result<(), RequestError> {
    let mut places = HashMap::new();
    for ask in asks {
        let Some(name) = &ask.name else { continue };
        if let Some(first) = places.insert(name, ask.place) {
            return Err(RequestError::Name { first, second: ask.place, name: name.clone() });
        }
    }
    Ok(())
}

/// `requests` are those of `asks`, one for each, so few as policy allows.
fn refuse_overlaps(asks: &[Ask], requests: &[Request]) -> Result<(), RequestError> {
    let mut taken: HashMap<(Protocol, Port), Vec<(HostPort, Place)>> = HashMap::new();
    for (ask, request) in asks.iter().zip(requests) {
        for host in request.static_ports() {
            let others = taken.entry((host.protocol, host.port)).or_default();
            if let Some((_, first)) = others.iter().find(|(other, _)| other.conflicts_with(&host)) {
                return Err(RequestError::Overlap { first: *first, second: ask.place, host });
            }
            others.push((host, ask.place));
        }
    }
    Ok(())
}

/// The ports that a container asks for under one name: one, or a block of
/// neighbours, of one protocol or of several under the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it is called; no two requests of a container share a name.
    pub name: Option<PortName>,
    /// Where the ports lead to inside the container.
    pub container: ContainerPort,
    /// The transport protocols. Never empty; each port is held for all of them.
    pub protocols: Protocols,
    /// The host's addresses on which the ports are to be held.
    pub address: HostAddress,
    /// How many neighbouring ports; at least 1.
    pub count: u16,
    /// Which host ports.
    pub choice: Choice,
}

/// Where the ports of a request lead to inside the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerPort {
    /// To this port, the second of a block to the one above, and so on; all of
    /// them exist.
    Number(Port),
    /// To the number of the host port.
    Same,
}

/// How the host ports of a request are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Static: this one, and those above it for a block; all of them exist.
    Static(Port),
    /// Dynamic: from a group.
    Dynamic(Dynamic),
}

/// How a dynamic request is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// The group that the ports are taken from.
    pub group: GroupName,
    /// How they are chosen.
    pub strategy: Strategy,
    /// No port below this one is taken, unless a claim reserves it already.
    pub from: Option<Port>,
    /// The port to take if it is free, the lowest of a block; it is one of the
    /// group's. A claim that reserves another one comes first.
    pub preferred: Option<Port>,
    /// The claim to keep the ports under. The request has a name then.
    pub claim: Option<ClaimName>,
}

impl Request {
    /// What the request holds on the host when it gets `first`, in the order of
    /// port and protocol, each with the port that it leads to; none where there
    /// are not so many ports above it.
    #[must_use]
    pub fn on(&self, first: Port) -> Option<Vec<(HostPort, Port)>> {
        let mut held = Vec::with_capacity(usize::from(self.count) * self.protocols.len() as usize);
        for at in 0..self.count {
            let port = first.above(at)?;
            let container = match self.container {
                ContainerPort::Number(number) => number.above(at)?,
                ContainerPort::Same => port,
            };
            let address = self.address;
            held.extend(
                self.protocols
                    .iter()
                    .map(|protocol| (HostPort { protocol, port, address }, container)),
            );
        }
        Some(held)
    }

    /// What a static request holds; nothing for a dynamic one.
    #[must_use]
    pub fn static_ports(&self) -> Vec<HostPort> {
        match self.choice {
            Choice::Static(first) => {
                let held = self.on(first).expect("the ports of a static request exist");
                held.into_iter().map(|(host, _)| host).collect()
            }
            Choice::Dynamic(_) => Vec::new(),
        }
    }

    /// How many leases it becomes: each protocol of each port counts.
    #[must_use]
    pub fn leases(&self) -> u32 {
        u32::from(self.count) * self.protocols.len()
    }

    /// Whether the container has an address of a family that is asked for.
    #[must_use]
    pub fn reaches(&self, container: &ContainerAddresses) -> bool {
        (self.address.has_v4() && container.v4.is_some())
            || (self.address.has_v6() && container.v6.is_some())
    }
}
