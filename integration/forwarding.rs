//! What must work: protocol × family × source × chain, with `br_netfilter` on and off.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::json;

use crate::{
    chain::{Container, Network},
    namespace::Namespace,
    node::{Family, Node},
    traffic::{Answer, Echo, PATIENCE, ask, serve},
};

const HOST_PORT: u16 = 8080;
const CONTAINER_PORT: u16 = 80;

/// Where a client of the host port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A neighbour of the node; the container must see its address.
    Outside,
    /// The host itself, to its own address.
    Host,
    /// The host itself, to 127.0.0.1.
    Loopback,
    /// The container itself, to the host's address.
    Hairpin,
    /// Another container of the network, to the host's address.
    Sibling,
}

impl Source {
    const ALL: [Self; 5] =
        [Self::Outside, Self::Host, Self::Loopback, Self::Hairpin, Self::Sibling];

    fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Host => "host",
            Self::Loopback => "loopback",
            Self::Hairpin => "hairpin",
            Self::Sibling => "sibling",
        }
    }
}

/// A node with two containers, one of which serves.
struct Stage {
    _servers: [[Echo; 3]; 2],
    web: Container,
    sibling: Container,
    node: Node,
}

impl Stage {
    fn new(network: &Network, br_netfilter: bool) -> Self {
        let node = Node::new(br_netfilter);
        let mut web = Container::new("web");
        let mut sibling = Container::new("sibling");
        let mappings = Protocol::ALL.map(|protocol| {
            json!({ "hostPort": HOST_PORT, "containerPort": CONTAINER_PORT,
                    "protocol": protocol.name() })
        });
        network.attach(&node, &mut web, json!(mappings)).succeeded();
        network.attach(&node, &mut sibling, json!([])).succeeded();
        let servers = [&web, &sibling]
            .map(|container| serve(container.namespace(), CONTAINER_PORT, &container.id));
        Self { _servers: servers, web, sibling, node }
    }

    fn client(&self, source: Source) -> &Namespace {
        match source {
            Source::Outside => &self.node.outside,
            Source::Host | Source::Loopback => &self.node.host,
            Source::Hairpin => self.web.namespace(),
            Source::Sibling => self.sibling.namespace(),
        }
    }

    fn assert_reachable(&self, protocol: Protocol, family: Family, source: Source) {
        let host: IpAddr = match source {
            Source::Loopback => Ipv4Addr::LOCALHOST.into(),
            _ => family.node(),
        };
        let server = (host, HOST_PORT).into();
        let answer = ask(self.client(source), protocol, server, PATIENCE);
        let Answer { server, client } = answer.expect("an answer");
        assert_eq!(server, "web");
        if source == Source::Outside {
            assert_eq!(client, family.outside(), "the client's address as the container sees it");
        }
    }
}

/// One trial for each case; those of one node share it, for they only send.
pub fn trials() -> Vec<Trial> {
    let networks = [
        ("bridge", Network::bridge("podnet", true)),
        (
            "masquerading-bridge",
            Network::bridge("podnet", true).first_option("ipMasq", json!(true)),
        ),
        ("ptp", Network::ptp("podnet")),
    ];
    let mut trials = Vec::new();
    for (chain, network) in networks {
        for br_netfilter in [false, true] {
            let network = network.clone();
            let stage = Arc::new(LazyLock::new(move || Stage::new(&network, br_netfilter)));
            for (protocol, family, source) in cases() {
                let switch = if br_netfilter { "on" } else { "off" };
                let (family_name, source_name) = (family.name(), source.name());
                let name = format!(
                    "forward::{chain}::{protocol}::{family_name}::{source_name}::br_netfilter={switch}"
                );
                let stage = Arc::clone(&stage);
                trials.push(Trial::test(name, move || {
                    stage.assert_reachable(protocol, family, source);
                    Ok(())
                }));
            }
        }
    }
    trials
}

fn cases() -> impl Iterator<Item = (Protocol, Family, Source)> {
    let families = |protocol| Family::ALL.map(|family| (protocol, family));
    Protocol::ALL
        .into_iter()
        .flat_map(families)
        .flat_map(|(protocol, family)| Source::ALL.map(|source| (protocol, family, source)))
        // The kernel routes no packet from ::1 to another address; there is no
        // route_localnet of IPv6.
        .filter(|(_, family, source)| (*family, *source) != (Family::V6, Source::Loopback))
}
