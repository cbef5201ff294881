//! `gc`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{Sandbox, Test, add, containers, fixed, forwarded_ports, network};
use crate::{
    chain::Container,
    held::leases,
    namespace::Namespace,
    node::Node,
    tool::{self, ctl},
};

/// What a container's network namespace is kept by.
enum Keeper {
    Process(#[expect(dead_code, reason = "dropped")] Sandbox),
    Mount(#[expect(dead_code, reason = "dropped")] Namespace),
}

/// A hundred containers are alive and a hundred are dead, most without a DEL; of some
/// nobody knows.
fn gc_of_a_hundred_dead_beside_a_hundred_live() {
    const EACH: u16 = 100;
    const MOUNTS: u16 = 10;
    let node = Node::new(false);
    let mut alive = Vec::new();
    for number in 0..2 * EACH {
        let (keeper, path) = if number % (2 * MOUNTS) < 2 {
            let namespace = Namespace::new("kept");
            let path = namespace.path().display().to_string();
            (Keeper::Mount(namespace), path)
        } else {
            let sandbox = Sandbox::start();
            let path = sandbox.path();
            (Keeper::Process(sandbox), path)
        };
        let container = Container::on_paper(&format!("c{number:03}"), number);
        let call = network().add(&node, &container, fixed(20000 + number));
        call.with("CNI_NETNS", &path).run(&node).succeeded();
        alive.push((container.id, keeper));
    }
    let paper = Container::on_paper("paper", 999);
    add(&node, &paper, fixed(8080));
    let everybody = ctl(&node, &network(), &["gc"]);
    let unknown = "not known: paper/eth0: its ADD did not note the network namespace\n";
    assert_eq!(everybody.succeeded(), format!("{unknown}0 gone, 200 there, 1 not known\n"));

    let (mut dead, mut keepers) = (Vec::new(), Vec::new());
    let mut live = vec!["paper".to_owned()];
    for (number, (id, keeper)) in alive.into_iter().enumerate() {
        if number % 2 == 0 {
            dead.push(id);
            drop(keeper);
        } else {
            live.push(id);
            keepers.push(keeper);
        }
    }
    live.sort();
    let text = |verb: &str, id: &String| {
        format!("{verb} {}/tcp of {id}/eth0", 20000 + id[1..].parse::<u16>().unwrap())
    };
    let lines = |verb| dead.iter().map(|id| text(verb, id)).collect::<Vec<_>>();
    let before = (leases(&node), node.traces());
    let summary = format!("{unknown}100 gone, 100 there, 1 not known\n");
    let planned = ctl(&node, &network(), &["gc", "--dry-run"]);
    let expected = lines("would give back").join("\n");
    assert_eq!(planned.succeeded(), format!("{expected}\n{summary}"));
    assert_eq!((leases(&node), node.traces()), before);

    let done = ctl(&node, &network(), &["gc"]);
    let expected = lines("gave back").join("\n");
    assert_eq!(done.succeeded(), format!("{expected}\n{summary}"));
    let mut left = containers(&node);
    left.sort();
    assert_eq!(left, live);
    let mut ports: Vec<_> =
        (0..2 * EACH).filter(|n| n % 2 == 1).map(|number| 20000 + number).collect();
    ports.insert(0, 8080);
    assert_eq!(forwarded_ports(&node), ports);
    assert_eq!(fs::read_dir(node.run_dir().join("containers")).unwrap().count(), 101);
    assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), "no difference: 101 leases\n");
}

/// What stands in the way of one network does not keep the others.
fn gc_goes_on_after_an_error() {
    let node = Node::new(false);
    for (id, network) in [("abc", network()), ("def", network().named("othernet"))] {
        let sandbox = Sandbox::start();
        let container = Container::on_paper(id, 2);
        let call = network.add(&node, &container, fixed(if id == "abc" { 8080 } else { 8081 }));
        call.with("CNI_NETNS", &sandbox.path()).run(&node).succeeded();
    }
    let folder = node.folder("refusing");
    fs::create_dir(&folder).unwrap();
    let script = folder.join("nft");
    let text = "#!/bin/sh\nread -r json\ncase $json in *othernet*) echo no >&2; exit 1;; esac\n\
                printf %s \"$json\" | /usr/sbin/nft \"$@\"\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = tool::command(&node, &network().by_nft(), &["gc"]);
    let done = tool::run(&node, command.env("PATH", format!("{}:/usr/bin:/bin", folder.display())));
    assert_eq!(
        done.with_status(1),
        "gave back 8080/tcp of abc/eth0\n1 gone, 0 there, 0 not known\n"
    );
    assert!(done.stderr.contains("portclaim_othernet: nft: no"), "{done:?}");
    assert_eq!(containers(&node), ["def"]);
    ctl(&node, &network(), &["gc"]).succeeded();
    assert_eq!(leases(&node), []);
}

pub(super) const TESTS: [Test; 2] =
    [("gc", gc_of_a_hundred_dead_beside_a_hundred_live), ("gc::error", gc_goes_on_after_an_error)];
