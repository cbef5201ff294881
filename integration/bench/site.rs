//! A node for one plugin, with a client before it and containers behind it.
//!
//! ```text
//! client ──eth0── up0 ── host ── cni0 ──eth0── containers
//! 192.0.2.2   192.0.2.1                169.254.0.2, and behind it 10.88.0.0/16
//! ```
//!
//! All containers exist on paper, but their addresses lead to one namespace,
//! which counts UDP packets and drops them: a server would cost more than what
//! is to be measured. Containers have IPv4 addresses only: portmap does everything
//! twice for a container with both.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    namespace::Namespace,
    plugin::{Call, Mapping, Plugin, STORE_FOLDER},
    portmap,
};

/// The host's address that the client knows.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Existing mappings have the host ports from here on.
pub const FIRST_PORT: u16 = 20_000;

/// A container on paper.
#[derive(Clone, Copy, Debug)]
pub struct Container(pub u16);

impl Container {
    /// As long as those of runtimes.
    pub fn id(self) -> String {
        format!("{:064x}", self.0)
    }

    /// `CNI_ARGS`, as Kubernetes' runtimes write them.
    pub fn args(self) -> String {
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{}", self.0)
    }

    /// Its address.
    pub fn v4(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, 88, high, low)
    }

    /// The result of the plugin that gave it its address.
    pub fn result(self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/on-paper" }],
            "ips": [{ "address": format!("{}/16", self.v4()), "interface": 0 }],
        })
    }
}

/// A node; everything of it goes when it is dropped.
pub struct Site {
    /// The plugin that is at work here.
    pub plugin: Plugin,
    /// Where the plugin runs.
    pub host: Namespace,
    /// Where packets come from.
    pub client: Namespace,
    /// Where the addresses of all containers are.
    pub containers: Namespace,
    data: TempDir,
    run: TempDir,
}

impl Site {
    /// A node on which nothing was ever added.
    pub fn new(plugin: Plugin) -> Self {
        let host = Namespace::new("host");
        let client = Namespace::new("client");
        let containers = Namespace::new("containers");
        host.ip(&format!(
            "link add up0 type veth peer name eth0 netns {}\n\
             link add cni0 type veth peer name eth0 netns {}\n\
             address add {ADDRESS}/24 dev up0\n\
             address add 169.254.0.1/30 dev cni0\n\
             link set up0 up\n\
             link set cni0 up\n\
             route add 10.88.0.0/16 via 169.254.0.2 dev cni0",
            client.name(),
            containers.name(),
        ));
        client.ip(&format!(
            "address add 192.0.2.2/24 dev eth0\n\
             link set eth0 up\n\
             route add default via {ADDRESS}"
        ));
        containers.ip("address add 169.254.0.2/30 dev eth0\n\
             link set eth0 up\n\
             route add local 10.88.0.0/16 dev lo\n\
             route add default via 169.254.0.1");
        containers.nft(
            "table netdev sink {
                counter arrived { }
                chain ingress {
                    type filter hook ingress device eth0 priority 0
                    ip protocol udp counter name arrived drop
                }
            }",
        );
        host.sysctl("ipv4/ip_forward", "1");
        host.sysctl("ipv4/conf/all/rp_filter", "0");
        let data = tempfile::tempdir_in(STORE_FOLDER).expect("the target folder is writable");
        let run = tempfile::tempdir().expect("there is a temporary folder");
        Self { plugin, host, client, containers, data, run }
    }

    /// The plugin's database.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("portclaim")
    }

    /// The plugin's published files.
    pub fn run_dir(&self) -> PathBuf {
        self.run.path().join("portclaim")
    }

    /// Runs a call here; returns how long it took.
    pub fn run(&self, call: Call) -> Duration {
        self.host.enter(|| call.run())
    }

    /// Adds containers with one mapping each: those numbered from `from` up to,
    /// and without, `to`.
    pub fn grow(&self, from: u16, to: u16, mapping: impl Fn(u16) -> Mapping) {
        let new: Vec<_> = (from..to).map(|n| (Container(n), mapping(FIRST_PORT + n))).collect();
        match self.plugin {
            Plugin::Portmap => portmap::prefill(self, &new),
            Plugin::Portclaim => self.host.enter(|| {
                for (container, mapping) in &new {
                    Call::new("ADD", self, *container, &[*mapping]).run();
                }
            }),
        }
    }

    /// How many UDP packets reached the containers since this was last asked.
    pub fn arrived(&self) -> u64 {
        let text = self.containers.nft("reset counter netdev sink arrived");
        let packets = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        packets.and_then(|number| number.parse().ok()).expect("nft prints the counter")
    }
}
