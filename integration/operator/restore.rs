//! `restore`.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use portclaim::lease::Protocol;
use serde_json::json;

use super::{Test, fixed, inhabited, network};
use crate::{
    chain::Container,
    held::{assert_nothing_held, elements, forwarded},
    node::{Family, Node},
    tool::{self, ctl},
    traffic::{Flow, PATIENCE, ask, serve},
};

fn restore_says_what_it_does() {
    let (node, _containers) = inhabited();
    let other = Container::on_paper("other", 4);
    network().named("othernet").add(&node, &other, fixed(9090)).run(&node).succeeded();
    node.host.nft("flush ruleset");
    node.host.nft("add table inet portclaim_gone");
    fs::remove_dir_all(node.run_dir().join("pods")).unwrap();
    fs::rename(node.run_dir().join("containers/plain"), node.run_dir().join("containers/old"))
        .unwrap();
    let notes = "note: no conflist has network othernet: the rules of table inet \
                 portclaim_othernet are taken for those of a conflist without options\n\
                 note: table inet portclaim_gone is of a network that has no leases and no \
                 conflist; it guards the host's loopback\n";
    let planned = ctl(&node, &network(), &["restore", "--dry-run"]);
    assert_eq!(
        planned.succeeded(),
        format!(
            "would write table inet portclaim_othernet: 1 leases\n\
             would write table inet portclaim_podnet: 2 leases\n\
             table inet portclaim_gone is as it should be: 0 leases\n\
             would publish NODE/run/containers/plain\n\
             would publish NODE/run/pods/shop/web-0\n\
             would remove NODE/run/containers/old\n{notes}"
        )
    );
    let done = ctl(&node, &network(), &["restore"]);
    assert_eq!(
        done.succeeded(),
        format!(
            "wrote table inet portclaim_othernet: 1 leases\n\
             wrote table inet portclaim_podnet: 2 leases\n\
             table inet portclaim_gone is as it should be: 0 leases\n\
             published NODE/run/containers/plain\n\
             published NODE/run/pods/shop/web-0\n\
             removed NODE/run/containers/old\n{notes}"
        )
    );
    let before = node.traces();
    assert_eq!(
        ctl(&node, &network(), &["restore"]).succeeded(),
        format!(
            "table inet portclaim_othernet is as it should be: 1 leases\n\
             table inet portclaim_podnet is as it should be: 2 leases\n\
             table inet portclaim_gone is as it should be: 0 leases\n{notes}"
        )
    );
    assert_eq!(node.traces(), before);
    assert_eq!(forwarded(&node, &network().named("othernet")).len(), 1);
    // What the next call finds is what it would have made itself.
    network()
        .check(
            &node,
            &Container::on_paper("plain", 3),
            json!([
                { "hostPort": 5353, "containerPort": 53, "protocol": "udp" }
            ]),
        )
        .run(&node)
        .succeeded();
}

/// The store was lost, and with it who owns what the kernel forwards.
fn restore_takes_out_what_nobody_owns() {
    let (node, _containers) = inhabited();
    fs::rename(node.data_dir(), node.folder("lost")).unwrap();
    let found = ctl(&node, &network(), &["check"]);
    assert!(found.with_status(1).contains("8080/tcp to 10.99.0.2 (shop/web-0), which no lease"));
    ctl(&node, &network(), &["restore"]).succeeded();
    assert_nothing_held(&node, &network());
    assert!(!node.data_dir().exists(), "nothing is created");
    ctl(&node, &network(), &["check"]).succeeded();
}

/// Sandboxes do not survive a reboot: there is nothing to put back.
fn restore_after_a_reboot() {
    let (mut node, _containers) = inhabited();
    let files = node.run_dir().join("containers/plain");
    node.reboot();
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("ports.env"), "UDP_PORT=5353\n").unwrap();
    assert_eq!(
        ctl(&node, &network(), &["restore"]).succeeded(),
        "removed NODE/run/containers/plain\n"
    );
    assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), "no difference: 0 leases\n");
}

/// A folder with an `nft` that counts how often it is run.
fn counting_nft(node: &Node) -> (String, PathBuf) {
    let folder = node.folder("counting");
    fs::create_dir(&folder).unwrap();
    let (script, count) = (folder.join("nft"), folder.join("count"));
    let text = format!("#!/bin/sh\necho run >>{}\nexec /usr/sbin/nft \"$@\"\n", count.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (folder.display().to_string(), count)
}

/// 2,000 mappings on two networks are back in one transaction, and traffic flows:
/// new connections, a UDP flow that began meanwhile, and 127.0.0.1.
fn restore_of_two_thousand_mappings(backend: &str) {
    const PORTS_EACH: u16 = 50;
    let network = || network().option("backend", backend.into());
    let node = Node::new(false);
    let mut web = Container::new("live");
    let mappings = json!(Protocol::ALL.map(|protocol| {
        json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol.name() })
    }));
    network().attach(&node, &mut web, mappings).succeeded();
    let _servers = serve(web.namespace(), 80, "web");
    for number in 0..40 {
        let ports = 0..PORTS_EACH;
        let mapping = |port| {
            let protocol = if port % 2 == 0 { "tcp" } else { "udp" };
            json!({ "hostPort": 20000 + number * PORTS_EACH + port, "containerPort": port + 1,
                    "protocol": protocol })
        };
        let container = Container::on_paper(&format!("c{number}"), number + 2);
        let network = if number % 2 == 0 { network() } else { network().named("othernet") };
        network.add(&node, &container, ports.map(mapping).collect()).run(&node).succeeded();
    }
    let [before, others] = [network(), network().named("othernet")].map(|n| elements(&node, &n));
    // Whoever asks for connection tracking has flows remembered.
    node.host.nft(
        "flush ruleset
         table ip other { chain every { type filter hook prerouting priority 0; ct state new; }; }",
    );
    let link = "ipv4/conf/cni0/route_localnet";
    node.host.sysctl(link, "0");
    let address = (Family::V4.node(), 8080).into();
    let flow = Flow::new(&node.outside, address);
    assert!(flow.ask(Duration::from_millis(100)).is_none(), "nothing is forwarded");

    let (path, count) = counting_nft(&node);
    let mut command = tool::command(&node, &network(), &["restore"]);
    let done = tool::run(&node, command.env("PATH", path));
    assert_eq!(
        done.succeeded(),
        "wrote table inet portclaim_othernet: 1000 leases\n\
         wrote table inet portclaim_podnet: 1003 leases\n\
         turned on route_localnet of link cni0\n\
         note: no conflist has network othernet: the rules of table inet portclaim_othernet are \
         taken for those of a conflist without options\n"
    );
    let runs = fs::read_to_string(count).unwrap_or_default();
    assert_eq!(runs, if backend == "nft" { "run\n" } else { "" }, "one transaction");
    for (network, before) in [(network(), before), (network().named("othernet"), others)] {
        for (name, after) in elements(&node, &network) {
            assert_eq!(after.len(), before[&name].len(), "{name}");
            assert!(before[&name].iter().all(|element| after.contains(element)), "{name}");
        }
    }
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            for from in [&node.outside, &node.host, web.namespace()] {
                let answer = ask(from, protocol, (family.node(), 8080).into(), PATIENCE);
                assert_eq!(answer.map(|a| a.server).as_deref(), Some("web"), "{protocol}");
            }
        }
    }
    let answer = ask(&node.host, Protocol::Tcp, (Ipv4Addr::LOCALHOST, 8080).into(), PATIENCE);
    assert!(answer.is_some(), "127.0.0.1");
    assert!(flow.ask(PATIENCE).is_some(), "a flow that began meanwhile");
    ctl(&node, &network(), &["check"]).succeeded();
}

pub(super) const TESTS: [Test; 5] = [
    ("restore", restore_says_what_it_does),
    ("restore::foreign", restore_takes_out_what_nobody_owns),
    ("restore::reboot", restore_after_a_reboot),
    ("restore::many::netlink", || restore_of_two_thousand_mappings("netlink")),
    ("restore::many::nft", || restore_of_two_thousand_mappings("nft")),
];
