//! The nouns: what is asked for, held and forwarded. No I/O.
//!
//! Every type here can only hold what is valid: the strings have been checked
//! where they came in, so they are safe in paths, rules and messages.

mod address;
mod attachment;
mod backend;
mod claim;
mod excerpt;
mod foreign_chain;
mod group;
mod health;
mod module;
mod name;
mod port;
mod port_map;
mod protocol;
mod sandbox;

pub use address::{ContainerAddresses, HostAddress, ParseHostAddressError};
pub use attachment::{Attachment, Pod};
pub use backend::Backend;
pub use claim::{Claim, ClaimKey};
pub use excerpt::Excerpt;
pub use foreign_chain::{ForeignChain, ForeignFamily, ParseForeignChainError};
pub use group::{Group, NamespaceGlob, Strategy, admits};
pub use health::{HealthCheck, ParseHealthCheckError, Probe};
pub use module::{Endpoint, ModuleLease, Owner, ParseEndpointError};
pub use name::{
    ClaimName, ContainerId, GroupName, InterfaceName, ModuleId, Namespace, NetworkName,
    ParseNameError, PodName, PortName,
};
pub use port::{HostPort, ParsePortError, Port, PortSet};
pub use port_map::PortMap;
pub use protocol::{Protocol, Protocols};
pub use sandbox::Sandbox;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A host port that an attachment holds, and the container port it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// What is held on the host.
    #[serde(flatten)]
    pub host: HostPort,
    /// Where it leads to inside the container.
    pub container_port: Port,
    /// The name of the port, where it was asked for by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PortName>,
    /// The group that a dynamic port was taken from; none for a static port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The claim that it is kept under, in the namespace of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimName>,
    /// How the port rests once it is given back; none: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

impl Lease {
    /// The claim that it is kept under, when its container is in this namespace.
    #[must_use]
    pub fn claim_key(&self, namespace: Option<&Namespace>) -> Option<ClaimKey> {
        Some(ClaimKey {
            namespace: namespace.cloned(),
            claim: self.claim.clone()?,
            name: self.name.clone()?,
            protocol: self.host.protocol,
        })
    }
}

/// How a port rests once it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rest {
    /// For how many milliseconds it is given to nobody while others are free.
    pub cooldown: u64,
    /// Whether the time of its release is remembered for as long as the node runs
    /// ([`Strategy::LeastRecentlyUsed`]).
    pub is_remembered: bool,
}

/// When a port was given back. Times are since boot (`CLOCK_BOOTTIME`), in whole
/// milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// When that was.
    pub at: Duration,
    /// Until when it rests: given to nobody while others are free.
    pub rested: Duration,
    /// Whether a module gave it back: then it rests for containers only.
    pub by_module: bool,
}

/// All that one attachment holds, and what is needed to forward it: the record
/// that the store keeps and that kernel elements and published files are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forwarding {
    /// The owner.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The pod behind the attachment, where the runtime names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Where packets are sent to.
    pub container: ContainerAddresses,
    /// The host's link towards the container, where there is a route to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<InterfaceName>,
    /// The container's network namespace; none where it could not be looked up, or
    /// in what an earlier version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// How one finds out whether the container works; none: one does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// When the leases were taken, in seconds since the Unix epoch.
    pub since: u64,
    /// The leases, in the order in which they were asked for. Never empty.
    pub leases: Vec<Lease>,
}

impl Forwarding {
    /// The namespace of its pod, which its claims belong to.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.pod.as_ref().map(|pod| &pod.namespace)
    }
}
