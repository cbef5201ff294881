//! The network namespace of a container, as it was when its leases were taken.

use serde::{Deserialize, Serialize};

/// A network namespace and where the plugin found it: enough to tell later, with
/// no runtime to ask, whether it is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// `CNI_NETNS`, an absolute path.
    #[serde(rename = "netns")]
    pub path: String,
    /// The device of the namespace (`st_dev`): the same for all until the next boot.
    pub device: u64,
    /// The number of the namespace (`st_ino`). The kernel gives it again once the
    /// namespace is gone.
    pub inode: u64,
    /// The number of the PID namespace that the plugin ran in: what it saw of
    /// `/proc`, only a process in there sees.
    pub pid_namespace: u64,
}
