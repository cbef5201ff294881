//! Which host ports are given, to whom, and which are refused.

use std::collections::HashSet;

use libtest_mimic::Trial;
use portclaim::lease::{HostAddress, Protocol};
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    held::{leases, ports_of},
    node::{Family, Node},
    traffic::Echo,
};

fn network() -> Network {
    Network::bridge("podnet", true)
}

/// A network that gives dynamic ports from these.
fn network_with_pool(ports: &str) -> Network {
    network().option("groups", json!({ "default": { "ports": ports, "cooldown": "60s" } }))
}

fn fixed(port: u16) -> Value {
    json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" })
}

/// Requests for dynamic TCP ports, in both ways of writing them.
fn dynamic(count: u16) -> Value {
    (0..count)
        .map(|i| match i % 2 {
            0 => json!({ "containerPort": 80 + i }),
            _ => json!({ "containerPort": 80 + i, "hostPort": 0, "protocol": "tcp" }),
        })
        .collect()
}

/// Everything that an ADD could change.
fn state(node: &Node) -> impl PartialEq + std::fmt::Debug + use<> {
    (leases(node), node.traces())
}

/// portmap gives a port to the last who asks and tells nobody.
fn second_owner_is_told_the_first() {
    let node = Node::new(false);
    let first = Container::on_paper("first", 2)
        .with_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0");
    network().add(&node, &first, json!([fixed(8080)])).run(&node).succeeded();
    let before = state(&node);

    let second = Container::on_paper("second", 3);
    for network in [network(), Network::ptp("othernet")] {
        let mappings = json!([fixed(8081), { "containerPort": 1 }, fixed(8080)]);
        let error = network.add(&node, &second, mappings).run(&node).failed_with(100);
        for part in ["8080/tcp", "first", "eth0", "shop/web-0"] {
            assert!(error.message.contains(part), "{part} in {error:?}");
        }
        assert_eq!(state(&node), before, "after a refused ADD");
    }
    let udp = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "UDP" }]);
    network().add(&node, &second, udp).run(&node).succeeded();
    network().del(&node, &first).run(&node).succeeded();
    let third = Container::on_paper("third", 4);
    network().add(&node, &third, json!([fixed(8080)])).run(&node).succeeded();
}

fn host_addresses_conflict_where_they_overlap() {
    const ADDRESSES: [&str; 7] =
        ["", "0.0.0.0", "::", "192.0.2.1", "192.0.2.10", "2001:db8:2::1", "127.0.0.1"];
    let node = Node::new(false);
    let [first, second] = [Container::on_paper("first", 2), Container::on_paper("second", 3)];
    let mapping = |host_ip| json!([{ "hostPort": 8080, "containerPort": 80, "hostIP": host_ip }]);
    for a in ADDRESSES {
        network().add(&node, &first, mapping(a)).run(&node).succeeded();
        for b in ADDRESSES {
            let outcome = network().add(&node, &second, mapping(b)).run(&node);
            let [held, wanted]: [HostAddress; 2] = [a, b].map(|text| text.parse().unwrap());
            if held.overlaps(&wanted) {
                outcome.failed_with(100);
            } else {
                outcome.succeeded();
                network().del(&node, &second).run(&node).succeeded();
            }
        }
        network().del(&node, &first).run(&node).succeeded();
    }
    assert_eq!(leases(&node), []);
}

fn dynamic_ports_come_from_the_pool() {
    let node = Node::new(false);
    let network = network_with_pool("20000-20004,20010");
    let pool = HashSet::from([20000, 20001, 20002, 20003, 20004, 20010]);
    let mut given = HashSet::new();
    for number in 0..2 {
        let container = Container::on_paper(&format!("c{number}"), number);
        network.add(&node, &container, dynamic(3)).run(&node).succeeded();
        given.extend(ports_of(&node, &container));
    }
    assert_eq!(given, pool);
    assert!(leases(&node).iter().all(|held| held.group.as_deref() == Some("default")));

    // Each protocol has all the ports.
    let udp = json!([{ "containerPort": 53, "protocol": "udp" }]);
    network.add(&node, &Container::on_paper("udp", 9), udp).run(&node).succeeded();

    let before = state(&node);
    let late = Container::on_paper("late", 10);
    for mappings in [dynamic(1), json!([fixed(8080), { "containerPort": 53 }])] {
        let error = network.add(&node, &late, mappings).run(&node).failed_with(101);
        assert!(error.message.contains("default"), "{error:?}");
        assert_eq!(state(&node), before, "after a refused ADD");
    }
    network.status(&node).run(&node).succeeded();
}

fn the_default_pool() {
    let node = Node::new(false);
    let container = Container::on_paper("web", 2);
    network().add(&node, &container, dynamic(8)).run(&node).succeeded();
    let ports = ports_of(&node, &container);
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 8, "{ports:?}");
    assert!(ports.iter().all(|port| (10000..=19999).contains(port)), "{ports:?}");
    // Drawn, not counted: 8 neighbours in a row would be a wonder.
    assert!(ports[7] - ports[0] > 8, "{ports:?}");
}

/// Late packets of the old owner's clients must not reach the next one.
fn a_port_rests_after_its_release() {
    let node = Node::new(false);
    let network = network_with_pool("20000-20005");
    let mut given = HashSet::new();
    let mut take = |number| {
        let container = Container::on_paper(&format!("c{number}"), number);
        network.add(&node, &container, dynamic(1)).run(&node).succeeded();
        let port = ports_of(&node, &container)[0];
        network.del(&node, &container).run(&node).succeeded();
        (given.insert(port), port)
    };
    for number in 0..6 {
        assert!(take(number).0, "round {number}");
    }
    // All of them rest: none is refused for that.
    let (is_new, last) = take(6);
    assert!(!is_new);
    // Asked for by number, a port need not rest.
    let container = Container::on_paper("static", 9);
    network.add(&node, &container, json!([fixed(last)])).run(&node).succeeded();
    assert_eq!(ports_of(&node, &container), [last]);
}

fn excluded_ports_are_not_drawn() {
    let container = Container::on_paper("web", 2);
    let explicit = network_with_pool("20000-20003").option("exclude", json!("20000-20001,20003"));
    let node_port = network_with_pool("29999-30005");
    let reserved = network_with_pool("20000-20003");
    for (network, expected) in [(explicit, 20002), (node_port, 29999), (reserved, 20001)] {
        let node = Node::new(false);
        node.host.sysctl("ipv4/ip_local_reserved_ports", "20000,20002-20003");
        network.add(&node, &container, dynamic(1)).run(&node).succeeded();
        assert_eq!(ports_of(&node, &container), [expected]);
        let late = Container::on_paper("late", 3);
        network.add(&node, &late, dynamic(1)).run(&node).failed_with(101);
        network.add(&node, &late, json!([fixed(20003)])).run(&node).succeeded();
    }
}

fn ports_of_host_processes_are_left_alone() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    let loopback = ("127.0.0.1:8081").parse().unwrap();
    let _listeners = [
        Echo::start(&node.host, Protocol::Tcp, 8080, "host"),
        Echo::start_on(&node.host, Protocol::Tcp, loopback, "host"),
        Echo::start(&node.host, Protocol::Udp, 5353, "host"),
    ];
    let on = |protocol: &str, host_ip: &str, port: u16| json!([{ "hostPort": port, "containerPort": 80, "protocol": protocol, "hostIP": host_ip }]);
    let before = node.traces();
    for taken in [
        on("tcp", "", 8080),
        on("tcp", "192.0.2.1", 8080),
        on("tcp", "2001:db8:2::1", 8080),
        on("tcp", "", 8081),
        on("tcp", "0.0.0.0", 8081),
        on("tcp", "127.0.0.1", 8081),
        on("udp", "", 5353),
    ] {
        let error = network().add(&node, &web, taken.clone()).run(&node).failed_with(103);
        let port = taken[0]["hostPort"].to_string();
        assert!(error.message.contains(&port), "{port} in {error:?}");
        assert_eq!((leases(&node), node.traces()), (vec![], before.clone()), "{taken}");
    }
    for free in [
        on("udp", "", 8080),
        on("tcp", "", 5353),
        on("sctp", "", 8080),
        on("tcp", "192.0.2.1", 8081),
        on("tcp", "::", 8081),
    ] {
        network().add(&node, &web, free).run(&node).succeeded();
        network().del(&node, &web).run(&node).succeeded();
    }
    let shadow = network().option("hostListeners", json!("shadow"));
    shadow.add(&node, &web, on("tcp", "", 8080)).run(&node).succeeded();
}

fn dynamic_ports_avoid_host_processes() {
    let node = Node::new(false);
    let network = network_with_pool("20000-20003").option("hostListeners", json!("shadow"));
    let v6 = "[2001:db8:2::1]:20001".parse().unwrap();
    let v4 = (Family::V4.other_node(), 20003).into();
    let _listeners = [
        Echo::start(&node.host, Protocol::Tcp, 20000, "host"),
        Echo::start_on(&node.host, Protocol::Tcp, v6, "host"),
        Echo::start_on(&node.host, Protocol::Tcp, v4, "host"),
    ];
    let web = Container::on_paper("web", 2);
    network.add(&node, &web, dynamic(1)).run(&node).succeeded();
    assert_eq!(ports_of(&node, &web), [20002]);
    let late = Container::on_paper("late", 3);
    network.add(&node, &late, dynamic(1)).run(&node).failed_with(101);
}

fn a_repeated_add_keeps_the_ports() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    let mappings = |count| {
        let mut mappings = dynamic(count);
        mappings.as_array_mut().unwrap().push(fixed(8080));
        mappings
    };
    network().add(&node, &web, mappings(3)).run(&node).succeeded();
    let before = state(&node);
    for _ in 0..3 {
        network().add(&node, &web, mappings(3)).run(&node).succeeded();
        assert_eq!(state(&node), before);
    }
    let ports = ports_of(&node, &web);
    network().add(&node, &web, mappings(4)).run(&node).succeeded();
    let more = ports_of(&node, &web);
    assert_eq!(more.len(), 5);
    assert!(ports.iter().all(|port| more.contains(port)), "{ports:?} in {more:?}");
    network().add(&node, &web, mappings(1)).run(&node).succeeded();
    let fewer = ports_of(&node, &web);
    assert_eq!(fewer.len(), 2);
    assert!(fewer.iter().all(|port| ports.contains(port)), "{fewer:?} in {ports:?}");
    network().add(&node, &web, json!([])).run(&node).succeeded();
    assert_eq!(leases(&node), []);
}

/// One trial for each rule.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 9] = [
        ("second-owner", second_owner_is_told_the_first),
        ("host-addresses", host_addresses_conflict_where_they_overlap),
        ("pool", dynamic_ports_come_from_the_pool),
        ("default-pool", the_default_pool),
        ("cooldown", a_port_rests_after_its_release),
        ("exclude", excluded_ports_are_not_drawn),
        ("host-processes::static", ports_of_host_processes_are_left_alone),
        ("host-processes::dynamic", dynamic_ports_avoid_host_processes),
        ("repeated-add", a_repeated_add_keeps_the_ports),
    ];
    crate::trials("lease", tests)
}
