//! Claims: the same port again, for whom it is kept and for nobody else.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network, annotated},
    held::{elements, forwarded, leases, leases_of, ports_of},
    node::{Family, Node},
    traffic::{Echo, PATIENCE, ask},
};

fn network() -> Network {
    Network::bridge("podnet", true).option(
        "groups",
        json!({
            "games": { "ports": "7000-7009", "cooldown": "0s" },
            "brief": { "ports": "7100-7101", "cooldown": "0s", "claimTTL": "1s" },
            "one": { "ports": "7200", "cooldown": "0s" },
        }),
    )
}

fn pod(id: &str, number: u16, name: &str, uid: &str) -> Container {
    Container::on_paper(id, number).in_pod("games", name, uid)
}

/// One port of group `games` under a claim.
fn claim(name: &str) -> Value {
    annotated(&[("ports", "game=7777/tcp+udp@games"), ("claim", name)])
}

fn add(node: &Node, container: &Container, runtime: Value) -> Vec<u16> {
    network().add_with(node, container, runtime).run(node).succeeded();
    ports_of(node, container)
}

/// Pods of a `StatefulSet` share their template, and have a claim each.
fn pods_of_a_stateful_set_keep_their_ports() {
    let mut node = Node::new(false);
    let template = claim("$(POD_NAME)");
    let ordinals = [("arena-0", 2), ("arena-1", 3)];
    let mut before = Vec::new();
    for (name, number) in ordinals {
        let ports = add(&node, &pod(&format!("{name}-a"), number, name, "a"), template.clone());
        assert!(ports[0] == ports[1] && !before.contains(&ports), "one number on tcp and udp");
        before.push(ports);
    }
    for (round, end) in ["DEL", "GC", "reboot"].into_iter().enumerate() {
        let old = ["a", "DEL", "GC"][round];
        match end {
            "DEL" => ordinals.iter().for_each(|(name, number)| {
                let container = pod(&format!("{name}-{old}"), *number, name, old);
                network().del(&node, &container).run(&node).succeeded();
            }),
            "GC" => _ = network().gc(&node, json!([])).run(&node).succeeded(),
            _ => node.reboot(),
        }
        assert_eq!(leases(&node), [], "after {end}");
        // In another order, with other container IDs, UIDs and addresses.
        for (at, (name, number)) in ordinals.into_iter().enumerate().rev() {
            let container = pod(&format!("{name}-{end}"), number + 10, name, end);
            assert_eq!(add(&node, &container, template.clone()), before[at], "{name} after {end}");
        }
    }
}

/// The new pod waits until the old one is gone, and has its port then.
fn a_rolling_update_waits_for_the_claim() {
    let node = Node::new(false);
    let old = pod("old", 2, "web-7f9c", "1");
    let ports = add(&node, &old, claim("web"));
    let new = pod("new", 3, "web-b2d4", "2");
    let before = (leases(&node), node.traces());
    for _ in 0..3 {
        let error = network().add_with(&node, &new, claim("web")).run(&node).failed_with(11);
        for word in ["games/web", "game", "old", "web-7f9c"] {
            assert!(error.message.contains(word), "{word} in {error:?}");
        }
        assert_eq!((leases(&node), node.traces()), before);
    }
    // The runtime cleans up what it could not start.
    network().del(&node, &new).run(&node).succeeded();
    network().del(&node, &old).run(&node).succeeded();
    assert_eq!(add(&node, &new, claim("web")), ports);
}

/// A kubelet sends DELs of the old sandbox, up to seven, some of them after the
/// ADD of the next one with the same UID.
fn a_new_sandbox_takes_over_and_late_dels_do_not_matter() {
    let node = Node::new(false);
    let network = network();
    let runtime = || {
        let mut runtime = claim("arena");
        runtime["portMappings"] =
            json!([{ "hostPort": 8080, "containerPort": 80 }, { "containerPort": 81 }]);
        runtime
    };
    let mut old = Container::new("old").in_pod("games", "arena-0", "1");
    network.attach_with(&node, &mut old, runtime()).succeeded();
    let ports = ports_of(&node, &old);
    let mut new = Container::new("new").in_pod("games", "arena-0", "1");
    network.attach_with(&node, &mut new, runtime()).succeeded();
    assert_eq!(ports_of(&node, &new), ports);
    assert_eq!(leases_of(&node, &old), []);
    let _server = Echo::start(new.namespace(), Protocol::Tcp, 80, "new");
    let _old_server = Echo::start(old.namespace(), Protocol::Tcp, 80, "old");
    let before = (leases(&node), node.traces());
    for _ in 0..7 {
        network.del(&node, &old).run(&node).succeeded();
        assert_eq!((leases(&node), node.traces()), before);
        let server = (Family::V4.node(), 8080).into();
        assert_eq!(ask(&node.outside, Protocol::Tcp, server, PATIENCE).unwrap().server, "new");
    }
    // Another pod of the same name is not the same pod.
    let next = Container::on_paper("next", 9).in_pod("games", "arena-0", "2");
    network.add_with(&node, &next, claim("arena")).run(&node).failed_with(11);
    network.del(&node, &new).run(&node).succeeded();
    network.add_with(&node, &next, claim("arena")).run(&node).succeeded();
    assert_eq!(elements(&node, &network)["any4_addr"].len(), 2);
}

fn a_reserved_port_is_nobody_elses() {
    let node = Node::new(false);
    let owner = pod("owner", 2, "owner", "1");
    let port = add(&node, &owner, claim("kept"))[0];
    network().del(&node, &owner).run(&node).succeeded();

    let late = pod("late", 3, "late", "2");
    let error = network()
        .add(&node, &late, json!([{ "hostPort": port, "containerPort": 80 }]))
        .run(&node)
        .failed_with(100);
    assert!(error.message.contains("games/kept"), "{error:?}");
    let preferred = format!(
        r#"[{{"name": "a", "containerPort": 1, "preferredPort": {port}, "group": "games"}}]"#
    );
    let given = add(&node, &late, annotated(&[("ports", &preferred)]));
    assert_ne!(given[0], port);
    let rest = r#"[{"containerPort": 1, "count": 1}]"#;
    for number in 0..8 {
        let other = pod(&format!("o{number}"), 10 + number, "other", "3");
        let other = other.in_pod("games", &format!("o{number}"), &format!("u{number}"));
        let given = add(&node, &other, annotated(&[("group", "games"), ("ports", rest)]));
        assert_ne!(given[0], port);
    }
    let last = pod("last", 30, "last", "4");
    let call = network().add_with(&node, &last, annotated(&[("group", "games"), ("ports", rest)]));
    let error = call.run(&node).failed_with(101);
    assert!(error.message.contains("9 of 10"), "{error:?}");
    assert_eq!(add(&node, &pod("again", 31, "again", "5"), claim("kept")), [port, port]);
}

fn a_preferred_port_is_taken_if_it_is_free() {
    let node = Node::new(false);
    let preferred =
        r#"[{"name": "a", "containerPort": 1, "preferredPort": 7005, "group": "games"}]"#;
    let [first, second] = [pod("first", 2, "first", "1"), pod("second", 3, "second", "2")];
    let runtime = annotated(&[("ports", preferred)]);
    assert_eq!(add(&node, &first, runtime.clone()), [7005]);
    let other = add(&node, &second, runtime.clone());
    assert_ne!(other, [7005]);
    network().del(&node, &first).run(&node).succeeded();
    assert_eq!(add(&node, &first, runtime), [7005]);
}

fn neither_names_nor_protocols_nor_namespaces_collide() {
    let node = Node::new(false);
    let of = |namespace: &str, claim: &str, ports: &str, number: u16| {
        let id = format!("c{number}");
        let container = Container::on_paper(&id, number).in_pod(namespace, &id, &id);
        let runtime = annotated(&[("claim", claim), ("ports", ports)]);
        let ports = add(&node, &container, runtime);
        network().del(&node, &container).run(&node).succeeded();
        ports
    };
    let keys = [
        ("a", "b", "c=1@games"),
        ("a", "b", "c=1/udp@games"),
        ("a", "b", "d=1@games"),
        ("a", "b-c", "c=1@games"),
        ("a", "b.c", "c=1@games"),
        ("a-b", "b", "c=1@games"),
        ("a", "bc", "c=1@games"),
    ];
    let ports: Vec<_> =
        keys.iter().zip(2..).map(|((n, c, p), number)| of(n, c, p, number)).collect();
    for (at, (namespace, claim, asked)) in keys.iter().enumerate() {
        let protocol_of = |asked: &str| asked.contains("udp");
        let clashes = ports.iter().zip(&keys).enumerate().filter(|(other, (port, key))| {
            *other != at && **port == ports[at] && protocol_of(key.2) == protocol_of(asked)
        });
        assert_eq!(clashes.count(), 0, "{ports:?}");
        let again = of(namespace, claim, asked, 30 + u16::try_from(at).unwrap());
        assert_eq!(again, ports[at], "{namespace}/{claim} {asked}");
    }
}

/// A process of the host may take the port while the claim is not used. The pod
/// starts all the same.
fn a_claim_moves_when_the_host_uses_its_port() {
    let node = Node::new(false);
    let web = pod("web", 2, "web", "1");
    let port = add(&node, &web, claim("web"))[0];
    network().del(&node, &web).run(&node).succeeded();
    let listener = Echo::start(&node.host, Protocol::Tcp, port, "host");
    let outcome = network().add_with(&node, &web, claim("web")).run(&node);
    outcome.succeeded();
    let moved = ports_of(&node, &web)[0];
    assert_ne!(moved, port);
    assert!(outcome.stderr.contains("moves"), "{}", outcome.stderr);
    drop(listener);
    network().del(&node, &web).run(&node).succeeded();
    assert_eq!(add(&node, &web, claim("web"))[0], moved);
}

fn an_unused_claim_expires() {
    let node = Node::new(false);
    let brief = |name: &str| annotated(&[("group", "brief"), ("claim", name), ("ports", "a=1")]);
    let used = pod("used", 2, "used", "1");
    let unused = pod("unused", 3, "unused", "2");
    add(&node, &used, brief("used"));
    let port = add(&node, &unused, brief("unused"));
    network().del(&node, &unused).run(&node).succeeded();
    let deadline = Instant::now() + Duration::from_secs(20);
    let late = pod("late", 4, "late", "3");
    loop {
        let call =
            network().add_with(&node, &late, annotated(&[("group", "brief"), ("ports", "a=1")]));
        let outcome = call.run(&node);
        if outcome.status.success() {
            break;
        }
        outcome.failed_with(101);
        assert!(Instant::now() < deadline, "the claim does not expire");
    }
    assert_eq!(ports_of(&node, &late), port);
    // The one that is in use does not expire, however long.
    assert_eq!(leases_of(&node, &used).len(), 1);
    let other = pod("other", 5, "other", "4");
    network().add_with(&node, &other, brief("used")).run(&node).failed_with(11);
}

/// An ADD that fails leaves no reservation behind.
fn a_refused_add_claims_nothing() {
    let node = Node::new(false);
    let web = pod("web", 2, "web", "1");
    let mut runtime = annotated(&[("group", "one"), ("claim", "web"), ("ports", "a=1,b=2/udp")]);
    runtime["portMappings"] = json!([{ "containerPort": 1, "protocol": "udp", "hostPort": 7200 }]);
    network().add_with(&node, &web, runtime).run(&node).failed_with(101);
    // What fails after the commit is taken back as well.
    fs_block(&node);
    let claimed = annotated(&[("group", "one"), ("claim", "web"), ("ports", "a=1")]);
    network().add_with(&node, &web, claimed.clone()).run(&node).failed_with(5);
    std::fs::remove_file(node.run_dir().join("pods")).unwrap();
    let other = pod("other", 3, "other", "2");
    assert_eq!(add(&node, &other, annotated(&[("group", "one"), ("ports", "a=1")])), [7200]);
    assert_eq!(forwarded(&node, &network()).len(), 1);
}

/// A connection that the host has opened from the port of an unused claim, by the
/// kernel's choice, made the claim move for good, although it is over soon and
/// forwarding does it no harm.
fn a_claim_does_not_move_for_a_connection_of_the_host() {
    let node = Node::new(false);
    let web = pod("web", 2, "web", "1");
    let claimed = annotated(&[("group", "one"), ("claim", "web"), ("ports", "a=1/tcp+udp")]);
    assert_eq!(add(&node, &web, claimed.clone()), [7200, 7200]);
    network().del(&node, &web).run(&node).succeeded();
    let _server = Echo::start(&node.outside, Protocol::Udp, 9, "outside");
    let connection = node.host.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7200)).unwrap();
        socket.connect((Family::V4.outside(), 9)).unwrap();
        socket
    });
    assert_eq!(add(&node, &web, claimed.clone()), [7200, 7200], "unused before");
    assert_eq!(add(&node, &web, claimed.clone()), [7200, 7200], "repeated");
    network().del(&node, &web).run(&node).succeeded();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.send(b"who?").unwrap();
    assert_eq!(add(&node, &web, claimed), [7200, 7200]);
    assert!(connection.recv(&mut [0; 64]).is_ok(), "the connection takes no harm");
}

/// Puts a file where published files would go.
fn fs_block(node: &Node) {
    std::fs::create_dir_all(node.run_dir()).unwrap();
    std::fs::write(node.run_dir().join("pods"), "").unwrap();
}

fn a_block_is_claimed_as_a_whole() {
    let node = Node::new(false);
    let block = |count: u16| {
        let ports = format!(
            r#"[{{"name": "rtp", "containerPort": 1, "count": {count}, "group": "games"}}]"#
        );
        annotated(&[("claim", "relay"), ("ports", &ports)])
    };
    let relay = pod("relay", 2, "relay", "1");
    let four = add(&node, &relay, block(4));
    network().del(&node, &relay).run(&node).succeeded();
    for port in &four {
        let mapping = json!([{ "hostPort": port, "containerPort": 80 }]);
        network().add(&node, &pod("x", 9, "x", "9"), mapping).run(&node).failed_with(100);
    }
    assert_eq!(add(&node, &relay, block(4)), four);
    network().del(&node, &relay).run(&node).succeeded();
    // A smaller one keeps where it begins; a larger one grows if there is room.
    assert_eq!(add(&node, &relay, block(2)), four[..2]);
    network().del(&node, &relay).run(&node).succeeded();
    let ten = add(&node, &relay, block(10));
    assert_eq!(ten, (7000..7010).collect::<Vec<_>>());
}

/// One trial for each promise.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 11] = [
        ("stateful-set", pods_of_a_stateful_set_keep_their_ports),
        ("rolling-update", a_rolling_update_waits_for_the_claim),
        ("late-dels", a_new_sandbox_takes_over_and_late_dels_do_not_matter),
        ("reserved", a_reserved_port_is_nobody_elses),
        ("preferred", a_preferred_port_is_taken_if_it_is_free),
        ("keys", neither_names_nor_protocols_nor_namespaces_collide),
        ("moves", a_claim_moves_when_the_host_uses_its_port),
        ("connection", a_claim_does_not_move_for_a_connection_of_the_host),
        ("expires", an_unused_claim_expires),
        ("refused", a_refused_add_claims_nothing),
        ("block", a_block_is_claimed_as_a_whole),
    ];
    crate::trials("claim", tests)
}
