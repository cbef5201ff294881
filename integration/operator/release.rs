//! `release`.

use std::fs;

use serde_json::json;

use super::{Test, add, fixed, forwarded_ports, network};
use crate::{
    chain::{Container, annotated},
    held::{assert_nothing_held, ports_of},
    node::Node,
    tool::ctl,
};

fn release_gives_back_what_is_meant() {
    let node = Node::new(false);
    let several = json!([
        { "hostPort": 8080, "containerPort": 80 },
        { "hostPort": 8081, "containerPort": 81 },
        { "hostPort": 8080, "containerPort": 80, "protocol": "udp" },
    ]);
    let web = Container::on_paper("aaaabbbbcccc1", 2).in_pod("shop", "web-0", "1");
    let plain = Container::on_paper("aaaabbbbcccc2", 3);
    add(&node, &web, several.clone());
    add(&node, &plain, fixed(9090));
    let release = |arguments: &[&str]| {
        let all: Vec<_> = ["release"].into_iter().chain(arguments.iter().copied()).collect();
        ctl(&node, &network(), &all)
    };

    let refused = release(&["8081"]);
    assert_eq!(
        refused.with_status(1),
        "to give back: 8081/tcp of aaaabbbbcccc…/eth0 (shop/web-0)\n"
    );
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    for (what, message) in [
        ("7", "nothing is held or claimed by \"7\""),
        ("8081/udp", "nothing is held"),
        ("shop/web-1", "nothing is held"),
        ("aaaabbbb", "several container IDs"),
        ("a/b/c/d/e", "nothing is held"),
    ] {
        let refused = release(&[what, "--yes"]);
        assert_eq!(refused.with_status(1), "", "{what}");
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
    release(&[]).with_status(2);
    assert_eq!(ports_of(&node, &web), [8080, 8081, 8080]);

    // Of several ports the others stay, in the kernel and in the files.
    assert_eq!(
        release(&["8081", "--yes"]).succeeded(),
        "to give back: 8081/tcp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         gave back 8081/tcp of aaaabbbbcccc…/eth0 (shop/web-0)\n"
    );
    assert_eq!(ports_of(&node, &web), [8080, 8080]);
    assert_eq!(forwarded_ports(&node), [8080, 9090, 8080]);
    let env = fs::read_to_string(node.run_dir().join("pods/shop/web-0/ports.env")).unwrap();
    assert_eq!(env, "TCP_PORT=8080\nUDP_PORT=8080\n");
    ctl(&node, &network(), &["check"]).succeeded();

    // A protocol, the beginning of an ID, a pod: all at once, each thing once.
    assert_eq!(
        release(&["8080/udp", "shop/web-0", "aaaabbbbcccc2/eth0", "-y"]).succeeded(),
        "to give back: 8080/udp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         to give back: 8080/tcp, 8080/udp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         to give back: 9090/tcp of aaaabbbbcccc…/eth0\n\
         gave back 8080/tcp, 8080/udp of aaaabbbbcccc…/eth0 (shop/web-0)\n\
         gave back 9090/tcp of aaaabbbbcccc…/eth0\n"
    );
    assert_nothing_held(&node, &network());
    for container in [&web, &plain] {
        network().del(&node, container).run(&node).succeeded();
    }
}

fn release_of_claims() {
    let node = Node::new(false);
    let network = network().option("groups", json!({ "games": { "ports": "7000-7009" } }));
    let pod = Container::on_paper("arena", 2).in_pod("games", "arena-0", "1");
    let request = annotated(&[
        ("ports", "game=7777/tcp@games, query=7778/udp@games"),
        ("claim", "$(POD_NAME)"),
    ]);
    network.add_with(&node, &pod, request.clone()).run(&node).succeeded();
    let ports = ports_of(&node, &pod);
    let release = |arguments: &[&str]| {
        let all: Vec<_> =
            ["release", "--yes"].into_iter().chain(arguments.iter().copied()).collect();
        ctl(&node, &network, &all)
    };
    let refused = release(&["games/arena-0"]);
    assert_eq!(refused.with_status(1), "");
    assert!(
        refused.stderr.contains("is a pod and a claim: write pod:games/arena-0"),
        "{refused:?}"
    );
    let refused = release(&["claim:games/arena-0/game"]);
    assert_eq!(refused.with_status(1), "");
    assert!(refused.stderr.contains("is used by arena/eth0"), "{refused:?}");

    // One port of a claim's pod: the other is still kept.
    release(&[&format!("{}/tcp", ports[0])]).succeeded();
    assert_eq!(ports_of(&node, &pod), ports[1..]);
    network.add_with(&node, &pod, request.clone()).run(&node).succeeded();
    assert_eq!(ports_of(&node, &pod), ports, "it was claimed");

    release(&["pod:games/arena-0"]).succeeded();
    assert_eq!(
        release(&["games/arena-0/query"]).succeeded(),
        format!(
            "to give back: claim games/arena-0 (query/udp) on {}/udp\n\
             gave up claim games/arena-0 (query/udp)\n",
            ports[1]
        )
    );
    network.add_with(&node, &pod, request).run(&node).succeeded();
    assert_eq!(ports_of(&node, &pod)[0], ports[0]);
    let forced = release(&["claim:games/arena-0", "--force"]);
    assert_eq!(forced.succeeded().lines().count(), 4, "{forced:?}");
    assert_eq!(ports_of(&node, &pod).len(), 2, "its ports stay");
    network.del(&node, &pod).run(&node).succeeded();
    let gone = release(&["claim:games/arena-0"]);
    assert!(gone.stderr.contains("nothing is held or claimed"), "{gone:?}");
}

pub(super) const TESTS: [Test; 2] =
    [("release", release_gives_back_what_is_meant), ("release::claims", release_of_claims)];
