//! Networks and settings beside the usual ones, and what they change for packets.

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    node::{Family, Node},
    traffic::{Answer, Echo, PATIENCE, SILENCE, ask, serve},
};

const PORT: u16 = 8080;
const TCP: Protocol = Protocol::Tcp;

fn bridge() -> Network {
    Network::bridge("podnet", true)
}

fn mappings() -> Value {
    json!([{ "hostPort": PORT, "containerPort": 80, "protocol": "tcp" }])
}

/// A node with one container that serves.
fn stage(network: &Network) -> (Node, Container, [Echo; 3]) {
    let node = Node::new(false);
    let mut web = Container::new("web");
    network.attach(&node, &mut web, mappings()).succeeded();
    let servers = serve(web.namespace(), 80, "web");
    (node, web, servers)
}

/// Containers of one family: the other one is nobody's.
fn one_family(network: &Network, family: Family) {
    let (node, web, _servers) = stage(&network.clone().only(family));
    for from in [&node.outside, &node.host, web.namespace()] {
        assert!(ask(from, TCP, (family.node(), PORT).into(), PATIENCE).is_some());
    }
    let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
    let _own = Echo::start(&node.host, TCP, PORT, "host");
    let answer = ask(&node.outside, TCP, (other.node(), PORT).into(), PATIENCE);
    assert_eq!(answer.map(|a| a.server).as_deref(), Some("host"));
}

/// Without `hairpinMode` the bridge must never be asked to send a packet back;
/// where `br_netfilter` is off, it is not.
fn bridge_without_hairpin_mode() {
    let (node, web, _servers) = stage(&Network::bridge("podnet", false));
    let mut sibling = Container::new("sibling");
    bridge().attach(&node, &mut sibling, json!([])).succeeded();
    for family in Family::ALL {
        for from in [web.namespace(), sibling.namespace(), &node.outside, &node.host] {
            assert!(ask(from, TCP, (family.node(), PORT).into(), PATIENCE).is_some());
        }
    }
}

/// Everybody seems to be the host then, as with portmap.
fn masq_all_hides_clients() {
    let (node, _web, _servers) = stage(&bridge().option("masqAll", json!(true)));
    for family in Family::ALL {
        let answer = ask(&node.outside, TCP, (family.node(), PORT).into(), PATIENCE);
        let Answer { server, client } = answer.expect("an answer");
        assert_eq!(server, "web");
        assert_ne!(client, family.outside());
    }
}

/// Nothing is masqueraded, and 127/8 stays closed.
fn no_snat_leaves_sources_alone() {
    let (node, _web, _servers) = stage(&bridge().option("snat", json!(false)));
    for family in Family::ALL {
        for (from, client) in [(&node.outside, family.outside()), (&node.host, family.node())] {
            let answer = ask(from, TCP, (family.node(), PORT).into(), PATIENCE);
            assert_eq!(answer, Some(Answer { server: "web".to_owned(), client }));
        }
    }
    let loopback = (Ipv4Addr::LOCALHOST, PORT).into();
    assert_eq!(ask(&node.host, TCP, loopback, SILENCE), None);
    let link = "/proc/sys/net/ipv4/conf/cni0/route_localnet";
    let open = node.host.enter(|| std::fs::read_to_string(link)).unwrap();
    assert_eq!(open.trim(), "0", "{link}");
}

/// Conditions are a family's own, and further ones: all of them must hold.
fn conditions_limit_their_family() {
    let network = bridge().option("conditionsV4", json!(["ip", "saddr", "!=", "192.0.2.2"]));
    let (node, _web, _servers) = stage(&network);
    let ask =
        |from, family: Family, patience| ask(from, TCP, (family.node(), PORT).into(), patience);
    assert_eq!(ask(&node.outside, Family::V4, SILENCE), None);
    assert!(ask(&node.host, Family::V4, PATIENCE).is_some());
    assert!(ask(&node.outside, Family::V6, PATIENCE).is_some());
    assert!(ask(&node.beyond, Family::V4, PATIENCE).is_some());
}

/// Two networks on one node: each forwards its own, whichever came first.
fn two_networks() {
    let (node, web, _servers) = stage(&bridge());
    let mut other = Container::new("other");
    let network = Network::ptp("othernet").subnets(&["10.89.0.0/24"]);
    let mapping = json!([{ "hostPort": 9090, "containerPort": 80, "protocol": "tcp" }]);
    network.attach(&node, &mut other, mapping).succeeded();
    let _others = serve(other.namespace(), 80, "other");
    for (port, name) in [(PORT, "web"), (9090, "other")] {
        for from in [&node.outside, &node.host, web.namespace(), other.namespace()] {
            let answer = ask(from, TCP, (Family::V4.node(), port).into(), PATIENCE);
            assert_eq!(answer.map(|a| a.server).as_deref(), Some(name));
        }
    }
    bridge().del(&node, &web).run(&node).succeeded();
    let server = (Family::V4.node(), 9090).into();
    assert!(ask(&node.outside, TCP, server, PATIENCE).is_some());
    // 127.0.0.1 leads through the links of the network that is left, too.
    let loopback = (Ipv4Addr::LOCALHOST, 9090).into();
    assert!(ask(&node.host, TCP, loopback, PATIENCE).is_some());
}

/// One trial for each.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 9] = [
        ("one-family::bridge::v4", || one_family(&bridge(), Family::V4)),
        ("one-family::bridge::v6", || one_family(&bridge(), Family::V6)),
        ("one-family::ptp::v4", || one_family(&Network::ptp("podnet"), Family::V4)),
        ("one-family::ptp::v6", || one_family(&Network::ptp("podnet"), Family::V6)),
        ("no-hairpin-mode", bridge_without_hairpin_mode),
        ("masq-all", masq_all_hides_clients),
        ("no-snat", no_snat_leaves_sources_alone),
        ("conditions", conditions_limit_their_family),
        ("two-networks", two_networks),
    ];
    crate::trials("variation", tests)
}
