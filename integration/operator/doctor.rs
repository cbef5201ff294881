//! `doctor`.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use fs2::FileExt as _;
use serde_json::{Value, json};

use super::{Test, damage, inhabited, network};
use crate::{
    held::leases,
    node::Node,
    tool::{self, ctl},
};

/// What `doctor` says of one thing: states and texts.
fn diagnoses(found: &Value, check: &str) -> Vec<(String, String)> {
    let all = found.as_array().unwrap().iter().filter(|one| one["check"] == check);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.map(|one| (text(&one["state"]), text(&one["text"]))).collect()
}

fn doctor_of_a_healthy_node() {
    let (node, _containers) = inhabited();
    node.host.sysctl("ipv4/ip_local_port_range", "40000 50000");
    let all = json!({ "portMappings": true, "io.kubernetes.cri.pod-annotations": true });
    let found = ctl(&node, &network().option("capabilities", all), &["doctor"]);
    let text = found.succeeded();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for line in [
        "ok    conflist: NODE/podnet.conflist: network podnet has portclaim",
        "ok    nf_tables: the kernel would take a table",
        "ok    lock: nobody holds NODE/data/lock",
        "2 ports, 0 claims",
        "ok    runDir: NODE/run is in memory",
        "ok    clock: the clock has gone forwards",
        "ok    ip_forward: IPv4 is forwarded",
        "ok    br_netfilter: off",
        "ok    pools: group default of network podnet: 10000 ports",
        "ok    port-mappers: nobody else forwards host ports",
    ] {
        // Long lines are broken, wherever the node's folder is.
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat(text).contains(&flat(line)), "{line} in {text}");
    }
    assert!(!text.contains("fail") && !text.contains("warn"), "{text}");
    let before = (leases(&node), node.traces());
    ctl(&node, &network(), &["doctor", "-o", "json"]).succeeded();
    assert_eq!((leases(&node), node.traces()), before);
}

fn doctor_finds_what_is_wrong() {
    let (node, _containers) = inhabited();
    node.host.nft(
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }
         table ip nat { chain CNI-HOSTPORT-DNAT { }; chain KUBE-SERVICES { }; }",
    );
    node.host.sysctl("ipv4/ip_forward", "0");
    node.host.sysctl("ipv4/ip_local_port_range", "15000 30000");
    node.host.sysctl("ipv4/ip_local_reserved_ports", "15000-18999");
    let lock = fs::OpenOptions::new().write(true).open(node.data_dir().join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    fs::create_dir(node.data_dir().join("damaged.7")).unwrap();
    fs::create_dir(node.data_dir().join("writing.1.1")).unwrap();
    let found = ctl(&node, &network(), &["doctor", "-o", "json"]);
    found.with_status(1);
    let found = found.json();
    let process = std::process::id();
    for (check, state, text) in [
        ("firewall", "warn", "chain FORWARD of table ip filter drops what it does not accept"),
        ("port-mappers", "warn", "portmap has rules: containers that it has forwarded"),
        ("port-mappers", "ok", "kube-proxy is there"),
        ("ip_forward", "fail", "net.ipv4.ip_forward is 0"),
        ("lock", "warn", &format!("is held by process {process} (")),
        ("set-aside", "warn", "damaged.7"),
        ("leftovers", "ok", "1 directories of killed calls"),
        ("pools", "warn", "has 1000 ports that the kernel gives to connections: 19000-19999"),
    ] {
        let said = diagnoses(&found, check);
        let is_said = said.iter().any(|(s, t)| s == state && t.contains(text));
        assert!(is_said, "{check}: {text} in {said:?}");
    }
    let pools = found.as_array().unwrap().iter().find(|one| one["check"] == "pools").unwrap();
    let advice = pools["advice"].as_str().unwrap();
    assert!(advice.contains("ip_local_reserved_ports=15000-19999"), "{advice}");

    damage(&node);
    let found = ctl(&node, &network(), &["doctor", "-o", "json"]).json();
    let database = diagnoses(&found, "database");
    assert!(database[0].0 == "fail" && database[0].1.contains("is damaged"), "{database:?}");
    let generations = diagnoses(&found, "generations");
    assert!(generations[0].0 == "warn" && generations[0].1.contains("damaged"), "{generations:?}");
}

fn doctor_looks_at_the_conflist() {
    let node = Node::new(false);
    let file = node.folder("wrong.conflist");
    let ours = json!({ "type": "portclaim", "capabilities": { "portMappings": true } });
    for (plugins, state, text) in [
        (json!([ours, { "type": "bridge" }]), "fail", "stands before the plugin that makes"),
        (
            json!([{ "type": "bridge" }, { "type": "portmap" }, ours]),
            "fail",
            "portclaim and portmap",
        ),
        (json!([{ "type": "bridge" }, ours]), "warn", "io.kubernetes.cri.pod-annotations"),
    ] {
        let list = json!({ "cniVersion": "1.0.0", "name": "wrong", "plugins": plugins });
        fs::write(&file, list.to_string()).unwrap();
        let mut command = node.command(env!("CARGO_BIN_EXE_portclaimctl").as_ref());
        command.arg("--config").arg(&file).args(["doctor", "-o", "json", "--data-dir"]);
        command.arg(node.data_dir()).arg("--run-dir").arg(node.run_dir());
        let found = tool::run(&node, &mut command);
        let said = diagnoses(&found.json(), "conflist");
        assert!(said.iter().any(|(s, t)| s == state && t.contains(text)), "{text}: {said:?}");
        assert_eq!(found.status, Some(i32::from(state == "fail")), "{found:?}");
    }
}

/// Without root, `doctor` says what it could not look at, and fails of none of it.
fn doctor_without_root() {
    let (node, _containers) = inhabited();
    // Others may reach the conflist, but for what is closed to them.
    fs::set_permissions(node.folder(""), fs::Permissions::from_mode(0o755)).unwrap();
    let inner = tool::command(&node, &network(), &["doctor", "-o", "json"]);
    let copy = node.folder("portclaimctl");
    fs::copy(env!("CARGO_BIN_EXE_portclaimctl"), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(copy).args(inner.get_args());
    let found = tool::run(&node, &mut command);
    let text = found.succeeded();
    assert!(text.contains("\"skip\"") && text.contains("run doctor as root"), "{text}");
    assert_eq!(diagnoses(&found.json(), "ip_forward")[0].0, "ok");
}

pub(super) const TESTS: [Test; 4] = [
    ("doctor", doctor_of_a_healthy_node),
    ("doctor::wrong", doctor_finds_what_is_wrong),
    ("doctor::conflist", doctor_looks_at_the_conflist),
    ("doctor::no-root", doctor_without_root),
];
