//! What one owner holds: a container, or a service of the host.

use std::{fmt, net::IpAddr};

use portclaim::lease::{
    Attachment, ClaimName, Forwarding, InterfaceName, Lease, ModuleLease, Namespace, Pod,
};

/// All that a container holds on one network, or one block of a module.
#[derive(Clone, Debug, PartialEq)]
pub enum Holding {
    Container(Forwarding),
    Module(Block),
}

/// A block of ports that a module holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub lease: ModuleLease,
    /// Each of its ports.
    leases: Vec<Lease>,
}

impl From<Forwarding> for Holding {
    fn from(forwarding: Forwarding) -> Self {
        Self::Container(forwarding)
    }
}

impl From<ModuleLease> for Holding {
    fn from(lease: ModuleLease) -> Self {
        let leases = lease.leases().collect();
        Self::Module(Block { lease, leases })
    }
}

impl Holding {
    /// Each port that is held.
    pub fn leases(&self) -> &[Lease] {
        match self {
            Self::Container(forwarding) => &forwarding.leases,
            Self::Module(block) => &block.leases,
        }
    }

    /// The container's attachment.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.forwarding().map(|forwarding| &forwarding.attachment)
    }

    /// The container's pod.
    pub fn pod(&self) -> Option<&Pod> {
        self.forwarding().and_then(|forwarding| forwarding.pod.as_ref())
    }

    /// The namespace of the container's pod.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.pod().map(|pod| &pod.namespace)
    }

    /// The host's link towards the container.
    pub fn link(&self) -> Option<&InterfaceName> {
        self.forwarding().and_then(|forwarding| forwarding.link.as_ref())
    }

    /// The module.
    pub fn module(&self) -> Option<&str> {
        match self {
            Self::Container(_) => None,
            Self::Module(block) => Some(block.lease.module.as_str()),
        }
    }

    /// The name of the module's claim that all of it is for.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Container(_) => None,
            Self::Module(block) => block.lease.name.as_ref().map(ClaimName::as_str),
        }
    }

    /// Where packets to the ports are sent on to; nowhere, where a module listens
    /// itself.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Container(forwarding) => forwarding.container.iter().collect(),
            Self::Module(block) => block.lease.to.iter().map(|to| to.address()).collect(),
        }
    }

    /// Since when, in seconds since the Unix epoch.
    pub fn since(&self) -> u64 {
        match self {
            Self::Container(forwarding) => forwarding.since,
            Self::Module(block) => block.lease.since,
        }
    }

    fn forwarding(&self) -> Option<&Forwarding> {
        match self {
            Self::Container(forwarding) => Some(forwarding),
            Self::Module(_) => None,
        }
    }
}

/// Who it is to people: the module, or the pod, or the attachment where there is none.
impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(block) => write!(f, "module {}", block.lease.module),
            Self::Container(Forwarding { pod: Some(pod), .. }) => pod.fmt(f),
            Self::Container(forwarding) => forwarding.attachment.fmt(f),
        }
    }
}
