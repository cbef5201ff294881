//! Who holds leases: an attachment, and the pod it belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ContainerId, InterfaceName, Namespace, NetworkName, PodName};

/// One attachment of one container to one network: the key of everything that
/// DEL removes (CNI SPEC, section 2, "attachment"). Shown as `3f2a…/eth0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    pub network: NetworkName,
    /// The container.
    #[serde(rename = "containerID")]
    pub container: ContainerId,
    /// The interface inside the container.
    #[serde(rename = "ifname")]
    pub interface: InterfaceName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        match self.container.as_str().get(..SHOWN) {
            Some(start) if start.len() < self.container.as_str().len() => write!(f, "{start}…")?,
            _ => self.container.fmt(f)?,
        }
        write!(f, "/{}", self.interface)
    }
}

/// The Kubernetes pod that a container belongs to. Shown as `default/web-0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE` of `CNI_ARGS`.
    pub namespace: Namespace,
    /// `K8S_POD_NAME` of `CNI_ARGS`.
    #[serde(rename = "pod")]
    pub name: PodName,
    /// `K8S_POD_UID` of `CNI_ARGS`; runtimes before containerd 1.6 do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_container_ids_are_shown_short() {
        let attachment = |container: &str| Attachment {
            network: "n".parse().unwrap(),
            container: container.parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        };
        assert_eq!(attachment(&"ab".repeat(32)).to_string(), "abababababab…/eth0");
        assert_eq!(attachment("abababababab").to_string(), "abababababab/eth0");
    }
}
