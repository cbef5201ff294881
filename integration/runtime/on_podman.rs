//! What people do with podman.

use std::{collections::BTreeSet, fs, process::Stdio, thread};

use portclaim::lease::Protocol;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::{Jam, assert_reached, assert_silent, network, podman::Podman, wait_until};
use crate::{
    held::{assert_nothing_held, assert_tidy, leases, leases_of, ports_of},
    node::{Family, Node},
    traffic::{Echo, serve},
};

pub const TESTS: [(&str, fn()); 5] = [
    ("ports", ports),
    ("calls", what_is_sent),
    ("killed", podman_is_killed),
    ("reboot", the_machine_is_booted_anew),
    ("ten-at-once", ten_at_once),
];

fn start() -> Podman {
    Podman::new(Node::new(false), &network())
}

fn ports() {
    let podman = start();
    let node = &podman.node;
    let options = [
        "--publish=8080:80",
        "--publish=192.0.2.1:5353:53/udp",
        "--publish=[2001:db8:2::1]:8443:80",
        "--publish=7000-7003:7000-7003/udp",
    ];
    let web = podman.run("web", &options).unwrap();
    assert_eq!(ports_of(node, &web), [8080, 8443, 7000, 7001, 7002, 7003, 5353]);
    let assert_all_reached = || {
        let namespace = podman.namespace("web");
        let _servers = [80, 53, 7003].map(|port| serve(&namespace, port, "web"));
        assert_reached(node, Protocol::Tcp, &Family::ALL, 8080, "web");
        assert_reached(node, Protocol::Udp, &[Family::V4], 5353, "web");
        assert_reached(node, Protocol::Tcp, &[Family::V6], 8443, "web");
        assert_reached(node, Protocol::Udp, &Family::ALL, 7003, "web");
        assert_silent(&node.outside, Protocol::Udp, (Family::V4.other_node(), 5353));
        assert_silent(&node.outside, Protocol::Tcp, (Family::V6.other_node(), 8443));
    };
    assert_all_reached();
    let folder = node.run_dir().join("containers").join(&web.id);
    let published = fs::read_to_string(folder.join("ports.env")).unwrap();
    for port in ["8080", "8443", "5353", "7003"] {
        assert!(published.contains(port), "{published}");
    }

    let error = podman.run("other", &["--publish=8080:80"]).err().expect("the port has an owner");
    assert!(error.contains("8080") && error.contains(&web.id[..12]), "{error}");
    podman.remove("other");
    podman.succeed(&["restart", "--time", "0", "web"]);
    assert_all_reached();
    podman.succeed(&["stop", "--time", "0", "web"]);
    assert_nothing_held(node, &network());
    podman.succeed(&["start", "web"]);
    assert_all_reached();
    podman.remove("web");
    assert_nothing_held(node, &network());
}

/// So that a version of podman that does something else is noticed.
fn what_is_sent() {
    let podman = start();
    podman.run("web", &["--publish=8080:80", "--publish=53/udp"]).unwrap();
    podman.remove("web");
    let calls = |command| podman.plugins.calls_of(command);
    let version = calls("VERSION").pop().unwrap();
    let dummies = ["CNI_IFNAME", "CNI_NETNS", "CNI_PATH"].map(|name| version.variable(name));
    assert_eq!(dummies, [Some("dummy"); 3]);
    assert_eq!(version.variable("CNI_CONTAINERID"), Some(""));
    let [add] = calls("ADD").try_into().unwrap();
    assert_eq!(add.variable("CNI_ARGS"), Some("IgnoreUnknown=1;K8S_POD_NAME=web"));
    let runtime = add.config["runtimeConfig"].as_object().unwrap();
    assert_eq!(runtime.keys().collect::<Vec<_>>(), ["portMappings"], "no annotations");
    let mappings = runtime["portMappings"].as_array().unwrap();
    let asked = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" });
    assert!(mappings.contains(&asked), "{mappings:?}");
    let any = mappings.iter().find(|it| it["containerPort"] == 53).unwrap();
    assert!(any["hostPort"].as_u64() > Some(0), "podman looks for a port by itself");
    let [del] = calls("DEL").try_into().unwrap();
    assert_ne!(del.variable("CNI_NETNS"), Some(""));
    for command in ["CHECK", "GC", "STATUS"] {
        assert_eq!(calls(command).len(), 0, "{command}");
    }
    assert_nothing_held(&podman.node, &network());
}

/// Starts a container whose network had no DEL. host-local has an address for it
/// already, and refuses; for that, podman sends the DEL, and the next start succeeds.
#[track_caller]
fn start_over(podman: &Podman, name: &str) {
    let error = podman.call(&["start", name]).unwrap_err();
    assert!(error.contains("duplicate allocation"), "{error}");
    podman.succeed(&["start", name]);
}

/// `kill -9` of podman while the plugin works for it, which then has nobody to
/// answer to, and of a container's process.
fn podman_is_killed() {
    let podman = start();
    let node = &podman.node;
    let other = podman.run("other", &["--publish=8081:80"]).unwrap();
    let jam = Jam::new(node);
    let mut run = podman.run_command("web", &["--publish=8080:80"]);
    let run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = node.host.enter(|| run.spawn().unwrap());
    wait_until("podman calls the plugin", || podman.plugins.calls_of("ADD").len() == 2);
    run.kill().unwrap();
    run.wait().unwrap();
    drop(jam);
    let add = podman.plugins.calls_of("ADD").pop().unwrap();
    wait_until("the plugin ends", || !add.is_running());
    let held: BTreeSet<_> = leases(node).into_iter().map(|it| it.host_port).collect();
    assert_eq!(held, [8080, 8081].into(), "podman knows the container, and will come again");
    start_over(&podman, "web");
    let server = Echo::start(&podman.namespace("web"), Protocol::Tcp, 80, "web");
    assert_reached(node, Protocol::Tcp, &Family::ALL, 8080, "web");
    drop(server);

    let process = podman.process("web");
    kill_process(process, Signal::KILL).unwrap();
    wait_until("podman cleans up", || leases(node) == leases_of(node, &other));
    podman.remove("web");
    podman.remove("other");
    assert_nothing_held(node, &network());
    assert_tidy(node);
}

/// podman sends no DEL for what ran before, and an ADD with the same ID once the
/// container is started again.
fn the_machine_is_booted_anew() {
    let mut podman = start();
    let web = podman.run("web", &["--publish=8080:80/udp"]).unwrap();
    let other = podman.run("other", &["--publish=8081:80/udp"]).unwrap();
    podman.power_off();
    podman.node.reboot();
    let node = &podman.node;
    // Nobody starts the other one; its port is free.
    let next = podman.run("next", &["--publish=8081:80/udp"]).unwrap();
    start_over(&podman, "web");
    assert_eq!(leases_of(node, &other), []);
    for (name, container, port) in [("web", web, 8080), ("next", next, 8081)] {
        assert_eq!(ports_of(node, &container), [port]);
        let _server = Echo::start(&podman.namespace(name), Protocol::Udp, 80, name);
        assert_reached(node, Protocol::Udp, &Family::ALL, port, name);
    }
    for name in ["web", "other", "next"] {
        podman.remove(name);
    }
    assert_nothing_held(node, &network());
}

fn ten_at_once() {
    const CONTAINERS: u16 = 10;
    let podman = start();
    let node = &podman.node;
    let names: Vec<_> = (0..CONTAINERS).map(|number| format!("web{number}")).collect();
    thread::scope(|scope| {
        for (name, port) in names.iter().zip(8000..) {
            let podman = &podman;
            scope.spawn(move || podman.run(name, &[&format!("--publish={port}:80/udp")]).unwrap());
        }
    });
    for (name, port) in names.iter().zip(8000..) {
        let _server = Echo::start(&podman.namespace(name), Protocol::Udp, 80, name);
        assert_reached(node, Protocol::Udp, &Family::ALL, port, name);
    }
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| podman.remove(name));
        }
    });
    assert_nothing_held(node, &network());
    assert_tidy(node);
}
