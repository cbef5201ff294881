//! `check`, and what `restore` makes of each thing that it finds.

use std::fs;

use fs2::FileExt as _;
use serde_json::json;

use super::{Test, damage, inhabited, network};
use crate::{node::Node, tool::ctl};

/// What is spoilt, how, and what `check` says of it.
type Spoil<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

const SAME: &str = "no difference: 2 leases\n";

/// Whatever is spoilt is named, once, and put right by `restore`.
#[expect(clippy::too_many_lines, reason = "a table")]
fn check_names_every_difference_and_restore_puts_it_right() {
    const TABLE: &str = "table inet portclaim_podnet";
    let (node, _containers) = inhabited();
    let table = "inet portclaim_podnet";
    let web = "pods/shop/web-0";
    let nft = |commands: &str| drop(node.host.nft(commands));
    let spoil: [Spoil<'_>; 10] = [
        (
            "an element",
            &|| nft(&format!("delete element {table} any4_addr {{ tcp . 8080 }}")),
            &["map any4_addr of TABLE has no element 8080/tcp, which is of shop/web-0"],
        ),
        (
            "where it leads",
            &|| {
                nft(&format!(
                    "delete element {table} any4_port {{ udp . 5353 }}
                     add element {table} any4_port {{ udp . 5353 : 54 }}"
                ));
            },
            &[
                "map any4_port of TABLE leads from 5353/udp to 54 and not to 53, which is of plain/eth0",
            ],
        ),
        (
            "an element of nobody",
            &|| {
                nft(&format!(
                    "add element {table} any4_addr {{ tcp . 9999 comment \"old/pod\" : 10.9.9.9 }}
                     add element {table} hairpin6 {{ fd00::9 . fd00::9 }}"
                ));
            },
            &[
                "map any4_addr of TABLE leads from 9999/tcp to 10.9.9.9 (old/pod), which no lease needs",
                "set hairpin6 of TABLE has element fd00::9 . fd00::9, which no lease needs",
            ],
        ),
        (
            "a rule",
            &|| nft(&format!("flush chain {table} guard")),
            &["TABLE is absent or its rules are not those configured"],
        ),
        (
            "the table",
            &|| nft(&format!("delete table {table}")),
            &["TABLE is absent or its rules are not those configured"],
        ),
        (
            "everything",
            &|| nft("flush ruleset"),
            &["TABLE is absent or its rules are not those configured"],
        ),
        (
            "a file",
            &|| fs::remove_file(node.run_dir().join(web).join("ports.env")).unwrap(),
            &["NODE/run/pods/shop/web-0/ports.env is not there"],
        ),
        (
            "what a file says",
            &|| fs::write(node.run_dir().join(web).join("ports.json"), "{}").unwrap(),
            &["NODE/run/pods/shop/web-0/ports.json does not say what the leases are"],
        ),
        (
            "all files",
            &|| fs::remove_dir_all(node.run_dir()).unwrap(),
            &[
                "NODE/run/containers/plain/ports.env is not there",
                "NODE/run/containers/plain/ports.json is not there",
                "NODE/run/pods/shop/web-0/ports.env is not there",
                "NODE/run/pods/shop/web-0/ports.json is not there",
            ],
        ),
        (
            "files of nobody",
            &|| {
                let folder = node.run_dir().join("containers/old");
                fs::create_dir(&folder).unwrap();
                fs::write(folder.join("ports.env"), "TCP_PORT=1\n").unwrap();
            },
            &["NODE/run/containers/old is published for nobody who holds a port"],
        ),
    ];
    let whole = node.traces();
    for (what, spoil, expected) in spoil {
        assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), SAME, "before {what}");
        spoil();
        let mut text = expected.join("\n").replace("TABLE", TABLE);
        text += match expected.len() {
            1 => "\n1 difference: portclaimctl restore puts it right\n",
            2 => "\n2 differences: portclaimctl restore puts them right\n",
            _ => "\n4 differences: portclaimctl restore puts them right\n",
        };
        let found = ctl(&node, &network(), &["check"]);
        assert_eq!(found.with_status(1), text, "{what}");
        let spoilt = node.traces();
        ctl(&node, &network(), &["restore", "--dry-run"]).succeeded();
        assert_eq!(node.traces(), spoilt, "{what}");
        ctl(&node, &network(), &["restore"]).succeeded();
        // nft lists a map's elements in whatever order.
        let lines = |text: &str| {
            let mut lines: Vec<String> = text
                .lines()
                .map(|line| {
                    line.trim_matches(['\t', ' ', ',', '}', '{']).replace("elements = { ", "")
                })
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&node.traces()), lines(&whole), "{what}");
    }
}

fn check_for_programs() {
    let (node, _containers) = inhabited();
    let found = ctl(&node, &network(), &["check", "-o", "json"]);
    found.succeeded();
    assert_eq!(found.json(), json!({ "same": true, "leases": 2, "differences": [], "notes": [] }));
    node.host.nft("delete element inet portclaim_podnet any6_addr { tcp . 8080 }");
    let found = ctl(&node, &network(), &["check", "--output", "json"]);
    found.with_status(1);
    assert_eq!(
        found.json()["differences"],
        json!([{
            "kind": "missing-element",
            "network": "podnet",
            "containerID": "web",
            "ifname": "eth0",
            "namespace": "shop",
            "pod": "web-0",
            "module": null,
            "text": "map any6_addr of table inet portclaim_podnet has no element 8080/tcp, \
                     which is of shop/web-0",
        }])
    );
    assert_eq!(found.json()["same"], false);

    ctl(&node, &network(), &["check", "--colour"]).with_status(2);
    damage(&node);
    let failed = ctl(&node, &network(), &["check"]);
    assert_eq!(failed.with_status(3), "");
    assert!(failed.stderr.contains("\nportclaimctl: portclaimctl reset"), "{failed:?}");
}

/// A call at work is no difference: what is found is looked at again once it is over.
fn check_waits_for_a_call_that_is_half_way() {
    let (node, _containers) = inhabited();
    let lock = fs::OpenOptions::new().write(true).open(node.data_dir().join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    assert_eq!(ctl(&node, &network(), &["check"]).succeeded(), SAME, "without the lock");
    node.host.nft("flush ruleset");
    let hasty = network().option("lockTimeout", json!("50ms"));
    let failed = ctl(&node, &hasty, &["check"]);
    assert_eq!(failed.with_status(3), "");
    assert!(failed.stderr.contains("portclaimctl doctor"), "{failed:?}");
}

fn nothing_to_look_at() {
    let node = Node::new(false);
    let nothing = "there is nothing to restore\n";
    for (arguments, expected) in [
        (&["check"][..], "no difference: 0 leases\n"),
        (&["restore"], nothing),
        (&["restore", "--dry-run"], nothing),
        (&["gc"], "0 gone, 0 there, 0 not known\n"),
        (&["gc", "--dry-run"], "0 gone, 0 there, 0 not known\n"),
        (
            &["reset", "--yes"],
            "to set aside: 0 leases of 0 attachments; 0 claims are set aside\n\
             to remove: the files in 0 folders\n\
             Containers that run go on without their host ports until they are restarted.\n\
             there was no database\n",
        ),
    ] {
        assert_eq!(ctl(&node, &network(), arguments).succeeded(), expected, "{arguments:?}");
        assert!(!node.data_dir().exists(), "{arguments:?}");
    }
}

pub(super) const TESTS: [Test; 4] = [
    ("check", check_names_every_difference_and_restore_puts_it_right),
    ("check::programs", check_for_programs),
    ("check::lock", check_waits_for_a_call_that_is_half_way),
    ("nothing-there", nothing_to_look_at),
];
