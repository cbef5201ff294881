//! The chains of `conflist/`: those whose plugins Debian has are run.

use std::{fs, net::Ipv4Addr, path::Path};

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::json;

use crate::{
    chain::{Container, annotated},
    conflist::Chain,
    node::{Family, Node},
    tool,
    traffic::{PATIENCE, SILENCE, ask, serve},
};

/// Those that run here.
const RUN: [&str; 4] = [
    "10-in-place-of-portmap.conflist",
    "10-portclaim-bridge.conflist",
    "11-crio-bridge.conflist",
    "87-podman-bridge.conflist",
];

/// A container on each of them is reached through a port that it has by number, from
/// outside and on the host, and through one of the pool where pods may ask for one.
fn chains_run() {
    for name in RUN {
        let node = Node::new(false);
        let chain = Chain::example(name).on(&node);
        let mut web = Container::new("web").in_pod("shop", "web-0", "1");
        let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        chain.add(&node, &mut web, &mappings);
        let _servers = serve(web.namespace(), 80, "web");
        for (from, host) in [
            (&node.outside, Family::V4.node()),
            (&node.host, Family::V4.node()),
            (&node.host, Ipv4Addr::LOCALHOST.into()),
            (web.namespace(), Family::V4.node()),
        ] {
            let answer = ask(from, Protocol::Tcp, (host, 8080).into(), PATIENCE);
            assert_eq!(
                answer.map(|answer| answer.server).as_deref(),
                Some("web"),
                "{name}: {host}"
            );
        }
        let mut pod = Container::new("pod").in_pod("shop", "pod-0", "2");
        let request = annotated(&[("ports", "http=80")]);
        pod.result = chain.try_add(&node, &pod, &request).unwrap();
        let files = Node::files(&node.run_dir().join("pods/shop/pod-0"));
        let has_annotations = !["87-podman-bridge.conflist", RUN[0]].contains(&name);
        assert_eq!(!files.is_empty(), has_annotations, "{name}: {files:?}");
        chain.del(&node, &pod, &json!([]));
        chain.del(&node, &web, &mappings);
        let gone = ask(&node.outside, Protocol::Tcp, (Family::V4.node(), 8080).into(), SILENCE);
        assert!(gone.is_none(), "{name}");
        let addresses = Node::files(&node.folder("ipam"));
        let is_taken = |file: &&String| !file.contains("last_reserved") && !file.ends_with("lock");
        assert_eq!(addresses.iter().find(is_taken), None, "{name}");
        assert_eq!(node.published(), [""; 0], "{name}");
    }
}

/// `doctor` finds nothing wrong with any of them.
fn chains_are_right() {
    let node = Node::new(false);
    let mut seen = 0;
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("conflist")).unwrap() {
        let file = file.unwrap().path();
        let mut command = node.command(env!("CARGO_BIN_EXE_portclaimctl").as_ref());
        command.arg("--config").arg(&file).args(["doctor", "-o", "json", "--data-dir"]);
        command.arg(node.data_dir()).arg("--run-dir").arg(node.run_dir());
        let found = tool::run(&node, &mut command).json();
        let wrong = |row: &&serde_json::Value| row["check"] == "conflist" && row["state"] == "fail";
        let wrong: Vec<_> = found.as_array().unwrap().iter().filter(wrong).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", file.display());
        seen += 1;
    }
    assert_eq!(seen, 7);
}

/// One type is all that tells it from a chain with `portmap`, which forwards alike.
fn portmap_takes_the_same_lines() {
    let text = include_str!("../conflist/10-in-place-of-portmap.conflist");
    assert_eq!(text.matches("portclaim").count(), 1);
    let node = Node::new(false);
    let chain = Chain::parse(&text.replace("portclaim", "portmap")).on(&node);
    let mut web = Container::new("web");
    let mappings = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    chain.add(&node, &mut web, &mappings);
    let _servers = serve(web.namespace(), 80, "web");
    let answer = ask(&node.outside, Protocol::Tcp, (Family::V4.node(), 8080).into(), PATIENCE);
    assert_eq!(answer.map(|answer| answer.client), Some(Family::V4.outside()));
    chain.del(&node, &web, &mappings);
}

pub fn trials() -> Vec<Trial> {
    crate::trials(
        "example",
        [
            ("run", chains_run as fn()),
            ("doctor", chains_are_right),
            ("portmap", portmap_takes_the_same_lines),
        ],
    )
}
