//! `acceptIn`: firewalls of others that drop what is forwarded.

use std::time::Duration;

use portclaim::lease::Protocol;
use serde_json::json;

use super::{Test, network};
use crate::{
    chain::{Container, Network},
    namespace::Namespace,
    node::{Family, Node},
    tool::ctl,
    traffic::{Echo, PATIENCE, SILENCE, ask, serve},
};

/// A firewall, before portclaim.
struct Firewall {
    /// As `acceptIn` names its chains.
    chains: &'static [&'static str],
    /// What whoever manages it does as it starts, and again.
    start: fn(&Node),
    /// What `doctor` calls one of its chains.
    name: &'static str,
}

const FIREWALLS: [Firewall; 2] = [
    Firewall {
        chains: &["inet filter forward"],
        start: |node| {
            // Not `ct state established`: replies must get through by themselves. What
            // is forwarded does not come by `input`, but neighbours are found there.
            node.host.nft(
                "table inet filter { }
                 delete table inet filter
                 table inet filter {
                     chain input {
                         type filter hook input priority 0; policy drop;
                         meta l4proto ipv6-icmp accept;
                     };
                     chain forward {
                         type filter hook forward priority 0; policy drop; iifname \"lo\" accept;
                     };
                 }",
            );
        },
        name: "chain forward of table inet filter",
    },
    Firewall {
        chains: &["iptables FORWARD", "ip6tables FORWARD"],
        start: |node| {
            for program in ["iptables", "ip6tables"] {
                for arguments in [&["-F", "FORWARD"][..], &["-P", "FORWARD", "DROP"]] {
                    let mut command = std::process::Command::new(program);
                    let output = node.host.output(command.args(arguments), b"");
                    assert!(output.status.success(), "{output:?}");
                }
            }
        },
        name: "chain FORWARD of table ip filter",
    },
];

fn web(node: &Node, network: &Network) -> (Container, [Echo; 3]) {
    let mut web = Container::new("web");
    let mappings = json!(Protocol::ALL.map(|protocol| {
        json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol.name() })
    }));
    network.attach(node, &mut web, mappings).succeeded();
    let servers = serve(web.namespace(), 80, "web");
    (web, servers)
}

/// Whether the container answers, by each protocol and family.
fn answers(from: &Namespace, patience: Duration) -> Vec<bool> {
    let mut answers = Vec::new();
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            answers.push(ask(from, protocol, (family.node(), 8080).into(), patience).is_some());
        }
    }
    answers
}

fn firewall_lines(node: &Node, network: &Network) -> String {
    let found = ctl(node, network, &["doctor", "-o", "json"]).json();
    let rows = found.as_array().unwrap().iter().filter(|row| row["check"] == "firewall");
    let lines = rows.map(|row| format!("{} {} {}", row["state"], row["text"], row["advice"]));
    lines.collect::<Vec<_>>().join("\n")
}

/// Exactly what is forwarded gets through, and does so again after a reload.
fn what_is_forwarded_gets_through() {
    for firewall in FIREWALLS {
        let node = Node::new(false);
        (firewall.start)(&node);
        let before = node.host.nft("list ruleset");
        let (web, _servers) = web(&node, &network());
        assert!(!answers(&node.outside, SILENCE).contains(&true), "nobody accepts it");
        let said = firewall_lines(&node, &network());
        let advice = format!("[\\\"{}\\\"]", firewall.chains[0]);
        assert!(said.contains(firewall.name) && said.contains(&advice), "{said}");

        let network = network().option("acceptIn", json!(firewall.chains));
        let lacks = ctl(&node, &network, &["check"]);
        let lacks = lacks.with_status(1);
        let chain = firewall.chains[0];
        let line = format!("chain {chain} does not accept what is forwarded");
        assert!(lacks.contains(&line), "{lacks}");
        assert!(firewall_lines(&node, &network).contains("\"fail\""));
        let line = format!("accepted what is forwarded in chain {chain}\n");
        assert!(ctl(&node, &network, &["restore"]).succeeded().contains(&line));
        ctl(&node, &network, &["check"]).succeeded();
        assert!(firewall_lines(&node, &network).contains("and accepts what is forwarded"));
        for from in [&node.outside, web.namespace()] {
            assert!(!answers(from, PATIENCE).contains(&false), "{chain}");
        }

        // What services of the host forward is as good.
        let _beyond = Echo::start(&node.beyond, Protocol::Tcp, 25, "beyond");
        let to = std::net::SocketAddr::from((Family::V4.beyond(), 25)).to_string();
        let allocate = ["allocate", "--tcp", "1", "--owner", "mail1", "--to", &to];
        let port: u16 = ctl(&node, &network, &allocate).succeeded().trim().parse().unwrap();
        let answer = ask(&node.outside, Protocol::Tcp, (Family::V4.node(), port).into(), PATIENCE);
        assert_eq!(answer.expect("it gets through").server, "beyond");

        // Not what was not asked for, and not what another forwards.
        node.host.nft(
            "table ip other { chain prerouting { type nat hook prerouting priority -100;
                 tcp dport 9999 dnat to 10.88.0.2:81; }; }",
        );
        let _other = Echo::start(web.namespace(), Protocol::Tcp, 81, "other");
        for server in ["10.88.0.2:80", "192.0.2.1:9999"] {
            let answer = ask(&node.outside, Protocol::Tcp, server.parse().unwrap(), SILENCE);
            assert!(answer.is_none(), "{chain}: {server}");
        }
        node.host.nft("delete table ip other");

        (firewall.start)(&node);
        assert!(!answers(&node.outside, SILENCE).contains(&true), "it has forgotten");
        ctl(&node, &network, &["restore"]).succeeded();
        assert!(!answers(&node.outside, PATIENCE).contains(&false), "{chain}");
        let done = ctl(&node, &network, &["reset", "--yes"]);
        assert!(
            done.succeeded().contains(&format!("removed the rule of portclaim in chain {chain}"))
        );
        assert_eq!(node.host.nft("list ruleset"), before);
    }
}

/// Whoever comes first after all rules were flushed opens the chains too.
fn add_opens_chains_too() {
    let node = Node::new(false);
    let firewall = &FIREWALLS[0];
    (firewall.start)(&node);
    let network = network().option("acceptIn", json!(["inet filter forward", "inet none forward"]));
    let (_web, _servers) = web(&node, &network);
    assert!(!answers(&node.outside, PATIENCE).contains(&false));
    node.host.nft("flush ruleset");
    (firewall.start)(&node);
    let next = network.add(&node, &Container::on_paper("next", 9), json!([{ "containerPort": 1 }]));
    let next = next.run(&node);
    next.succeeded();
    assert!(next.stderr.contains("chain inet none forward, which acceptIn names"), "{next:?}");
    assert!(!answers(&node.outside, PATIENCE).contains(&false));
    let checked = ctl(&node, &network, &["check"]);
    assert!(checked.succeeded().contains("note: chain inet none forward"), "{checked:?}");
}

pub(super) const TESTS: [Test; 2] =
    [("accept", what_is_forwarded_gets_through), ("accept::add", add_opens_chains_too)];
