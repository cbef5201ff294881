//! What the operator does when something is wrong: `check`, `restore`, `gc`,
//! `release`, `reset` and `doctor`, with all that they print.

mod accept;
mod check;
mod collect;
mod doctor;
mod module;
mod release;
mod reset;
mod restore;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Child, Command},
    time::Instant,
};

use libtest_mimic::Trial;
use serde_json::json;

use crate::{
    chain::Container,
    held::leases,
    namespace::start,
    node::Node,
    recovery::{add, fixed, forwarded_ports, network},
    traffic::PATIENCE,
};

fn containers(node: &Node) -> Vec<String> {
    leases(node).into_iter().map(|held| held.container).collect()
}

/// Two containers, one of them in a pod.
fn inhabited() -> (Node, [Container; 2]) {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2).in_pod("shop", "web-0", "1-2-3");
    let plain = Container::on_paper("plain", 3);
    add(&node, &web, fixed(8080));
    add(&node, &plain, json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "udp" }]));
    (node, [web, plain])
}

/// A process in a network namespace of its own, as the first of a container.
struct Sandbox(Child);

impl Sandbox {
    fn start() -> Self {
        let child = start(Command::new("unshare").args(["--net", "sleep", "600"]));
        let sandbox = Self(child);
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let deadline = Instant::now() + PATIENCE;
        // It unshares before it becomes `sleep`.
        while fs::metadata(sandbox.path()).unwrap().ino() == own {
            assert!(Instant::now() < deadline, "unshare takes too long");
            std::thread::yield_now();
        }
        sandbox
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Overwrites all generations.
fn damage(node: &Node) {
    let mut count = 0;
    for file in Node::files(&node.data_dir()) {
        if file.starts_with("generation.") {
            fs::write(node.data_dir().join(file), [0xa5; 4096]).unwrap();
            count += 1;
        }
    }
    assert!(count > 0, "there is a store");
}

/// The name of a test, and the test.
type Test = (&'static str, fn());

pub fn trials() -> Vec<Trial> {
    let areas = [
        crate::trials("operator", accept::TESTS),
        crate::trials("operator", check::TESTS),
        crate::trials("operator", restore::TESTS),
        crate::trials("operator", collect::TESTS),
        crate::trials("operator", release::TESTS),
        crate::trials("operator", reset::TESTS),
        crate::trials("operator", doctor::TESTS),
        crate::trials("operator", module::TESTS),
    ];
    areas.into_iter().flatten().collect()
}
