//! `reset`, and calls that are killed.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use super::{Sandbox, Test, add, containers, damage, fixed, forwarded_ports, inhabited, network};
use crate::{
    chain::{Container, annotated},
    held::{assert_nothing_held, leases, ports_of},
    node::Node,
    recovery::deadly_nft,
    tool::{self, ctl},
};

fn reset_removes_everything() {
    let (node, [web, plain]) = inhabited();
    node.host.nft("add table inet portclaim; add table ip portclaim_podnet");
    node.host.ip("link add cni0 type bridge");
    node.host.sysctl("ipv4/conf/cni0/route_localnet", "1");
    let announced = "to remove: table inet portclaim_podnet\n\
         to set aside: 2 leases of 2 attachments; 0 claims are set aside\n\
         to remove: the files in 2 folders\n\
         Containers that run go on without their host ports until they are restarted.\n";
    let before = (leases(&node), node.traces());
    let refused = ctl(&node, &network(), &["reset"]);
    assert_eq!(refused.with_status(1), announced);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!((leases(&node), node.traces()), before);

    let done = ctl(&node, &network(), &["reset", "--yes"]);
    let (printed, aside) = done.succeeded().split_once("the database is now in ").unwrap();
    assert_eq!(
        printed,
        format!(
            "{announced}removed table inet portclaim_podnet\n\
             removed NODE/run/containers/plain\n\
             removed NODE/run/pods/shop/web-0\n\
             note: route_localnet of link cni0 is on, and nobody guards it any more\n"
        )
    );
    let aside = aside.trim().replace("NODE", &node.folder("").display().to_string());
    assert!(PathBuf::from(&aside).join("current").is_symlink(), "{aside}");
    assert_nothing_held(&node, &network());
    let tables = node.host.nft("list tables");
    assert_eq!(tables, "table inet portclaim\ntable ip portclaim_podnet\n", "of others");
    // As if nothing had been: ports are free, and who still runs can go.
    add(&node, &Container::on_paper("new", 4), fixed(8080));
    for container in [&web, &plain] {
        network().del(&node, container).run(&node).succeeded();
    }
    assert_eq!(containers(&node), ["new"]);
    assert_eq!(forwarded_ports(&node), [8080]);
    ctl(&node, &network(), &["reset", "-y"]).succeeded();
    assert!(PathBuf::from(aside).exists(), "what was set aside stays");
    assert_nothing_held(&node, &network());
}

/// Error 105 names this way out.
fn reset_is_the_way_out_of_a_damaged_store() {
    let (node, _containers) = inhabited();
    damage(&node);
    let new = Container::on_paper("new", 4);
    let error = network().add(&node, &new, fixed(8080)).run(&node).failed_with(105);
    assert!(error.details.contains("portclaimctl reset"), "{error:?}");
    let kept = ctl(&node, &network(), &["reset", "--yes", "--keep-claims"]);
    assert!(kept.with_status(1).contains("which cannot be read"), "{kept:?}");
    assert_eq!(forwarded_ports(&node), [8080, 5353], "what cannot be kept is not removed");
    let done = ctl(&node, &network(), &["reset", "--yes"]);
    assert!(done.succeeded().contains("the database is now in NODE/data/removed-"), "{done:?}");
    assert_eq!(node.published(), [""; 0]);
    network().status(&node).run(&node).succeeded();
    add(&node, &new, fixed(8080));
    assert_eq!(forwarded_ports(&node), [8080]);
}

fn reset_may_keep_claims() {
    let node = Node::new(false);
    let pod = Container::on_paper("arena", 2).in_pod("games", "arena-0", "1");
    let request = annotated(&[("ports", "game=7777/tcp+udp"), ("claim", "arena")]);
    network().add_with(&node, &pod, request.clone()).run(&node).succeeded();
    let ports = ports_of(&node, &pod);
    let done = ctl(&node, &network(), &["reset", "--yes", "--keep-claims"]);
    assert!(done.succeeded().ends_with("kept 2 claims\n"), "{done:?}");
    assert_nothing_held(&node, &network());
    let next = Container::on_paper("next", 3).in_pod("games", "arena-1", "2");
    network().add_with(&node, &next, request).run(&node).succeeded();
    assert_eq!(ports_of(&node, &next), ports);
}

/// A call that is killed as it runs nft, before or after the kernel has taken it,
/// leaves what the next call of any kind puts right.
fn killed_at_nft() {
    for after in [false, true] {
        for verb in [&["restore"][..], &["gc"], &["reset", "--yes"], &["release", "--yes", "8081"]]
        {
            let node = Node::new(false);
            let web = Container::on_paper("webs", 2);
            let sandbox = Sandbox::start();
            add(&node, &web, fixed(8080));
            network()
                .add(&node, &Container::on_paper("dead", 3), fixed(8081))
                .with("CNI_NETNS", &sandbox.path())
                .run(&node)
                .succeeded();
            drop(sandbox);
            if verb == ["restore"] {
                node.host.nft("flush ruleset");
            }
            let path = deadly_nft(&node, 1, after);
            let mut command = tool::command(&node, &network().by_nft(), verb);
            let killed = tool::run(&node, command.env("PATH", path));
            assert_eq!(killed.status, None, "{verb:?}: {killed:?}");
            let held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
            for port in forwarded_ports(&node) {
                assert!(held.contains(&port), "{verb:?} {after}: {port} of {held:?}");
            }
            // Whatever it was, `restore` makes it whole.
            ctl(&node, &network(), &["restore"]).succeeded();
            ctl(&node, &network(), &["check"]).succeeded();
            assert_eq!(forwarded_ports(&node), [8080, 8081], "{verb:?} {after}");
            // And the same call does what it was to do.
            let again = ctl(&node, &network(), verb);
            again.succeeded();
            let expected = match verb[0] {
                "restore" => vec![8080, 8081],
                "reset" => vec![],
                _ => vec![8080],
            };
            assert_eq!(forwarded_ports(&node), expected, "{verb:?} {after}");
            ctl(&node, &network(), &["check"]).succeeded();
        }
    }
}

/// The same at any moment: what is left can be read, forwards nothing for nobody, and
/// is made whole by the next calls.
fn killed_at_any_moment() {
    const ROUNDS: u32 = 24;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let node = Node::new(false);
    let mut life = Duration::from_millis(60);
    for round in 0..ROUNDS {
        let verb = [&["restore"][..], &["gc"], &["reset", "--yes"]][round as usize % 3];
        let sandbox = Sandbox::start();
        add(&node, &Container::on_paper("webs", 2), fixed(8080));
        network()
            .add(&node, &Container::on_paper("dead", 3), fixed(8081))
            .with("CNI_NETNS", &sandbox.path())
            .run(&node)
            .succeeded();
        drop(sandbox);
        node.host.nft("flush ruleset");
        let mut command = tool::command(&node, &network(), verb);
        let start = Instant::now();
        if round < 3 {
            tool::run(&node, &mut command).succeeded();
            life = life.max(start.elapsed());
            continue;
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = node.host.enter(|| command.spawn().unwrap());
        // Not a wait for something: the moment of the kill is the point.
        std::thread::sleep(life.mul_f32(rng.f32()));
        child.kill().unwrap();
        child.wait().unwrap();
        let held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
        assert!(held.contains(&8080) || verb[0] == "reset", "round {round}: {held:?}");
        for port in forwarded_ports(&node) {
            assert!(held.contains(&port), "round {round}: {port} of {held:?}");
        }
        ctl(&node, &network(), &["restore"]).succeeded();
        ctl(&node, &network(), &["check"]).succeeded();
        let mut held: Vec<_> = leases(&node).into_iter().map(|held| held.host_port).collect();
        held.sort_unstable();
        assert_eq!(forwarded_ports(&node), held, "round {round}");
    }
    ctl(&node, &network(), &["reset", "--yes"]).succeeded();
    assert_nothing_held(&node, &network());
}

pub(super) const TESTS: [Test; 5] = [
    ("reset", reset_removes_everything),
    ("reset::damage", reset_is_the_way_out_of_a_damaged_store),
    ("reset::claims", reset_may_keep_claims),
    ("killed::nft", killed_at_nft),
    ("killed::any-moment", killed_at_any_moment),
];
