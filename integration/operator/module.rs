//! What services of the host hold, beside what containers hold.

use super::{Test, add, fixed, forwarded_ports, network};
use crate::{
    chain::Container,
    node::Node,
    tool::{Ran, ctl},
};

/// A node with a container on 8080, a module that listens itself, and one whose ports
/// are forwarded.
fn served() -> Node {
    let node = Node::new(false);
    add(&node, &Container::on_paper("web", 2), fixed(8080));
    for arguments in [
        &["allocate", "--tcp", "2", "--owner", "mail1"][..],
        &["allocate", "--udp", "2", "--owner", "phone1", "--to", "10.99.0.9:5060"],
    ] {
        ctl(&node, &network(), arguments).succeeded();
    }
    node
}

fn tool(node: &Node, arguments: &[&str]) -> Ran {
    ctl(node, &network(), arguments)
}

fn tables(node: &Node) -> String {
    node.host.nft("list tables")
}

fn restored_after_a_reboot() {
    let mut node = served();
    tool(&node, &["check"]).succeeded();
    node.reboot();
    let found = tool(&node, &["check"]);
    let found = found.with_status(1);
    for difference in [
        "table inet portclaim__modules is absent or its rules are not those configured",
        "NODE/run/modules/mail1/ports.env is not there",
        "NODE/run/modules/phone1/ports.json is not there",
    ] {
        assert!(found.contains(difference), "{found}");
    }
    let done = tool(&node, &["restore"]);
    // Containers do not outlive a boot.
    assert_eq!(
        done.succeeded(),
        "wrote table inet portclaim__modules: 2 leases\n\
         published NODE/run/modules/mail1\n\
         published NODE/run/modules/phone1\n"
    );
    tool(&node, &["check"]).succeeded();
    let other = tool(&node, &["allocate", "--tcp", "1", "--owner", "other"]);
    assert_eq!(other.succeeded(), "10002\n");
}

/// The kernel's part of a module is put right with the containers', in one call.
fn differences_are_named_and_put_right() {
    let node = served();
    let before = node.traces();
    node.host.nft("flush map inet portclaim__modules any4_addr");
    std::fs::write(node.run_dir().join("modules/mail1/ports.env"), "TCP_PORT=1\n").unwrap();
    std::fs::create_dir(node.run_dir().join("modules/gone")).unwrap();
    std::fs::write(node.run_dir().join("modules/gone/ports.env"), "TCP_PORT=1\n").unwrap();
    let found = tool(&node, &["check", "-o", "json"]);
    found.with_status(1);
    let differences = found.json()["differences"].clone();
    let shown: Vec<_> = differences.as_array().unwrap().iter().collect();
    let of_module: Vec<_> = shown.iter().map(|one| one["module"].as_str()).collect();
    assert_eq!(of_module, [Some("phone1"), Some("phone1"), Some("mail1"), None], "{shown:?}");
    assert_eq!(
        shown[0]["text"],
        "map any4_addr of table inet portclaim__modules has no element 10000/udp, \
         which is of module phone1"
    );
    assert_eq!((&shown[0]["network"], &shown[0]["containerID"]), (&().into(), &().into()));
    node.host.nft("flush ruleset");
    let done = tool(&node, &["restore"]);
    assert!(done.succeeded().contains("wrote table inet portclaim__modules: 2 leases"), "{done:?}");
    assert_eq!(forwarded_ports(&node), [8080]);
    tool(&node, &["check"]).succeeded();
    assert_eq!(node.traces(), before);
}

fn released_by_deallocate_only() {
    let node = served();
    for text in ["10001/tcp", "mail1"] {
        let refused = tool(&node, &["release", "--yes", text]);
        refused.with_status(1);
        assert_eq!(
            refused.stderr,
            format!(
                "portclaimctl: \"{text}\" is of a service of the host: portclaimctl deallocate \
                 --tcp --owner mail1 gives it back\n"
            )
        );
    }
    tool(&node, &["gc"]).succeeded();
    tool(&node, &["check"]).succeeded();
    assert!(tool(&node, &["list"]).succeeded().contains("module mail1"));
}

fn reset_with_and_without_them() {
    let node = served();
    let kept = tool(&node, &["reset", "--yes", "--keep-claims"]);
    let kept = kept.succeeded();
    assert!(kept.contains("kept: 10000-10001/tcp of mail1, 10000-10001/udp of phone1"), "{kept}");
    assert_eq!(tables(&node), "table inet portclaim__modules\n");
    tool(&node, &["check"]).succeeded();
    let gone = tool(&node, &["reset", "--yes"]);
    let gone = gone.succeeded();
    assert!(gone.contains("to set aside: 10000-10001/tcp of mail1, "), "{gone}");
    assert_eq!(tables(&node), "");
    assert_eq!(node.published(), [""; 0]);
    tool(&node, &["allocate", "--tcp", "2", "--owner", "other"]).succeeded();
}

pub const TESTS: [Test; 4] = [
    ("modules::reboot", restored_after_a_reboot),
    ("modules::differences", differences_are_named_and_put_right),
    ("modules::release", released_by_deallocate_only),
    ("modules::reset", reset_with_and_without_them),
];
