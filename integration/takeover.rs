//! A new sandbox of a pod in place of the one before, an ADD that asks for
//! something else than the last one, and both when they fail half-way.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
};

use libtest_mimic::Trial;
use portclaim::lease::Claim;
use serde_json::{Value, json};

use crate::{
    chain::{Container, Network, annotated},
    held::{Held, assert_nothing_held, claims, leases, ports_of},
    node::{Family, Node},
    traffic::{Flow, PATIENCE, SILENCE, serve},
};

fn network() -> Network {
    Network::bridge("podnet", true).option(
        "groups",
        json!({
            "default": { "ports": "10000-10099" },
            "games": { "ports": "7000-7039", "cooldown": "0s" },
        }),
    )
}

/// The sandbox of pod `games/arena-0` with this container ID.
fn sandbox(id: &str, number: u16) -> Container {
    Container::on_paper(id, number).in_pod("games", "arena-0", "1")
}

fn ports(claim: &str, ports: &str) -> Value {
    annotated(&[("claim", claim), ("ports", ports)])
}

/// All that there is of the node's ports.
fn state(node: &Node) -> (Vec<Held>, Vec<Claim>, String) {
    (leases(node), claims(node), node.traces())
}

/// What an ADD changes.
struct Change {
    name: &'static str,
    /// Calls before it: whether ADD or DEL, the sandbox, and what it asks for.
    before: &'static [(bool, &'static str, &'static str, &'static str)],
    /// The sandbox that is added then, its claim and its ports.
    add: (&'static str, &'static str, &'static str),
}

const CHANGES: [Change; 8] = [
    Change { name: "first", before: &[], add: ("a", "web", "game=1/tcp+udp@games,x=2") },
    Change {
        name: "unused claim",
        before: &[(true, "a", "web", "game=1@games"), (false, "a", "", "")],
        add: ("b", "web", "game=1@games"),
    },
    Change {
        name: "unused claim, one more protocol",
        before: &[(true, "a", "web", "game=1@games"), (false, "a", "", "")],
        add: ("b", "web", "game=1/tcp+udp@games"),
    },
    Change {
        name: "claim that grows",
        before: &[(
            true,
            "a",
            "web",
            r#"[{"name":"g","containerPort":1,"count":2,"group":"games"}]"#,
        )],
        add: ("a", "web", r#"[{"name":"g","containerPort":1,"count":12,"group":"games"}]"#),
    },
    Change {
        name: "claim that moves to another group",
        before: &[(true, "a", "web", "game=1@games")],
        add: ("a", "web", "game=1"),
    },
    Change {
        name: "new sandbox",
        before: &[(true, "a", "web", "game=1/tcp+udp@games,x=2")],
        add: ("b", "web", "game=1/tcp+udp@games,x=2"),
    },
    Change {
        name: "new sandbox that asks for something else",
        before: &[(true, "a", "web", "game=1/tcp+udp@games,x=2")],
        add: ("b", "other", "game=1/tcp@games,y=2"),
    },
    Change {
        name: "other ports and another claim",
        before: &[(true, "a", "web", "game=1/tcp+udp@games,x=2")],
        add: ("a", "other", "game=1/udp@games,y=3"),
    },
];

fn number(id: &str) -> u16 {
    id.as_bytes()[0].into()
}

impl Change {
    fn prepare(&self, node: &Node) {
        // Somebody else, who must not notice anything.
        let other = Container::on_paper("other", 9).in_pod("games", "other", "9");
        let call = network().add_with(node, &other, ports("theirs", "game=1@games,x=1"));
        call.run(node).succeeded();
        for (is_add, id, claim, asked) in self.before {
            let container = sandbox(id, number(id));
            if *is_add {
                let call = network().add_with(node, &container, ports(claim, asked));
                call.run(node).succeeded();
            } else {
                network().del(node, &container).run(node).succeeded();
            }
        }
    }

    fn call(&self, node: &Node) -> crate::chain::Call {
        let (id, claim, asked) = self.add;
        network().add_with(node, &sandbox(id, number(id)), ports(claim, asked))
    }

    /// What remains when all is given back is what was claimed.
    fn end(&self, node: &Node) {
        for id in ["a", "b", "other"] {
            let container = Container::on_paper(id, number(id));
            network().del(node, &container).run(node).succeeded();
        }
        assert_nothing_held(node, &network());
        assert!(claims(node).iter().all(|claim| claim.holder.is_none()), "{}", self.name);
    }
}

/// An `nft` that fails the `at`th time.
fn failing_nft(node: &Node, at: u32) -> String {
    let folder = node.folder(&format!("nft-{at}"));
    fs::create_dir(&folder).unwrap();
    let (script, count) = (folder.join("nft"), folder.join("count"));
    fs::write(&count, "0\n").unwrap();
    let count = count.display();
    let text = format!(
        "#!/bin/sh\nread n < {count}\nn=$((n + 1))\necho $n > {count}\n\
         if [ $n = {at} ]; then echo broken >&2; exit 1; fi\nexec /usr/sbin/nft \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn nothing_changes_when_nft_fails() {
    for change in &CHANGES {
        for at in 1..=2 {
            let node = Node::new(false);
            change.prepare(&node);
            let before = state(&node);
            let path = failing_nft(&node, at);
            let outcome = change.call(&node).by_nft().with("PATH", &path).run(&node);
            if outcome.status.success() {
                assert_eq!(at, 2, "{}: nft is run at least once", change.name);
            } else {
                outcome.failed_with(104);
                assert_eq!(state(&node), before, "{}, nft fails at {at}", change.name);
                change.call(&node).run(&node).succeeded();
            }
            change.end(&node);
        }
    }
}

fn nothing_changes_when_files_cannot_be_written() {
    for change in &CHANGES {
        let node = Node::new(false);
        change.prepare(&node);
        // A folder that takes no file, and whose files stay as they are.
        let folder = node.run_dir().join("pods/games");
        let folder = if folder.join("arena-0").exists() { folder.join("arena-0") } else { folder };
        let before = state(&node);
        let chattr = |flag: &str| {
            Command::new("chattr").arg(flag).arg(&folder).status().is_ok_and(|it| it.success())
        };
        let blocked = chattr("+i");
        assert!(blocked, "the file system has no immutable folders");
        let outcome = change.call(&node).run(&node);
        chattr("-i");
        outcome.failed_with(5);
        assert_eq!(state(&node), before, "{}", change.name);
        change.call(&node).run(&node).succeeded();
        change.end(&node);
    }
}

fn nothing_changes_when_the_disk_is_full() {
    for change in &CHANGES {
        let node = Node::new(false);
        fs::create_dir(node.data_dir()).unwrap();
        let mount = |arguments: &[&str]| {
            let status = Command::new("mount").args(arguments).status().unwrap();
            assert!(status.success(), "{arguments:?}");
        };
        let data_dir = node.data_dir();
        let data_dir = data_dir.to_str().unwrap();
        mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs", data_dir]);
        change.prepare(&node);
        fill_last_page(&node);
        // Whatever is kept beside the current generation would make room.
        let current = node.generation();
        let durable = node.data_dir().join("durable");
        fs::remove_file(&durable).unwrap();
        symlink(current.file_name().unwrap(), &durable).unwrap();
        for entry in fs::read_dir(node.data_dir()).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("generation.") && entry.path() != current {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let before = state(&node);
        let path = node.data_dir().join("ballast");
        let mut ballast = fs::File::create(&path).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        let outcome = change.call(&node).run(&node);
        drop(ballast);
        fs::remove_file(path).unwrap();
        outcome.failed_with(5);
        assert_eq!(state(&node), before, "{}", change.name);
        change.call(&node).run(&node).succeeded();
        change.end(&node);
        assert!(Command::new("umount").arg("--lazy").arg(data_dir).status().unwrap().success());
    }
}

/// Commits until hardly anything fits into the page that the journal ends in: on a full
/// disk, what fits there can be committed.
fn fill_last_page(node: &Node) {
    const PAGE: u64 = 4096;
    const LEFT: u64 = 600;
    let passing = Container::on_paper("passing", 8);
    let room = || PAGE - node.generation().join("journal").metadata().unwrap().len() % PAGE;
    while room() > LEFT {
        let port = json!([{ "hostPort": 9999, "containerPort": 80 }]);
        network().add(node, &passing, port).run(node).succeeded();
        network().del(node, &passing).run(node).succeeded();
    }
}

/// A new sandbox with other ports takes over from one that has not got its DEL,
/// which will find nothing: a client of a port that was given up kept reaching the
/// old container, and then whoever got its address. So it was when one container
/// asked for something else.
fn flows_to_ports_that_are_given_up_end() {
    let mappings =
        |port: u16| json!([{ "hostPort": port, "containerPort": 53, "protocol": "udp" }]);
    for is_repeated in [false, true] {
        let node = Node::new(false);
        let network = network();
        let [mut old, mut new] =
            ["old", "new"].map(|id| Container::new(id).in_pod("games", "arena-0", "1"));
        let _servers = [&old, &new].map(|it| serve(it.namespace(), 53, &it.id));
        network.attach(&node, &mut old, mappings(5353)).succeeded();
        let flows = [&node.outside, &node.host].map(|from| {
            let flow = Flow::new(from, (Family::V4.node(), 5353).into());
            assert_eq!(flow.ask(PATIENCE).unwrap().server, "old");
            flow
        });
        if is_repeated {
            network.add(&node, &old, mappings(5454)).run(&node).succeeded();
        } else {
            network.attach(&node, &mut new, mappings(5454)).succeeded();
        }
        assert_eq!(ports_of(&node, if is_repeated { &old } else { &new }), [5454]);
        for flow in flows {
            assert_eq!(flow.ask(SILENCE), None, "repeated: {is_repeated}");
        }
        let flow = Flow::new(&node.outside, (Family::V4.node(), 5454).into());
        assert!(flow.ask(PATIENCE).is_some());
    }
}

/// What a pod asked for before counted neither as held nor as reserved, while it
/// asked for something else: with another claim each time, a namespace got past
/// its limit.
fn claims_that_are_left_count() {
    let node = Node::new(false);
    let network = network().option(
        "groups",
        json!({ "games": { "ports": "7000-7019", "cooldown": "0s", "maxPerNamespace": 4 } }),
    );
    let network = network.option("defaultGroup", json!("games"));
    let add = |id: &str, claim: &str, asked: &str| {
        network.add_with(&node, &sandbox(id, number(id)), ports(claim, asked)).run(&node)
    };
    add("a", "one", "g=1/tcp+udp,h=1").succeeded();
    // The same again, by the same and by a new sandbox, is not counted twice.
    add("a", "one", "g=1/tcp+udp,h=1").succeeded();
    add("b", "one", "g=1/tcp+udp,h=1,i=1").succeeded();
    for id in ["b", "c"] {
        let before = state(&node);
        let error = add(id, "two", "g=1/tcp+udp,h=1").failed_with(102);
        for word in ["maxPerNamespace", "3", "4"] {
            assert!(error.message.contains(word), "{error:?}");
        }
        assert_eq!(state(&node), before);
    }
    add("c", "one", "g=1/tcp+udp").succeeded();
    assert_eq!(claims(&node).len(), 4);
    let other = Container::on_paper("d", 200).in_pod("games", "arena-1", "2");
    let call = network.add_with(&node, &other, ports("two", "g=1"));
    call.run(&node).failed_with(102);
}

/// DELs in any order, GC, and CHECK, of an old and a new sandbox.
fn old_and_new_do_not_get_into_each_others_way() {
    let node = Node::new(false);
    let network = network().version("1.1.0");
    let asked = || {
        let mut asked = ports("web", "game=1/tcp+udp@games,x=2");
        asked["portMappings"] = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        asked
    };
    let [a, b, c] = [("a", 2), ("b", 3), ("c", 4)].map(|(id, number)| sandbox(id, number));
    let add = |container: &Container| {
        network.add_with(&node, container, asked()).run(&node).succeeded();
        ports_of(&node, container)
    };
    let given = add(&a);
    for container in [&b, &c, &a, &b] {
        assert_eq!(add(container), given);
        assert_eq!(leases(&node).len(), given.len());
        network.check_with(&node, container, asked()).run(&node).succeeded();
    }
    let before = state(&node);
    for old in [&c, &a] {
        network.check_with(&node, old, asked()).run(&node).failed_with(106);
        network.del(&node, old).run(&node).succeeded();
        assert_eq!(state(&node), before);
    }
    let valid = json!([{ "containerID": "b", "ifname": "eth0" }]);
    network.gc(&node, valid).run(&node).succeeded();
    assert_eq!(state(&node), before);
    network.gc(&node, json!([{ "containerID": "a", "ifname": "eth0" }])).run(&node).succeeded();
    assert_nothing_held(&node, &network);
    assert_eq!(claims(&node).len(), 3);
    assert_eq!(add(&c), given);
    // A network that was renamed: DEL comes under its new name.
    network.clone().named("renamed").del(&node, &c).run(&node).succeeded();
    assert_nothing_held(&node, &network);
    let next = Container::on_paper("next", 9).in_pod("games", "arena-0", "2");
    network.add_with(&node, &next, ports("web", "game=1/tcp+udp@games")).run(&node).succeeded();
}

/// containerd never calls GC, and a runtime that lost its state sends no DEL: the
/// next pod with the claim or the port would wait for ever.
fn who_is_gone_without_a_del_is_in_nobodys_way() {
    let node = Node::new(false);
    let network = network();
    let asked = || {
        let mut asked = ports("web", "game=1/tcp+udp@games");
        asked["portMappings"] = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        asked
    };
    let mut dead = Container::new("dead").in_pod("games", "web-1", "1");
    network.attach_with(&node, &mut dead, asked()).succeeded();
    let given = ports_of(&node, &dead);
    let next = Container::on_paper("next", 9).in_pod("games", "web-2", "2");
    let claimed = ports("web", "game=1/tcp+udp@games");
    let by_number = json!([{ "hostPort": 8080, "containerPort": 80 }]);
    let before = state(&node);
    network.add_with(&node, &next, claimed).run(&node).failed_with(11);
    network.add(&node, &next, by_number.clone()).run(&node).failed_with(100);
    assert_eq!(state(&node), before);

    drop(dead.namespace.take());
    // Another network's table is not this ADD's to change.
    let other = network.clone().named("othernet");
    other.add(&node, &next, by_number).run(&node).failed_with(100);
    assert_eq!(state(&node), before);
    let outcome = network.add_with(&node, &next, asked()).run(&node);
    outcome.succeeded();
    assert!(outcome.stderr.contains("gone without a DEL"), "{}", outcome.stderr);
    assert_eq!(ports_of(&node, &next), given);
    assert!(ports_of(&node, &dead).is_empty());
    let files = node.published();
    assert_eq!(files, ["pods/games/web-2/ports.env", "pods/games/web-2/ports.json"]);
    network.del(&node, &next).run(&node).succeeded();
    assert_nothing_held(&node, &network);
}

/// One trial for each.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 7] = [
        ("nft-fails", nothing_changes_when_nft_fails),
        ("no-files", nothing_changes_when_files_cannot_be_written),
        ("full-disk", nothing_changes_when_the_disk_is_full),
        ("flows", flows_to_ports_that_are_given_up_end),
        ("quota", claims_that_are_left_count),
        ("gone", who_is_gone_without_a_del_is_in_nobodys_way),
        ("order", old_and_new_do_not_get_into_each_others_way),
    ];
    crate::trials("takeover", tests)
}
