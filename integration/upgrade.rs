//! A node on which portclaim is replaced by another version of it.
//!
//! `upgrade/` holds databases that earlier versions wrote, of one boot: in
//! `schema-1-leases` (32ecee4) a container holds two ports, in `schema-1-claims`
//! (8dac2d2) two pods have claims beside, of which one has gone. The same is in
//! `schema-2-leases` and `schema-2-claims` (608d73b).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::json;

use crate::{
    chain::{Container, Network, annotated},
    held::{assert_nothing_held, claims, leases, ports_of},
    node::{Family, Node},
    recovery::{add, fixed, forwarded_ports, network},
    tool::ctl,
    traffic::{Echo, Flow, PATIENCE},
};

/// The boot in which the databases were written.
const BOOT: &str = "16add043-8065-4aa2-8b81-7dd17f820e6c";

/// A node with a database that an earlier version wrote.
fn upgraded(name: &str) -> Node {
    let mut node = Node::new(false);
    node.pretend_boot(BOOT);
    fs::create_dir(node.data_dir()).unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/upgrade").join(name);
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(node.data_dir());
    assert!(tar.status().unwrap().success());
    node
}

fn with_games() -> Network {
    network().option("groups", json!({ "games": { "ports": "7000-7009" } }))
}

fn leases_are_held_on(schema: u32) {
    let node = upgraded(&format!("schema-{schema}-leases.tar.gz"));
    let before = fs::read_link(node.data_dir().join("current")).unwrap();
    let held: Vec<_> = leases(&node).iter().map(|held| held.host_port).collect();
    assert_eq!(held, [8080, 5353]);
    assert_eq!(fs::read_link(node.data_dir().join("current")).unwrap(), before, "not by readers");
    let new = Container::on_paper("new", 3);
    let error = network().add(&node, &new, fixed(8080)).run(&node).failed_with(100);
    assert_eq!(error.message, "host port 8080/tcp is held by web/eth0");
    add(&node, &new, fixed(8081));
    assert_ne!(fs::read_link(node.data_dir().join("current")).unwrap(), before);
    assert_eq!(forwarded_ports(&node), [8080, 8081, 5353]);
    ctl(&node, &network(), &["restore"]).succeeded();
    ctl(&node, &network(), &["check"]).succeeded();
    for id in ["web", "new"] {
        network().del(&node, &Container::on_paper(id, 2)).run(&node).succeeded();
    }
    assert_nothing_held(&node, &network());
}

fn claims_are_kept(schema: u32) {
    for is_rebooted in [false, true] {
        let mut node = upgraded(&format!("schema-{schema}-claims.tar.gz"));
        if is_rebooted {
            node.reboot();
        }
        let all = claims(&node);
        assert_eq!(all.len(), 2);
        let held = all.iter().filter(|claim| claim.holder.is_some()).count();
        assert_eq!((held, leases(&node).len()), if is_rebooted { (0, 0) } else { (1, 3) });
        for claim in &all {
            let port = claim.port.number();
            let other = Container::on_paper("other", 9);
            let error = with_games().add(
                &node,
                &other,
                json!([
                    { "hostPort": port, "containerPort": 80, "protocol": "udp" }
                ]),
            );
            error.run(&node).failed_with(100);
            let name = claim.key.claim.as_str();
            let uid = name.strip_prefix("arena-").unwrap();
            let pod = Container::on_paper(&format!("new{uid}"), 5).in_pod("games", name, uid);
            let asked = annotated(&[("ports", "game=7777/udp@games"), ("claim", name)]);
            with_games().add_with(&node, &pod, asked).run(&node).succeeded();
            assert_eq!(ports_of(&node, &pod), [port]);
        }
        ctl(&node, &with_games(), &["restore"]).succeeded();
        ctl(&node, &with_games(), &["check"]).succeeded();
    }
}

/// What a runtime calls is replaced by rename(2), again and again: every call runs the
/// one or the other, and traffic goes on.
fn replaced_at_work() {
    let node = Node::new(false);
    let folder = node.folder("bin");
    fs::create_dir(&folder).unwrap();
    let plugin = folder.join("portclaim");
    let replace = |plugin: &PathBuf| {
        let new = plugin.with_extension("new");
        // By a process of its own: what a thread writes here, the child of another one
        // may still have open, and then it cannot be executed.
        let copy = [Path::new(env!("CARGO_BIN_EXE_portclaim")), &new];
        assert!(Command::new("cp").args(copy).status().unwrap().success());
        fs::rename(new, plugin).unwrap();
    };
    replace(&plugin);
    let network = Network::bridge("podnet", true);
    let mut web = Container::new("web");
    let mapping = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "udp" }]);
    network.attach(&node, &mut web, mapping).succeeded();
    let _server = Echo::start(web.namespace(), Protocol::Udp, 80, "web");
    let flow = Flow::new(&node.outside, (Family::V4.node(), 8080).into());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let (node, network, plugin) = (&node, &network, &plugin);
                scope.spawn(move || {
                    for turn in 0..15 {
                        let pod = Container::on_paper(&format!("pod{caller}x{turn}"), 10 + caller);
                        let any = json!([{ "containerPort": 80 }]);
                        network.add(node, &pod, any).of(plugin).run(node).succeeded();
                        network.del(node, &pod).of(plugin).run(node).succeeded();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                replace(&plugin);
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(flow.ask(PATIENCE).expect("the flow goes on").server, "web");
            }
        });
        let ended: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        for end in ended {
            end.expect("every call succeeds");
        }
    });
    ctl(&node, &network, &["check"]).succeeded();
    assert_eq!(leases(&node).len(), 1);
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 5] = [
        ("leases::schema-1", || leases_are_held_on(1)),
        ("leases::schema-2", || leases_are_held_on(2)),
        ("claims::schema-1", || claims_are_kept(1)),
        ("claims::schema-2", || claims_are_kept(2)),
        ("at-work", replaced_at_work),
    ];
    crate::trials("upgrade", tests)
}
