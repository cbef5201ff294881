//! What the plugin's calls come to, in `/metrics`.

use std::{
    fs,
    os::unix::fs::symlink,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Server;
use crate::{
    chain::Container,
    namespace::output,
    node::Node,
    recovery::{add, fixed, network},
    traffic::PATIENCE,
};

/// A parser of others, of Debian, and the strict one: it knows what may stand where.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
samples = [(s.name, s.labels, s.value) for family in parse(sys.stdin.read()) for s in family.samples]
print(json.dumps(samples))
";

/// The samples of a text: name, labels, value.
#[track_caller]
fn parse(text: &str) -> Vec<Value> {
    let output = output(Command::new("/usr/bin/python3").args(["-c", PARSE]), text.as_bytes());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The samples of counters, and how often each time was taken.
fn counts(server: &Server, node: &Node) -> Vec<String> {
    let samples = parse(&server.get(node, "/metrics").body);
    let mut counts = Vec::new();
    for sample in &samples {
        let (name, labels, value) = (sample[0].as_str().unwrap(), &sample[1], &sample[2]);
        let is_count = name.ends_with("_count") || name.ends_with("_total");
        if is_count && value.as_f64() != Some(0.0) {
            let labels = labels.as_object().unwrap().values();
            let labels: Vec<_> = labels.map(|label| label.as_str().unwrap()).collect();
            let name = name.trim_start_matches("portclaim_");
            counts.push(format!("{name} {} {value}", labels.join(" ")));
        }
    }
    counts.sort();
    counts
}

pub fn calls_are_counted() {
    let node = Node::new(false);
    let [web, other, plain] = ["web", "other", "plain"].map(|id| Container::on_paper(id, 2));
    let server = Server::start(&node, "127.0.0.1", &[]);
    assert_eq!(counts(&server, &node), [""; 0]);
    network().del(&node, &web).run(&node).succeeded();
    add(&node, &web, fixed(8080));
    add(&node, &plain, Value::Null);
    add(&node, &other, json!([{ "containerPort": 80 }]));
    network().add(&node, &plain, fixed(8080)).run(&node).failed_with(100);
    network().add(&node, &plain, json!(5)).run(&node).failed_with(7);
    node.host.nft("flush ruleset");
    network().del(&node, &plain).run(&node).succeeded();
    node.host.nft("delete element inet portclaim_podnet any4_addr { tcp . 8080 }");
    node.host.nft("add element inet portclaim_podnet any4_addr { tcp . 8080 : 192.0.2.9 }");
    network().del(&node, &web).run(&node).succeeded();
    let expected = [
        "allocations_total  tcp 1",
        "allocations_total default tcp 1",
        "call_duration_seconds_count ADD 5",
        "call_duration_seconds_count DEL 2",
        "drift_total element 1",
        "drift_total table 1",
        "lock_wait_seconds_count  5",
        "refusals_total 100 held ADD 1",
        "refusals_total 7 configuration ADD 1",
    ];
    // Nobody waits for them to be counted, the runtime included.
    let deadline = Instant::now() + PATIENCE;
    while counts(&server, &node) != expected && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(counts(&server, &node), expected);
    drop(server);
    let server = Server::start(&node, "127.0.0.1", &[]);
    assert_eq!(counts(&server, &node), expected, "since boot, whoever reads");
}

/// Memory that is full, or where something else is, is no reason to fail.
pub fn no_call_fails_because_it_is_not_counted() {
    let node = Node::new(false);
    let web = Container::on_paper("web", 2);
    add(&node, &web, fixed(8080));
    let calls = node.run_dir().join("calls");
    let spoil: [&dyn Fn(); 4] = [
        &|| fs::write(calls.join("totals"), "").unwrap(),
        &|| symlink("/dev/full", calls.join("log.0")).unwrap(),
        &|| fs::create_dir(calls.join("log.0")).unwrap(),
        &|| {
            fs::remove_dir_all(&calls).unwrap();
            fs::write(&calls, "").unwrap();
        },
    ];
    for spoil in spoil {
        _ = fs::remove_file(calls.join("log.0"));
        spoil();
        network().check(&node, &web, fixed(8080)).run(&node).succeeded();
        add(&node, &web, fixed(8080));
        network().del(&node, &web).run(&node).succeeded();
        add(&node, &web, fixed(8080));
    }
    let server = Server::start(&node, "127.0.0.1", &[]);
    assert_eq!(counts(&server, &node), [""; 0]);
}
