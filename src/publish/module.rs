//! Files that tell a service of the host which ports it has.
//!
//! ```text
//! <runDir>/modules/<module>/ports.env, ports.json
//! ```
//!
//! `ports.env` is what systemd reads as `EnvironmentFile=`. Projections of the
//! store, like a container's; `/run` is empty after a boot.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{MODULES, Publication, PublishError, clear, env};
use crate::lease::{Lease, ModuleId, ModuleLease};

/// The content of `ports.json`: one entry per host port and protocol.
#[derive(Serialize)]
struct Document<'a> {
    module: &'a ModuleId,
    ports: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    protocol: &'static str,
    host_port: u16,
    group: &'a str,
    /// Where the port is forwarded to.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

/// Where the files of a module are.
#[must_use]
pub fn module_folder(run_dir: &Path, module: &ModuleId) -> PathBuf {
    run_dir.join(MODULES).join(module.as_str())
}

/// Makes the files of a module say that it holds these blocks, and no others:
/// without any, they are gone.
pub fn publish_module(
    run_dir: &Path,
    module: &ModuleId,
    held: &[ModuleLease],
) -> Result<(), PublishError> {
    if held.is_empty() {
        return clear(run_dir, &module_folder(run_dir, module));
    }
    Publication::of_module(run_dir, module, held).write(run_dir)
}

impl Publication {
    /// What is published of a module that holds these blocks.
    #[must_use]
    pub fn of_module(run_dir: &Path, module: &ModuleId, held: &[ModuleLease]) -> Self {
        let ports = in_order(held).into_iter().flat_map(entries).collect();
        let folder = module_folder(run_dir, module);
        Self::new(folder, module_env(held), &Document { module, ports })
    }
}

/// The text of `ports.env` of a module that holds these blocks. The first port is
/// that of the block that was taken first: more ports do not change it.
#[must_use]
pub fn module_env(held: &[ModuleLease]) -> String {
    let leases: Vec<Lease> = in_order(held).into_iter().flat_map(ModuleLease::leases).collect();
    env::render(&leases)
}

fn in_order(held: &[ModuleLease]) -> Vec<&ModuleLease> {
    let mut held: Vec<_> = held.iter().collect();
    held.sort_by_key(|lease| (lease.since, lease.port));
    held
}

fn entries(lease: &ModuleLease) -> impl Iterator<Item = Entry<'_>> {
    lease.leases().map(|port| Entry {
        name: lease.name.as_ref().map(crate::lease::ClaimName::as_str),
        protocol: lease.protocol.name(),
        host_port: port.host.port.number(),
        group: lease.group.as_str(),
        to: lease.to.map(|to| {
            std::net::SocketAddr::new(to.address(), port.container_port.number()).to_string()
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::lease::{Port, Protocol, Rest};

    fn block(protocol: Protocol, first: u16, count: u16, since: u64) -> ModuleLease {
        ModuleLease {
            module: "mail1".parse().unwrap(),
            name: None,
            protocol,
            port: Port::new(first).unwrap(),
            count,
            group: "default".parse().unwrap(),
            to: None,
            since,
            rest: Rest { cooldown: 0, is_remembered: false },
        }
    }

    #[test]
    fn the_files_say_what_a_module_holds_and_go_with_it() {
        let run_dir = tempfile::tempdir().unwrap();
        let module = "mail1".parse().unwrap();
        let mut held = vec![block(Protocol::Tcp, 20001, 2, 7), block(Protocol::Udp, 53, 1, 7)];
        held[0].to = Some("10.0.0.5:25".parse().unwrap());
        held[1].name = Some("dns".parse().unwrap());
        publish_module(run_dir.path(), &module, &held).unwrap();
        let folder = run_dir.path().join("modules/mail1");
        let env = fs::read_to_string(folder.join("ports.env")).unwrap();
        let tcp = "TCP_PORT=20001\nTCP_PORTS_RANGE=20001-20002\nTCP_PORTS=20001,20002\n";
        assert_eq!(env, format!("{tcp}UDP_PORT=53\nPORT_DNS=53\n"));
        let json = fs::read_to_string(folder.join("ports.json")).unwrap();
        let expected = serde_json::json!({"module": "mail1", "ports": [
            {"name": "dns", "protocol": "udp", "hostPort": 53, "group": "default"},
            {"protocol": "tcp", "hostPort": 20001, "group": "default", "to": "10.0.0.5:25"},
            {"protocol": "tcp", "hostPort": 20002, "group": "default", "to": "10.0.0.5:26"},
        ]});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected);
        publish_module(run_dir.path(), &module, &[]).unwrap();
        publish_module(run_dir.path(), &module, &[]).unwrap();
        assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
    }

    /// A service that was told its port listens there: more ports, which may be
    /// lower ones, must not tell it another.
    #[test]
    fn the_first_port_stays_the_first() {
        let held = [block(Protocol::Tcp, 20001, 1, 8), block(Protocol::Tcp, 20006, 2, 7)];
        assert_eq!(module_env(&held), "TCP_PORT=20006\nTCP_PORTS=20006,20007,20001\n");
    }
}
