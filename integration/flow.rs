//! UDP flows across ADD and DEL: connection tracking remembers where a flow went,
//! and would send it there for ever while the client keeps talking.

use std::{fs, net::Ipv4Addr, process::Command};

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

/// What a client began while an ADD was about to fail would lead to whoever gets the
/// container's address next: no DEL looks for the flows of ports that are not held.
fn failed_add_leaves_no_flow() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    let conntrack = |arguments: &str| {
        let mut command = Command::new("conntrack");
        let output = node.host.output(command.args(arguments.split(' ')), b"");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Connection tracking begins with the first rule that needs it.
    let network = Network::bridge("podnet", true);
    network.add(&node, &web, mappings()).run(&node).succeeded();
    network.del(&node, &web).run(&node).succeeded();
    conntrack(
        "--create --proto udp --timeout 600 --orig-src 192.0.2.2 --orig-dst 192.0.2.1 \
         --sport 4000 --dport 5353 --reply-src 10.99.0.2 --reply-dst 192.0.2.2 \
         --reply-port-src 53 --reply-port-dst 4000",
    );
    assert!(conntrack("--dump --proto udp").contains("dport=5353"));
    let in_the_way = node.run_dir().join("containers");
    fs::write(in_the_way, "").unwrap();
    network.add(&node, &web, mappings()).run(&node).failed();
    assert_eq!(conntrack("--dump --proto udp").find("dport=5353"), None);
}

/// One trial for each chain and switch, and one without a chain.
pub fn trials() -> Vec<Trial> {
    let mut trials = crate::trials("flow", [("failed-add", failed_add_leaves_no_flow)]);
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
