//! CRI-O's calls, which are made here directly: Debian 12 has no CRI-O, and its
//! other runtimes never call STATUS, GC and CHECK.

use portclaim::lease::Protocol;
use serde_json::{Value, json};

use super::{assert_reached, assert_silent, containerd::Containerd, network, pod::Pod};
use crate::{
    chain::{Container, Network, annotated},
    held::{assert_nothing_held, leases, ports_of},
    node::{Family, Node},
    traffic::{Echo, serve},
};

pub const TESTS: [(&str, fn()); 2] =
    [("calls", from_start_to_stop), ("shared-network", a_network_shared_with_containerd)];

/// CRI-O 1.37 speaks the version that its conflist has.
fn newest() -> Network {
    network().version("1.1.0")
}

fn pod(name: &str) -> Container {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_INFRA_CONTAINER_ID=";
    let id = format!("{:064x}", fastrand::u128(..));
    Container::new(&id).with_args(&format!("{args}{id};K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"))
}

/// ADD of a pod, and the CHECK that follows each ADD. There are no port mappings,
/// also for a pod with `hostPort`.
#[track_caller]
fn start(node: &Node, pod: &mut Container, runtime: &Value) {
    let network = newest();
    network.attach_with(node, pod, runtime.clone()).succeeded();
    network.check_with(node, pod, runtime.clone()).run(node).succeeded();
}

fn valid(pods: &[&Container]) -> Value {
    pods.iter().map(|pod| json!({ "containerID": pod.id, "ifname": "eth0" })).collect()
}

fn from_start_to_stop() {
    let node = Node::new(false);
    let network = newest();
    // When it starts: GC, once, and STATUS until it passes.
    network.gc(&node, Value::Null).run(&node).succeeded();
    network.status(&node).run(&node).succeeded();
    let [mut plain, mut web, mut gone] = ["plain", "web-0", "gone"].map(pod);
    start(&node, &mut plain, &json!({ "io.kubernetes.cri.pod-annotations": {} }));
    assert_nothing_held(&node, &network);
    let runtime = annotated(&[("ports", "web=80/tcp+udp")]);
    start(&node, &mut web, &runtime);
    start(&node, &mut gone, &runtime);
    let port = ports_of(&node, &web)[0];
    let _servers = serve(web.namespace(), 80, "web-0");

    // It was restarted, and one sandbox was lost meanwhile.
    network.gc(&node, valid(&[&plain, &web])).run(&node).succeeded();
    network.status(&node).run(&node).succeeded();
    assert!(ports_of(&node, &gone).is_empty());
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        assert_reached(&node, protocol, &Family::ALL, port, "web-0");
    }
    network.check_with(&node, &web, runtime).run(&node).succeeded();
    for pod in [&web, &plain, &gone] {
        network.del(&node, pod).run(&node).succeeded();
        network.del(&node, pod).with("CNI_NETNS", "").run(&node).succeeded();
    }
    assert_nothing_held(&node, &network);
}

/// A node that moves from containerd to CRI-O, or has both: GC of one collects what
/// the other's pods have, if both have a network of the same name.
fn a_network_shared_with_containerd() {
    let containerd = Containerd::start(Node::new(false), &network());
    let node = &containerd.node;
    let sandbox = Pod::new("web-0").annotated("ports", "web=80").run(&containerd).unwrap();
    let port = ports_of(node, &sandbox.container())[0];
    let _server = Echo::start(&sandbox.namespace(), Protocol::Tcp, 80, "web-0");
    newest().named("crio").gc(node, Value::Null).run(node).succeeded();
    assert_reached(node, Protocol::Tcp, &Family::ALL, port, "web-0");

    newest().gc(node, Value::Null).run(node).succeeded();
    assert_eq!(leases(node), []);
    assert_silent(&node.outside, Protocol::Tcp, (Family::V4.node(), port));
    sandbox.remove();
    assert_nothing_held(node, &network());
}
