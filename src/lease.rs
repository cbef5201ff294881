//! The nouns: what is asked for, held and forwarded. No I/O.
//!
//! Every type here can only hold what is valid: the strings have been checked
//! where they came in, so they are safe in paths, rules and messages.

mod address;
mod attachment;
mod port;

pub use address::{ContainerAddresses, HostAddress, ParseHostAddressError};
pub use attachment::{
    Attachment, ContainerId, InterfaceName, Namespace, NetworkName, ParseNameError, Pod, PodName,
};
pub use port::{HostPort, ParsePortError, Port, PortSet, Protocol};

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
    /// The group that a dynamic port was taken from; none for a static port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
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
    /// When the leases were taken, in seconds since the Unix epoch.
    pub since: u64,
    /// The leases, in the order in which they were asked for. Never empty.
    pub leases: Vec<Lease>,
}
