//! From `portmap` to portclaim on a node with containers, and back.
//!
//! Runtimes differ in what they do with a container whose conflist has changed since
//! its ADD. CRI-O and podman call DEL with the conflist of the ADD, which libcni has
//! kept for them; containerd with the one that is there now.

use std::{fs, time::Duration};

use libtest_mimic::Trial;
use portclaim::{cni::conflist, lease::Protocol};
use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Network},
    conflist::Chain,
    namespace::write_program,
    node::{Family, Node},
    tool::ctl,
    traffic::{Echo, PATIENCE, SILENCE, ask, serve},
};

const PORTMAP: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "mynet",
  "plugins": [
    { "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }
  ]
}"#;

/// The node's chains, before and after.
fn chains(node: &Node) -> (Chain, Chain) {
    let added = conflist::add(PORTMAP).unwrap().unwrap();
    (Chain::parse(PORTMAP).on(node), Chain::parse(&added).on(node))
}

fn mapping(port: u16) -> Value {
    json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }])
}

/// A container that serves, and its servers.
fn start(node: &Node, chain: &Chain, id: &str, port: u16) -> (Container, [Echo; 3]) {
    let mut container = Container::new(id);
    chain.add(node, &mut container, &mapping(port));
    let servers = serve(container.namespace(), 80, id);
    (container, servers)
}

fn server(node: &Node, port: u16, patience: Duration) -> Option<String> {
    let answer = ask(&node.outside, Protocol::Tcp, (Family::V4.node(), port).into(), patience);
    answer.map(|answer| answer.server)
}

fn has_rules_of_portmap(node: &Node) -> bool {
    node.host.nft("list ruleset").contains("CNI-DN-")
}

/// With a runtime that keeps the conflist of the ADD, each plugin takes back what it gave.
fn with_the_conflist_of_the_add() {
    for back in [false, true] {
        let node = Node::new(false);
        let (portmap, portclaim) = chains(&node);
        let (from, to) = if back { (portclaim, portmap) } else { (portmap, portclaim) };
        let (old, _old) = start(&node, &from, "old", 8080);
        let (new, _new) = start(&node, &to, "new", 8081);
        assert_eq!(server(&node, 8080, PATIENCE).as_deref(), Some("old"));
        assert_eq!(server(&node, 8081, PATIENCE).as_deref(), Some("new"));
        from.del(&node, &old, &mapping(8080));
        assert_eq!(server(&node, 8080, SILENCE), None);
        assert_eq!(server(&node, 8081, PATIENCE).as_deref(), Some("new"));
        let (next, _next) = start(&node, &to, "next", 8080);
        assert_eq!(server(&node, 8080, PATIENCE).as_deref(), Some("next"));
        to.del(&node, &new, &mapping(8081));
        to.del(&node, &next, &mapping(8080));
        assert!(!has_rules_of_portmap(&node));
    }
}

/// With containerd, from `portmap`: DEL comes to portclaim, which passes it on.
fn with_the_conflist_of_now() {
    let node = Node::new(false);
    let (portmap, portclaim) = chains(&node);
    let (old, _old) = start(&node, &portmap, "old", 8080);
    let (new, _new) = start(&node, &portclaim, "new", 8081);
    assert_eq!(server(&node, 8080, PATIENCE).as_deref(), Some("old"));
    portclaim.del(&node, &old, &mapping(8080));
    assert!(!has_rules_of_portmap(&node));
    assert_eq!(server(&node, 8080, SILENCE), None);
    assert_eq!(server(&node, 8081, PATIENCE).as_deref(), Some("new"));
    // As containerd does.
    portclaim.del(&node, &old, &mapping(8080));
    let (next, _next) = start(&node, &portclaim, "next", 8080);
    assert_eq!(server(&node, 8080, PATIENCE).as_deref(), Some("next"));
    portclaim.del(&node, &new, &mapping(8081));
    portclaim.del(&node, &next, &mapping(8080));
}

/// With containerd, back to `portmap`, which knows nothing of portclaim's containers:
/// what they held is given back by `portclaimctl gc`.
fn back_with_the_conflist_of_now() {
    let node = Node::new(false);
    let (portmap, portclaim) = chains(&node);
    let (old, servers) = start(&node, &portclaim, "old", 8080);
    assert_eq!(server(&node, 8080, PATIENCE).as_deref(), Some("old"));
    portmap.del(&node, &old, &mapping(8080));
    drop((old, servers));
    let network = Network::bridge("mynet", true);
    let collected = ctl(&node, &network, &["gc"]);
    assert!(collected.succeeded().starts_with("gave back 8080/tcp of old/eth0"), "{collected:?}");
    let (next, _next) = start(&node, &portmap, "next", 8080);
    assert_eq!(server(&node, 8080, PATIENCE).as_deref(), Some("next"));
    portmap.del(&node, &next, &mapping(8080));
}

/// What becomes of the DEL of a container that portclaim gave nothing.
fn what_is_passed_on() {
    let node = Node::new(false);
    let folder = node.folder("plugins");
    fs::create_dir(&folder).unwrap();
    let (plugin, read) = (folder.join("portmap"), folder.join("read"));
    let old = Container::on_paper("old", 2);
    let formerly = Network::bridge("mynet", true).option("formerly", json!("portmap"));
    let del = |network: &Network, runtime: Value| {
        let _ = fs::remove_file(&read);
        let mut config = network.config(&node);
        config["runtimeConfig"] = runtime;
        let call = Call::of_type("portclaim", "DEL", &config, &old);
        call.with("CNI_PATH", folder.to_str().unwrap()).run(&node)
    };
    let mappings = || json!({ "portMappings": mapping(8080) });
    let absent = del(&formerly, mappings());
    absent.succeeded();
    assert!(absent.stderr.contains("there is no plugin portmap in CNI_PATH"), "{absent:?}");

    let script = |status| {
        let text =
            format!("#!/bin/sh\ncat >{}\necho $CNI_COMMAND\nexit {status}\n", read.display());
        write_program(&plugin, text.as_bytes());
    };
    script(0);
    del(&formerly, mappings()).succeeded();
    let passed: Value = serde_json::from_str(&fs::read_to_string(&read).unwrap()).unwrap();
    assert_eq!((&passed["type"], &passed["name"]), (&json!("portmap"), &json!("mynet")));
    assert_eq!(passed["runtimeConfig"], mappings());
    del(&formerly, json!({})).succeeded();
    del(&Network::bridge("mynet", true), mappings()).succeeded();
    assert!(!read.exists(), "none of portmap's business");
    formerly.add(&node, &old, mapping(8080)).run(&node).succeeded();
    del(&formerly, mappings()).succeeded();
    assert!(!read.exists(), "it was portclaim's");
    // The runtime tries again, as it would if portmap had failed itself.
    script(1);
    let error = del(&formerly, mappings()).failed_with(5);
    assert!(error.message.contains("portmap has failed"), "{error:?}");
}

pub fn trials() -> Vec<Trial> {
    crate::trials(
        "migration",
        [
            ("conflist_of_the_add", with_the_conflist_of_the_add as fn()),
            ("conflist_of_now", with_the_conflist_of_now),
            ("conflist_of_now::back", back_with_the_conflist_of_now),
            ("passed_on", what_is_passed_on),
        ],
    )
}
