//! Which ports are never given out dynamically, and which rule says so.

use crate::{
    cni::config::Settings,
    host::{self, HostError},
    lease::{Port, PortSet},
};

/// Kubernetes' default `--service-node-port-range`.
const NODE_PORTS: &str = "30000-32767";

/// A rule that keeps ports from being given out dynamically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExclusionRule {
    /// The key `exclude` of the configuration.
    Exclude,
    /// `net.ipv4.ip_local_reserved_ports` of the node.
    LocalReservedPorts,
    /// Where Kubernetes has the ports of its services.
    NodePort,
}

/// The ports that are never given out dynamically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion(Vec<(ExclusionRule, PortSet)>);

impl Exclusion {
    /// What the configuration says, and where it says nothing what the node does.
    pub fn read(settings: &Settings) -> Result<Self, HostError> {
        if let Some(exclude) = &settings.exclude {
            return Ok(Self::new([(ExclusionRule::Exclude, exclude.clone())]));
        }
        let node_ports = NODE_PORTS.parse().expect("the range is a set of ports");
        Ok(Self::new([
            (ExclusionRule::LocalReservedPorts, host::local_reserved_ports()?),
            (ExclusionRule::NodePort, node_ports),
        ]))
    }

    /// What these rules say.
    #[must_use]
    pub fn new<const N: usize>(rules: [(ExclusionRule, PortSet); N]) -> Self {
        Self(rules.into())
    }

    /// All ports that some rule names.
    #[must_use]
    pub fn ports(&self) -> PortSet {
        self.0.iter().fold(PortSet::default(), |all, (_, ports)| all.union(ports))
    }

    /// The first rule that names the port.
    #[must_use]
    pub fn rule(&self, port: Port) -> Option<ExclusionRule> {
        self.0.iter().find(|(_, ports)| ports.contains(port)).map(|(rule, _)| *rule)
    }
}
