//! The host around the ports: who listens, which process that is, which link leads
//! where, what the kernel has been set to, and the flows that it remembers.
//!
//! Effects in the network namespace of the process, which is the node's. Each is
//! one question or one small change; what it means is decided in `command`.

mod conntrack;
mod disk;
mod listener;
mod namespace;
mod plugin;
mod process;
mod route;
mod socket;
mod sysctl;

pub use conntrack::Flows;
pub use disk::{free_space, is_in_memory};
pub use listener::{is_in_use, is_listening};
pub use namespace::{Namespaces, Presence, sandbox};
pub use plugin::delegate;
pub use process::{Process, is_root, lock_holders, processes, processes_named};
pub use route::link_to;
pub use socket::{Socket, sockets};
pub use sysctl::{
    boot_id, enable_route_localnet, ephemeral_ports, forget_route_localnet, has_route_localnet,
    legacy_tables, links_with_route_localnet, local_reserved_ports, setting,
};

use std::{io, net::IpAddr, path::PathBuf};

use crate::lease::{HostPort, ParsePortError};

/// The host could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What should stand in it.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file does not list ports.
    #[error("{} does not list ports", path.display())]
    Ports {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParsePortError,
    },
    /// Whether a process listens could not be tried.
    #[error("cannot find out whether a process listens on {port}")]
    Listener {
        /// The port.
        port: HostPort,
        /// Why.
        source: io::Error,
    },
    /// The route to an address could not be asked for.
    #[error("cannot look up the route to {address}")]
    Route {
        /// The address.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// Another plugin did not do what it was asked to do.
    #[error("plugin {} has failed", path.display())]
    Plugin {
        /// The plugin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The flows to a port could not be listed or forgotten.
    #[error("cannot forget the flows to {port}")]
    Conntrack {
        /// The port.
        port: HostPort,
        /// Why.
        source: io::Error,
    },
}
