//! What keeps store and kernel right over time: CHECK, GC, STATUS, healing, damage.

use std::{fs, os::unix::fs::symlink, path::Path};

use fs2::FileExt as _;
use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    held::{assert_nothing_held, element_count, elements, forwarded, leases, leases_of},
    node::{Family, Node},
    tool::ctl,
    traffic::{PATIENCE, ask, serve},
};

fn network() -> Network {
    Network::bridge("podnet", true)
}

fn fixed(port: u16) -> Value {
    json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }])
}

#[track_caller]
fn add(network: &Network, node: &Node, container: &Container, port: u16) {
    network.add(node, container, fixed(port)).run(node).succeeded();
}

fn gc_keeps_what_is_valid() {
    let node = Node::new(false);
    let other = network().named("othernet");
    let containers: Vec<_> = (0..4).map(|n| Container::on_paper(&format!("c{n}"), n)).collect();
    for (container, port) in containers[..3].iter().zip(8080..) {
        add(&network(), &node, container, port);
    }
    add(&other, &node, &containers[3], 9000);
    let count = element_count(&node, &other);

    let valid = json!([{ "containerID": "c1", "ifname": "eth0" },
                       { "containerID": "c2", "ifname": "eth1" },
                       { "containerID": "gone", "ifname": "eth0" }]);
    network().gc(&node, valid).run(&node).succeeded();
    let ids: Vec<_> = leases(&node).into_iter().map(|held| held.container).collect();
    assert_eq!(ids, ["c3", "c1"], "othernet's, then podnet's");
    let container = "10.99.0.1:80".parse().unwrap();
    assert_eq!(forwarded(&node, &network()), [(("tcp".to_owned(), 8081), container)].into());
    assert!(node.run_dir().join("containers/c1").exists());
    assert!(!node.run_dir().join("containers/c0").exists());

    network().gc(&node, Value::Null).run(&node).succeeded();
    let ids: Vec<_> = leases(&node).into_iter().map(|held| held.container).collect();
    assert_eq!(ids, ["c3"]);
    assert_eq!(element_count(&node, &other), count);
    assert!(forwarded(&node, &network()).is_empty());

    // Absent is not empty: a caller that forgot the list would lose everything.
    let mut call = other.gc(&node, Value::Null);
    let mut config: Value = serde_json::from_slice(&call.stdin).unwrap();
    config.as_object_mut().unwrap().remove("cni.dev/valid-attachments");
    call.stdin = config.to_string().into();
    call.run(&node).failed();
    assert_eq!(leases(&node).len(), 1);
    other.gc(&node, json!([])).run(&node).succeeded();
    assert_nothing_held(&node, &other);
}

fn gc_where_nothing_ever_was() {
    let node = Node::new(false);
    network().gc(&node, json!([])).run(&node).succeeded();
    assert!(!node.data_dir().exists());
}

fn status() {
    let node = Node::new(false);
    network().status(&node).run(&node).succeeded();
    add(&network(), &node, &Container::on_paper("web", 2), 8080);
    network().status(&node).run(&node).succeeded();

    let file = node.folder("file");
    fs::write(&file, "").unwrap();
    for folder in [file.clone(), file.join("data")] {
        let unusable = network().option("dataDir", json!(folder));
        unusable.status(&node).run(&node).failed_with(50);
    }
}

/// With the backend nft and without that program nothing can be forwarded, nor taken
/// back: the store must go on saying what the kernel holds.
fn without_the_nft_that_is_configured() {
    let network = || network().by_nft();
    let mut node = Node::new(false);
    let [web, late] = [Container::on_paper("web", 2), Container::on_paper("late", 3)];
    add(&network(), &node, &web, 8080);
    let before = (leases(&node), node.traces());
    // Where Debian has nft, and nothing else that is needed here.
    node.hide("/usr/sbin");
    network().status(&node).run(&node).failed_with(50);
    network().add(&node, &late, fixed(8081)).run(&node).failed_with(104);
    network().del(&node, &web).run(&node).failed_with(104);
    network().gc(&node, Value::Null).run(&node).failed_with(104);
    network().del(&node, &late).run(&node).succeeded();
    assert_eq!((leases(&node), node.traces()), before);
    node.show();
    network().del(&node, &web).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

/// A node that has no nft, as many have none, lacks nothing.
fn without_nft() {
    let network = || network().option("backend", "netlink".into());
    let mut node = Node::new(false);
    node.host.nft("table inet filter { chain forward { type filter hook forward priority 0; }; }");
    let chain = network().option("acceptIn", json!(["inet filter forward"]));
    let [web, late] = [Container::on_paper("web", 2), Container::on_paper("late", 3)];
    node.hide("/usr/sbin");
    chain.status(&node).run(&node).succeeded();
    add(&chain, &node, &web, 8080);
    add(&chain, &node, &late, 8081);
    chain.clone().version("1.1.0").check(&node, &web, fixed(8080)).run(&node).succeeded();
    assert!(node.host.nft("list chain inet filter forward").contains("accept comment"));
    chain.del(&node, &late).run(&node).succeeded();
    node.host.nft("flush ruleset");
    ctl(&node, &network(), &["restore"]).succeeded();
    ctl(&node, &network(), &["check"]).succeeded();
    let valid = json!([{ "containerID": "web", "ifname": "eth0" }]);
    network().gc(&node, valid).run(&node).succeeded();
    assert_eq!(forwarded(&node, &network()).len(), 1);
    ctl(&node, &network(), &["reset", "--yes"]).succeeded();
    assert_eq!(node.host.nft("list tables"), "");
    network().del(&node, &web).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

/// The last step of ADD is to publish; when it fails, all others are undone.
fn add_that_fails_late_is_undone() {
    let node = Node::new(false);
    let [web, other] = [Container::on_paper("web", 2), Container::on_paper("other", 3)];
    add(&network(), &node, &other, 8081);
    let file = node.folder("file");
    fs::write(&file, "").unwrap();
    let unpublished = network().option("runDir", json!(file));
    let before = (leases(&node), node.traces());
    let mappings = json!([{ "containerPort": 80 }, { "containerPort": 53, "protocol": "udp" }]);
    unpublished.add(&node, &web, mappings.clone()).run(&node).failed_with(5);
    assert_eq!((leases(&node), node.traces()), before, "after the first ADD");

    network().add(&node, &web, mappings).run(&node).succeeded();
    let before = (leases(&node), node.traces());
    let more = json!([{ "containerPort": 80 }, { "containerPort": 81 }]);
    unpublished.add(&node, &web, more).run(&node).failed_with(5);
    assert_eq!((leases(&node), node.traces()), before, "after a repeated ADD");
}

fn check_finds_every_difference() {
    let node = Node::new(false);
    let network = network().version("1.1.0");
    let web = Container::on_paper("web", 2);
    let check = || network.check(&node, &web, fixed(8080)).run(&node);
    let table = "inet portclaim_podnet";
    check().failed();
    add(&network, &node, &web, 8080);
    let spoil: [&str; 8] = [
        &format!("delete element {table} any4_addr {{ tcp . 8080 }}"),
        &format!("delete element {table} any4_port {{ tcp . 8080 }}"),
        &format!("delete element {table} any6_addr {{ tcp . 8080 }}"),
        &format!("delete element {table} any6_port {{ tcp . 8080 }}"),
        &format!(
            "delete element {table} any4_port {{ tcp . 8080 }}
             add element {table} any4_port {{ tcp . 8080 : 81 }}"
        ),
        &format!(
            "delete element {table} any4_addr {{ tcp . 8080 }}
             add element {table} any4_addr {{ tcp . 8080 : 10.99.0.3 }}"
        ),
        &format!("delete table {table}"),
        "flush ruleset",
    ];
    for commands in spoil {
        assert_eq!(check().succeeded(), Value::Null, "before {commands}");
        node.host.nft(commands);
        let error = check().failed();
        assert!(error.code >= 100, "after {commands}: {error:?}");
        // A repeated ADD repairs what CHECK complains of.
        add(&network, &node, &web, 8080);
    }
    check().succeeded();
    network.check(&node, &web, fixed(8081)).run(&node).failed();
    network.del(&node, &web).run(&node).succeeded();
    check().failed();
}

/// firewalld's reload and `systemctl restart nftables` flush everything.
fn flushed_ruleset_is_put_back(network: &Network) {
    let node = Node::new(false);
    let mut web = Container::new("web");
    let mappings = json!(Protocol::ALL.map(|protocol| {
        json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol.name() })
    }));
    network.attach(&node, &mut web, mappings).succeeded();
    add(network, &node, &Container::on_paper("other", 7), 8081);
    let _servers = serve(web.namespace(), 80, "web");
    let before = elements(&node, network);
    node.host.nft("flush ruleset");
    add(network, &node, &Container::on_paper("late", 8), 8082);
    let after = elements(&node, network);
    for (name, elements) in &before {
        assert!(elements.iter().all(|e| after[name].contains(e)), "{name}: {after:?}");
    }
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            for from in [&node.outside, &node.host, web.namespace()] {
                let answer = ask(from, protocol, (family.node(), 8080).into(), PATIENCE);
                assert_eq!(answer.map(|a| a.server).as_deref(), Some("web"), "{protocol}");
            }
        }
    }
}

/// DEL after a flush has nothing to take from the kernel, and must not fail of it.
fn del_after_a_flush() {
    let node = Node::new(false);
    let [web, other] = [Container::on_paper("web", 2), Container::on_paper("other", 3)];
    add(&network(), &node, &web, 8080);
    add(&network(), &node, &other, 8081);
    node.host.nft("flush ruleset");
    network().del(&node, &web).run(&node).succeeded();
    node.host.nft("flush ruleset");
    network().gc(&node, json!([])).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

fn foreign_tables_stay_as_they_are() {
    const FOREIGN: &str = "
        table ip kube-proxy {
            map service-ips {
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = { 10.96.0.1 . tcp . 443 : goto service-x }
            }
            set nodeport-ips { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
            chain service-x { meta l4proto tcp dnat to 10.0.0.1:6443; }
            chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
            chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
        }
        table inet firewalld {
            counter hits { packets 7 bytes 8 }
            chain input { type filter hook input priority 10; tcp dport 22 counter name hits; }
        }
        table inet portclaim { chain mine { tcp dport 1 drop; }; }
        table ip portclaim_podnet { chain mine { tcp dport 1 drop; }; }";
    let node = Node::new(false);
    node.host.nft(FOREIGN);
    let foreign = || {
        ["ip kube-proxy", "inet firewalld", "inet portclaim", "ip portclaim_podnet"]
            .map(|table| node.host.nft(&format!("list table {table}")))
    };
    let before = foreign();
    let web = Container::on_paper("web", 2);
    add(&network(), &node, &web, 8080);
    assert_eq!(foreign(), before, "after ADD");
    network().check(&node, &web, fixed(8080)).run(&node).succeeded();
    network().status(&node).run(&node).succeeded();
    network().del(&node, &web).run(&node).succeeded();
    network().gc(&node, json!([])).run(&node).succeeded();
    assert_eq!(foreign(), before, "after DEL and GC");
}

/// Sandboxes do not survive a reboot, and neither do their leases.
fn reboot_forgets_attachments() {
    let mut node = Node::new(false);
    let [old, new] = [Container::on_paper("old", 2), Container::on_paper("new", 3)];
    add(&network(), &node, &old, 8080);
    node.reboot();
    add(&network(), &node, &new, 8080);
    let ids: Vec<_> = leases(&node).into_iter().map(|held| held.container).collect();
    assert_eq!(ids, ["new"]);
    // The runtime still cleans up after what ran before.
    let before = node.traces();
    network().del(&node, &old).run(&node).succeeded();
    assert_eq!(node.traces(), before);
    add(&network(), &node, &old, 8081);
    network().del(&node, &old).run(&node).succeeded();
    network().del(&node, &new).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

fn a_lock_not_had_in_time() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    add(&network(), &node, &web, 8080);
    let lock = fs::OpenOptions::new().write(true).open(node.data_dir().join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    let hasty = network().option("lockTimeout", json!("50ms"));
    let other = Container::on_paper("other", 3);
    let error = hasty.add(&node, &other, fixed(8081)).run(&node).failed_with(11);
    assert!(error.message.contains("lock"), "{error:?}");
    hasty.del(&node, &web).run(&node).failed_with(11);
    // Readers need no lock.
    assert_eq!(leases_of(&node, &web).len(), 1);
    fs2::FileExt::unlock(&lock).unwrap();
    hasty.add(&node, &other, fixed(8081)).run(&node).succeeded();
}

/// Overwrites every file at or below a folder.
fn damage(folder: &Path) {
    let files = Node::files(folder);
    assert!(!files.is_empty(), "{} holds a generation", folder.display());
    for file in files {
        fs::write(folder.join(file), [0xa5; 4096]).unwrap();
    }
}

fn a_damaged_generation_is_set_aside() {
    let node = Node::new(false);
    add(&network(), &node, &Container::on_paper("c0", 2), 8080);
    add(&network(), &node, &Container::on_paper("c1", 3), 8081);
    // Whose journal holds what follows.
    add(&network(), &node, &Container::on_paper("lost", 4), 8082);
    damage(&node.generation());
    node.forget_working_copy();
    let outcome = network().add(&node, &Container::on_paper("c2", 5), fixed(8083)).run(&node);
    outcome.succeeded();
    assert!(!outcome.stderr.is_empty(), "what was found is reported");
    let ports: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
    assert_eq!(ports, [8080, 8081, 8083], "the generation before, its journal, the new lease");
    let ports: Vec<_> = forwarded(&node, &network()).into_keys().map(|(_, port)| port).collect();
    assert_eq!(ports, [8080, 8081, 8083], "what is forwarded for nobody went");
    add(&network(), &node, &Container::on_paper("c3", 6), 8082);
    let container = "10.99.0.6:80".parse().unwrap();
    assert_eq!(forwarded(&node, &network())[&("tcp".to_owned(), 8082)], container);
    network().gc(&node, json!([])).run(&node).succeeded();
    assert_eq!(leases(&node), []);
    assert!(forwarded(&node, &network()).is_empty());
}

/// The files of a generation are damaged, and neither its journal nor what the last call
/// left to the next: nobody loses anything.
fn a_damaged_database_costs_nothing() {
    for is_killed in [false, true] {
        let node = Node::new(false);
        for (id, port) in [("c0", 8080), ("c1", 8081), ("c2", 8082)] {
            add(&network(), &node, &Container::on_paper(id, 2), port);
        }
        fs::write(node.generation().join("db"), "damaged").unwrap();
        if is_killed {
            node.forget_working_copy();
        }
        add(&network(), &node, &Container::on_paper("c3", 3), 8083);
        let ports: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
        assert_eq!(ports, [8080, 8081, 8082, 8083]);
        assert_eq!(forwarded(&node, &network()).len(), 4);
        ctl(&node, &network(), &["check"]).succeeded();
    }
}

fn a_store_that_cannot_be_read() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    add(&network(), &node, &web, 8080);
    add(&network(), &node, &Container::on_paper("c1", 3), 8081);
    for entry in fs::read_dir(node.data_dir()).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            damage(&entry.path());
        }
    }
    let error = network()
        .add(&node, &Container::on_paper("c2", 4), fixed(8082))
        .run(&node)
        .failed_with(105);
    assert!(!error.details.is_empty(), "how to recover: {error:?}");
    network().status(&node).run(&node).failed_with(50);
    network().add(&node, &Container::on_paper("c3", 5), Value::Null).run(&node).succeeded();
    let files = Node::files(&node.data_dir()).len();
    network().del(&node, &web).run(&node);
    assert!(Node::files(&node.data_dir()).len() >= files, "nothing is deleted by itself");
}

/// A data directory that lies elsewhere.
fn a_linked_data_dir() {
    let node = Node::new(false);
    fs::create_dir(node.folder("disk")).unwrap();
    symlink(node.folder("disk"), node.data_dir()).unwrap();
    let web = Container::on_paper("web", 2);
    add(&network(), &node, &web, 8080);
    assert_eq!(leases(&node).len(), 1);
    network().del(&node, &web).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

/// One trial for each.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 18] = [
        ("gc::valid", gc_keeps_what_is_valid),
        ("gc::nothing-there", gc_where_nothing_ever_was),
        ("status", status),
        ("without-nft", without_nft),
        ("without-nft::configured", without_the_nft_that_is_configured),
        ("undo", add_that_fails_late_is_undone),
        ("check", check_finds_every_difference),
        ("flush::bridge", || flushed_ruleset_is_put_back(&network())),
        ("flush::ptp", || flushed_ruleset_is_put_back(&Network::ptp("podnet"))),
        ("flush::del", del_after_a_flush),
        ("foreign-tables", foreign_tables_stay_as_they_are),
        ("reboot", reboot_forgets_attachments),
        ("lock", a_lock_not_had_in_time),
        ("damage::current", a_damaged_generation_is_set_aside),
        ("damage::database", a_damaged_database_costs_nothing),
        ("damage::all", a_store_that_cannot_be_read),
        ("linked-data-dir", a_linked_data_dir),
        ("uninterrupted", traffic_goes_on_while_others_come_and_go),
    ];
    crate::trials("upkeep", tests)
}

/// A TCP and a UDP client of one container notice nothing of another's ADD and DEL.
fn traffic_goes_on_while_others_come_and_go() {
    let node = Node::new(false);
    let network = network();
    let mut web = Container::new("web");
    network.attach(&node, &mut web, fixed(8080)).succeeded();
    let _servers = serve(web.namespace(), 80, "web");
    for port in 9000..9005 {
        let other = Container::on_paper("other", port);
        add(&network, &node, &other, port);
        let answer = ask(&node.outside, Protocol::Tcp, (Family::V4.node(), 8080).into(), PATIENCE);
        assert!(answer.is_some(), "after ADD");
        network.del(&node, &other).run(&node).succeeded();
        let answer = ask(&node.outside, Protocol::Tcp, (Family::V6.node(), 8080).into(), PATIENCE);
        assert!(answer.is_some(), "after DEL");
    }
}
