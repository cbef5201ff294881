//! What is left half done, lost or in the way, and how it is put right.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    process::Command,
};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network},
    held::{assert_nothing_held, forwarded, leases, ports_of},
    node::Node,
};

pub fn network() -> Network {
    Network::bridge("podnet", true)
}

pub fn fixed(port: u16) -> Value {
    json!([{ "hostPort": port, "containerPort": 80 }])
}

#[track_caller]
pub fn add(node: &Node, container: &Container, mappings: Value) {
    network().add(node, container, mappings).run(node).succeeded();
}

/// The TCP ports that the kernel forwards, sorted.
pub fn forwarded_ports(node: &Node) -> Vec<u16> {
    forwarded(node, &network()).into_keys().map(|(_, port)| port).collect()
}

/// A folder with an `nft` that kills whoever runs it: the `at`th time, before or
/// after it has done its work.
pub fn deadly_nft(node: &Node, at: u32, after: bool) -> String {
    let folder = node.folder(&format!("nft-{at}-{after}"));
    fs::create_dir(&folder).unwrap();
    let (script, count) = (folder.join("nft"), folder.join("count"));
    fs::write(&count, "0\n").unwrap();
    let work = if after { "/usr/sbin/nft \"$@\"" } else { ":" };
    let count = count.display();
    let text = format!(
        "#!/bin/sh\nread n < {count}\nn=$((n + 1))\necho $n > {count}\n\
         if [ $n = {at} ]; then {work}; kill -9 $PPID; exit 1; fi\nexec /usr/sbin/nft \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// A repeated ADD that asks for another port has two steps in the kernel. Killed
/// at either of them, it must leave nothing that its DEL does not find: another
/// container that got the old port was not reached through it once.
fn repeated_add_killed_at_nft() {
    for (at, after) in [(1, false), (1, true), (2, false), (2, true)] {
        let node = Node::new(false);
        let [web, other] = [Container::on_paper("web", 2), Container::on_paper("other", 3)];
        add(&node, &web, fixed(8080));
        add(&node, &other, fixed(7070));
        let path = deadly_nft(&node, at, after);
        let call = network().add(&node, &web, fixed(9090)).by_nft().with("PATH", &path);
        let outcome = call.run(&node);
        assert_eq!(outcome.status.signal(), Some(9), "{at} {after}: {outcome:?}");
        let held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
        for port in forwarded_ports(&node) {
            assert!(held.contains(&port), "{at} {after}: {port} of {held:?}");
        }
        network().del(&node, &web).run(&node).succeeded();
        assert_eq!(forwarded_ports(&node), [7070], "{at} {after}");
        network().del(&node, &other).run(&node).succeeded();
        assert_nothing_held(&node, &network());
    }
}

/// Whoever comes next, also a container without ports or one that goes, puts the
/// rules of the others back.
fn every_verb_heals_a_flushed_table() {
    let node = Node::new(false);
    let network = network().version("1.1.0");
    let [web, gone, plain] = ["web", "gone", "plain"].map(|id| Container::on_paper(id, 2));
    add(&node, &web, fixed(8080));
    add(&node, &gone, fixed(8081));
    node.host.nft("flush ruleset");
    network.add(&node, &plain, Value::Null).run(&node).succeeded();
    assert_eq!(forwarded_ports(&node), [8080, 8081], "after ADD without ports");
    node.host.nft("flush ruleset");
    network.del(&node, &plain).run(&node).succeeded();
    assert_eq!(forwarded_ports(&node), [8080, 8081], "after DEL without ports");
    node.host.nft("flush ruleset");
    network.del(&node, &gone).run(&node).succeeded();
    assert_eq!(forwarded_ports(&node), [8080], "after DEL");
    node.host.nft("delete table inet portclaim_podnet");
    let valid = json!([{ "containerID": "web", "ifname": "eth0" }]);
    network.gc(&node, valid).run(&node).succeeded();
    assert_eq!(forwarded_ports(&node), [8080], "after GC");
}

/// A disk without room must not keep containers from going.
fn containers_go_also_when_the_disk_is_full() {
    let node = Node::new(false);
    let [web, plain] = [Container::on_paper("web", 2), Container::on_paper("plain", 3)];
    fs::create_dir(node.data_dir()).unwrap();
    let mount = |arguments: &[&str]| {
        let status = Command::new(arguments[0]).args(&arguments[1..]).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    let data_dir = node.data_dir();
    let data_dir = data_dir.to_str().unwrap();
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", data_dir]);
    // The first generation of a boot is kept, the one before the last makes room.
    for container in ["first", "second", "third"] {
        add(&node, &Container::on_paper(container, 4), json!([{ "containerPort": 80 }]));
    }
    add(&node, &web, fixed(8080));
    let mut ballast = fs::File::create(node.data_dir().join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    network().status(&node).run(&node).failed_with(50);
    network().del(&node, &plain).run(&node).succeeded();
    network().add(&node, &plain, Value::Null).run(&node).succeeded();
    assert_eq!(ports_of(&node, &web), [8080], "readers need no room");
    network().del(&node, &web).run(&node).succeeded();
    assert!(ports_of(&node, &web).is_empty());

    drop(ballast);
    mount(&["mount", "-o", "remount,ro", data_dir]);
    network().status(&node).run(&node).failed_with(50);
    network().del(&node, &plain).run(&node).succeeded();
    network().add(&node, &plain, fixed(8080)).run(&node).failed_with(5);
    mount(&["umount", data_dir]);
}

/// The second commit of a store makes a generation to fall back on.
fn begin_another_generation(node: &Node) {
    let before = node.generation();
    let passing = Container::on_paper("passing", 9);
    add(node, &passing, fixed(9999));
    network().del(node, &passing).run(node).succeeded();
    assert_ne!(node.generation(), before);
}

/// The current generation and its journal are damaged.
fn lose_last_commits(node: &Node) {
    for file in ["db", "journal"] {
        fs::write(node.generation().join(file), "damaged").unwrap();
    }
    node.forget_working_copy();
}

/// A store that fell back begins another lineage, and the table gets it from
/// whoever comes next. When that was the DEL of a container without ports, the
/// store did not keep it: the table was made anew by each such DEL, and every
/// CHECK failed.
fn a_store_that_fell_back_keeps_its_new_lineage() {
    let node = Node::new(false);
    let [web, last, plain] = ["web", "last", "plain"].map(|id| Container::on_paper(id, 2));
    add(&node, &web, fixed(8080));
    network().add(&node, &plain, Value::Null).run(&node).succeeded();
    begin_another_generation(&node);
    add(&node, &last, fixed(8081));
    lose_last_commits(&node);
    network().del(&node, &plain).run(&node).succeeded();
    // What was given back in the journal that is lost is held again, until its DEL.
    network().del(&node, &Container::on_paper("passing", 9)).run(&node).succeeded();
    assert_eq!(forwarded_ports(&node), [8080]);
    network().check(&node, &web, fixed(8080)).run(&node).succeeded();
    let before = node.traces();
    network().del(&node, &plain).run(&node).succeeded();
    assert_eq!(node.traces(), before);
}

/// The only lease of a network is lost: its DEL must take it out of the kernel
/// all the same, and so must the ADD of whoever comes next.
fn what_was_lost_leaves_an_empty_network() {
    for is_del in [true, false] {
        let node = Node::new(false);
        let [web, lost, plain] = ["web", "lost", "plain"].map(|id| Container::on_paper(id, 2));
        let other = network().named("othernet");
        add(&node, &web, fixed(8080));
        begin_another_generation(&node);
        other.add(&node, &lost, fixed(8081)).run(&node).succeeded();
        lose_last_commits(&node);
        // Another network commits in between.
        network().del(&node, &web).run(&node).succeeded();
        if is_del {
            other.del(&node, &lost).run(&node).succeeded();
        } else {
            other.add(&node, &plain, Value::Null).run(&node).succeeded();
        }
        assert!(forwarded(&node, &other).is_empty(), "{is_del}");
    }
}

/// What the kernel forwards for leases that nobody knows of any more goes with
/// the next ADD: here all of them, for the database was moved away as the error
/// for a damaged one says.
fn a_new_store_gives_up_the_old_elements() {
    let node = Node::new(false);
    let [old, new] = [Container::on_paper("old", 2), Container::on_paper("new", 3)];
    add(&node, &old, fixed(8080));
    fs::rename(node.data_dir(), node.folder("moved")).unwrap();
    network().del(&node, &old).run(&node).succeeded();
    add(&node, &new, fixed(9090));
    assert_eq!(forwarded_ports(&node), [9090]);
}

/// CRI-O calls CHECK after each ADD: dynamic and static ports for one container
/// port must be told apart, in whatever order they stand.
fn check_tells_dynamic_from_static() {
    let dynamic = json!({ "containerPort": 80 });
    let fixed = json!({ "hostPort": 8080, "containerPort": 80 });
    for mappings in [
        json!([dynamic, dynamic, fixed]),
        json!([dynamic, fixed, dynamic]),
        json!([fixed, dynamic, dynamic]),
    ] {
        let node = Node::new(false);
        let web = Container::on_paper("web", 2);
        add(&node, &web, mappings.clone());
        network().check(&node, &web, mappings).run(&node).succeeded();
    }
}

/// A kubelet deletes a pod's old sandbox after it has made the new one, and a pod
/// may have ports on two networks: the files are those of who is still there.
fn files_are_those_of_who_is_left() {
    let node = Node::new(false);
    let pod = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0";
    let [old, new] = ["old", "new"].map(|id| Container::on_paper(id, 2).with_args(pod));
    let env = node.run_dir().join("pods/shop/web-0/ports.env");
    let published = || fs::read_to_string(&env).unwrap_or_default();
    add(&node, &old, fixed(8080));
    add(&node, &new, fixed(8081));
    network().del(&node, &old).run(&node).succeeded();
    assert_eq!(published(), "TCP_PORT=8081\n", "after the old sandbox's DEL");

    let second = network().named("second");
    second.add(&node, &new, fixed(9090)).run(&node).succeeded();
    assert_eq!(published(), "TCP_PORT=9090\n", "the attachment that came last");
    second.del(&node, &new).run(&node).succeeded();
    assert_eq!(published(), "TCP_PORT=8081\n", "after the second network's DEL");
    network().del(&node, &new).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

pub fn trials() -> Vec<Trial> {
    crate::trials(
        "recovery",
        [
            ("killed-at-nft", repeated_add_killed_at_nft as fn()),
            ("healing", every_verb_heals_a_flushed_table),
            ("full-disk", containers_go_also_when_the_disk_is_full),
            ("lineage", a_store_that_fell_back_keeps_its_new_lineage),
            ("lost", what_was_lost_leaves_an_empty_network),
            ("new-store", a_new_store_gives_up_the_old_elements),
            ("check", check_tells_dynamic_from_static),
            ("files", files_are_those_of_who_is_left),
        ],
    )
}
