//! UDP flows across ADD and DEL: connection tracking remembers where a flow went,
//! and would send it there for ever while the client keeps talking.

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    node::{Family, Node},
    traffic::{Flow, PATIENCE, SILENCE, serve},
};

const HOST_PORT: u16 = 5353;
const CONTAINER_PORT: u16 = 53;

fn mappings() -> Value {
    json!([{ "hostPort": HOST_PORT, "containerPort": CONTAINER_PORT, "protocol": "udp" }])
}

/// A flow from each source that there is.
fn flows(node: &Node, sibling: &Container) -> Vec<(&'static str, Flow)> {
    let mut flows = Vec::new();
    for family in Family::ALL {
        let server = (family.node(), HOST_PORT).into();
        flows.push(("outside", Flow::new(&node.outside, server)));
        flows.push(("host", Flow::new(&node.host, server)));
        flows.push(("sibling", Flow::new(sibling.namespace(), server)));
    }
    let loopback = (Ipv4Addr::LOCALHOST, HOST_PORT).into();
    flows.push(("loopback", Flow::new(&node.host, loopback)));
    flows
}

#[track_caller]
fn assert_answers(flows: &[(&'static str, Flow)], name: &str) {
    for (source, flow) in flows {
        let answer = flow.ask(PATIENCE).map(|answer| answer.server);
        assert_eq!(answer.as_deref(), Some(name), "the flow from {source}");
    }
}

#[track_caller]
fn assert_silence(flows: &[(&'static str, Flow)]) {
    for (source, flow) in flows {
        assert_eq!(flow.ask(SILENCE), None, "the flow from {source}");
    }
}

fn flow_from_before_add_reaches_the_container(network: &Network, br_netfilter: bool) {
    let node = Node::new(br_netfilter);
    let mut sibling = Container::new("sibling");
    network.attach(&node, &mut sibling, json!([])).succeeded();
    let flows = flows(&node, &sibling);
    assert_silence(&flows);
    let mut web = Container::new("web");
    let _servers = serve(web.namespace(), CONTAINER_PORT, "web");
    network.attach(&node, &mut web, mappings()).succeeded();
    assert_answers(&flows, "web");
}

/// The containers stay, so that one that should not be asked any more could answer.
fn flow_follows_the_port(network: &Network, br_netfilter: bool) {
    let node = Node::new(br_netfilter);
    let [mut sibling, mut first, mut second] = ["sibling", "first", "second"].map(Container::new);
    let _servers = [&first, &second].map(|c| serve(c.namespace(), CONTAINER_PORT, &c.id));
    network.attach(&node, &mut sibling, json!([])).succeeded();
    network.attach(&node, &mut first, mappings()).succeeded();
    let flows = flows(&node, &sibling);
    assert_answers(&flows, "first");
    network.del(&node, &first).run(&node).succeeded();
    assert_silence(&flows);
    network.attach(&node, &mut second, mappings()).succeeded();
    assert_answers(&flows, "second");
    // From one straight to the other, with no silence between.
    network.del(&node, &second).run(&node).succeeded();
    network.add(&node, &first, mappings()).run(&node).succeeded();
    assert_answers(&flows, "first");
}

/// A port of one host address: the kernel's dump of flows to an IPv6 address, when
/// it is asked for those only (`CTA_FILTER`, Linux 6.18), lacks just these, and a
/// client kept reaching the deleted container.
fn flow_follows_the_port_of_one_address(network: &Network, br_netfilter: bool) {
    let node = Node::new(br_netfilter);
    let [mut first, mut second] = ["first", "second"].map(Container::new);
    let _servers = [&first, &second].map(|c| serve(c.namespace(), CONTAINER_PORT, &c.id));
    let mappings: Value = Family::ALL
        .map(|family| {
            json!({ "hostPort": HOST_PORT, "containerPort": CONTAINER_PORT, "protocol": "udp",
                    "hostIP": family.node() })
        })
        .into_iter()
        .collect();
    let flows: Vec<_> = Family::ALL
        .map(|family| (family.name(), Flow::new(&node.outside, (family.node(), HOST_PORT).into())))
        .into();
    assert_silence(&flows);
    network.attach(&node, &mut first, mappings.clone()).succeeded();
    assert_answers(&flows, "first");
    network.del(&node, &first).run(&node).succeeded();
    assert_silence(&flows);
    network.attach(&node, &mut second, mappings).succeeded();
    assert_answers(&flows, "second");
}

/// One trial for each chain and switch.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (chain, network) in
        [("bridge", Network::bridge("podnet", true)), ("ptp", Network::ptp("podnet"))]
    {
        for (switch, br_netfilter) in [("off", false), ("on", true)] {
            let mut add = |name: &str, test: fn(&Network, bool)| {
                let network = network.clone();
                let name = format!("flow::{chain}::{name}::br_netfilter={switch}");
                trials.push(Trial::test(name, move || {
                    test(&network, br_netfilter);
                    Ok(())
                }));
            };
            add("before-add", flow_from_before_add_reaches_the_container);
            add("after-del", flow_follows_the_port);
            add("one-address", flow_follows_the_port_of_one_address);
        }
    }
    trials
}
