//! Ports that pods ask for by annotation: the grammar, groups, blocks and what the
//! node's policy makes of them.

use std::collections::HashSet;

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Network, annotated},
    held::{Held, assert_nothing_held, leases, leases_of, ports_of},
    node::{Family, Node},
    traffic::{Echo, PATIENCE, ask},
};

fn network() -> Network {
    Network::bridge("podnet", true)
        .option(
            "groups",
            json!({
                "games": { "ports": "7000-7999", "namespaces": ["games", "games-*"] },
                "media": { "ports": "20000-20099", "protocols": ["udp"], "maxPerNamespace": 64 },
                "agents": { "ports": "30500-30999", "strategy": "sequential" },
                "web": { "ports": "443,8443", "namespaces": ["edge"] },
                "recent": { "ports": "9000-9003", "strategy": "least-recently-used",
                            "cooldown": "0s" },
                "small": { "ports": "6000-6007", "cooldown": "0s", "maxPerPod": 4 },
            }),
        )
        .option("exclude", json!("7500-7999"))
}

fn pod(id: &str, number: u16, namespace: &str) -> Container {
    Container::on_paper(id, number).in_pod(namespace, id, &format!("uid-{id}"))
}

fn held(node: &Node, container: &Container) -> Vec<(String, u16, u16)> {
    let entry = |held: Held| (held.protocol, held.host_port, held.container_port);
    leases_of(node, container).into_iter().map(entry).collect()
}

fn only_the_exact_word_enables() {
    let node = Node::new(false);
    let web = pod("web", 2, "default");
    let ports = json!({ "hostport.io/ports": "web=80" });
    for enabled in [json!("false"), json!("True"), json!("1"), json!(""), Value::Null] {
        let mut annotations = ports.clone();
        annotations["hostport.io/enabled"] = enabled.clone();
        let runtime = json!({ "io.kubernetes.cri.pod-annotations": annotations });
        let outcome = network().add_with(&node, &web, runtime).run(&node);
        outcome.succeeded();
        // Who asks and does not say so right is told at least in the log.
        let is_told = outcome.stderr.contains("hostport.io/enabled");
        assert_eq!(is_told, enabled != json!("false"), "{outcome:?}");
    }
    // What CRI-O and containerd send for a pod without any.
    for none in [json!({}), Value::Null] {
        let runtime = json!({ "io.kubernetes.cri.pod-annotations": none });
        network().add_with(&node, &web, runtime).run(&node).succeeded();
    }
    assert_eq!(leases(&node), []);
    network().add_with(&node, &web, annotated(&[("ports", "web=80")])).run(&node).succeeded();
    assert_eq!(leases_of(&node, &web).len(), 1);
}

fn all_three_sources_together() {
    let node = Node::new(false);
    let web = pod("web", 2, "games-eu");
    let mut runtime = annotated(&[("ports", "grpc=19805, game=7777/tcp+udp@games")]);
    runtime["portMappings"] = json!([{ "HostPort": 8080, "ContainerPort": 80 }]);
    runtime["portClaims"] = json!([{ "name": "dns", "containerPort": "same", "protocol": "udp" }]);
    network().add_with(&node, &web, runtime.clone()).run(&node).succeeded();
    let held = leases_of(&node, &web);
    let named = |name: &str| {
        let mut of_name = held.iter().filter(move |held| held.name.as_deref() == Some(name));
        (of_name.next().unwrap(), of_name.next())
    };
    let (tcp, udp) = named("game");
    let udp = udp.unwrap();
    assert_eq!((tcp.protocol.as_str(), udp.protocol.as_str()), ("tcp", "udp"));
    assert_eq!((tcp.host_port, tcp.container_port), (udp.host_port, 7777));
    assert!((7000..7500).contains(&tcp.host_port) && tcp.group.as_deref() == Some("games"));
    let (grpc, dns) = (named("grpc").0, named("dns").0);
    assert!((10000..20000).contains(&grpc.host_port) && grpc.container_port == 19805);
    assert_eq!((dns.host_port, dns.protocol.as_str()), (dns.container_port, "udp"));
    assert_eq!(held.len(), 5);
    network().check_with(&node, &web, runtime.clone()).run(&node).succeeded();
    runtime["portClaims"][0]["containerPort"] = 53.into();
    let error = network().check_with(&node, &web, runtime).run(&node).failed_with(106);
    assert!(error.message.contains("dns"), "{error:?}");
    network().del(&node, &web).run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

/// The example of the seed.
fn sequential_pods_are_numbered_in_order() {
    let node = Node::new(false);
    let runtime = annotated(&[
        ("base-port", "30558"),
        ("strategy", "Sequential"),
        ("ports", "grpc=19805, health=9090"),
    ]);
    for (number, expected) in [(2, [30558, 30559]), (3, [30560, 30561])] {
        let agent = pod(&format!("agent-{number}"), number, "build");
        network().add_with(&node, &agent, runtime.clone()).run(&node).succeeded();
        assert_eq!(ports_of(&node, &agent), expected);
    }
}

fn random_ports_are_drawn_from_the_base_up() {
    let node = Node::new(false);
    let mut seen = HashSet::new();
    for number in 2..10 {
        let agent = pod(&format!("agent-{number}"), number, "build");
        let keys = [("base-port", "30900"), ("strategy", "Random"), ("ports", "a=1,b=2")];
        network().add_with(&node, &agent, annotated(&keys)).run(&node).succeeded();
        seen.extend(ports_of(&node, &agent));
    }
    assert!(seen.len() == 16 && seen.iter().all(|port| (30900..31000).contains(port)), "{seen:?}");
}

fn blocks_are_contiguous_and_reached() {
    let node = Node::new(false);
    let mut relay = Container::new("relay").in_pod("calls", "relay", "1");
    let ports = r#"[{"name": "rtp", "containerPort": 40000, "protocol": "udp", "count": 32}]"#;
    let runtime = annotated(&[("group", "media"), ("ports", ports)]);
    network().attach_with(&node, &mut relay, runtime).succeeded();
    let held = leases_of(&node, &relay);
    let first = held[0].host_port;
    assert_eq!(held.len(), 32);
    for (held, at) in held.iter().zip(0..) {
        assert_eq!((held.host_port, held.container_port), (first + at, 40000 + at));
        let port = held.container_port;
        let name = format!("relay:{port}");
        let _server = Echo::start(relay.namespace(), Protocol::Udp, port, &name);
        for family in Family::ALL {
            let server = (family.node(), held.host_port).into();
            let answer = ask(&node.outside, Protocol::Udp, server, PATIENCE).unwrap();
            assert_eq!((answer.server, answer.client), (name.clone(), family.outside()));
        }
    }
}

/// Every second block of two is taken, so that 16 of 32 ports are free and no three
/// in a row; then one goes.
fn blocks_are_found_in_a_fragmented_pool() {
    let node = Node::new(false);
    let network = network()
        .option("groups", json!({ "media": { "ports": "20000-20031", "cooldown": "0s" } }));
    let block = |count: u16| json!({ "portClaims": [{ "containerPort": 100, "count": count, "group": "media" }] });
    let pods: Vec<_> =
        (0..16_u16).map(|number| pod(&format!("p{number}"), number + 2, "a")).collect();
    let sequential = |count: u16| {
        let ports = format!(r#"[{{"name": "a", "containerPort": 100, "count": {count}}}]"#);
        annotated(&[("group", "media"), ("strategy", "Sequential"), ("ports", &ports)])
    };
    for pod in &pods {
        network.add_with(&node, pod, sequential(2)).run(&node).succeeded();
    }
    for pod in pods.iter().step_by(2) {
        network.del(&node, pod).run(&node).succeeded();
    }
    let late = pod("late", 99, "a");
    let before = leases(&node);
    let error = network.add_with(&node, &late, block(3)).run(&node).failed_with(101);
    assert!(error.message.contains("16 of 32"), "{error:?}");
    assert_eq!(leases(&node), before);
    network.del(&node, &pods[9]).run(&node).succeeded();
    network.add_with(&node, &late, block(6)).run(&node).succeeded();
    assert_eq!(ports_of(&node, &late), (20016..20022).collect::<Vec<_>>());
}

fn the_container_port_may_be_the_same() {
    let node = Node::new(false);
    let mut arena = Container::new("arena").in_pod("games", "arena-0", "1");
    let runtime = annotated(&[("ports", "game=same/tcp+udp@games")]);
    network().attach_with(&node, &mut arena, runtime).succeeded();
    let held = held(&node, &arena);
    let port = held[0].1;
    assert_eq!(held, [("tcp".to_owned(), port, port), ("udp".to_owned(), port, port)]);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let _server = Echo::start(arena.namespace(), protocol, port, "arena");
        let server = (Family::V4.node(), port).into();
        let answer = ask(&node.outside, protocol, server, PATIENCE).unwrap();
        assert_eq!(answer.server, "arena");
    }
}

fn least_recently_used_ports_come_round() {
    let node = Node::new(false);
    let runtime = annotated(&[("group", "recent"), ("ports", "a=1")]);
    let mut given = Vec::new();
    for number in 2..10 {
        let pod = pod(&format!("p{number}"), number, "a");
        network().add_with(&node, &pod, runtime.clone()).run(&node).succeeded();
        given.extend(ports_of(&node, &pod));
        network().del(&node, &pod).run(&node).succeeded();
    }
    assert_eq!(given, [9000, 9001, 9002, 9003, 9000, 9001, 9002, 9003]);
}

/// An ADD that is refused with this code and these words, and changes nothing.
#[track_caller]
fn refused(node: &Node, call: &Call, code: u64, words: &[&str]) {
    let before = (leases(node), node.traces());
    let error = call.run(node).failed_with(code);
    for word in words {
        assert!(error.message.contains(word), "{word:?} in {error:?}");
    }
    assert!(error.message.len() < 2000, "{error:?}");
    assert!(!error.message.chars().any(|c| c.is_control() || c == '\u{202e}'), "{error:?}");
    assert_eq!((leases(node), node.traces()), before);
}

/// What a pod is annotated with, by keys under `hostport.io/`.
type Annotations = &'static [(&'static str, &'static str)];

/// Words of an error.
type Words = &'static [&'static str];

fn mistakes_are_named() {
    let node = Node::new(false);
    let web = pod("web", 2, "default");
    let cases: &[(Annotations, Words)] = &[
        (&[], &["hostport.io/ports"]),
        (&[("ports", "")], &["hostport.io/ports"]),
        (&[("ports", "web=80, health=90x/tcp")], &["entry 2", "character 16", "90x"]),
        (&[("ports", "web=80, web=81")], &["web"]),
        (&[("ports", "web=80/icmp")], &["icmp", "tcp+udp"]),
        (&[("ports", r#"[{"name": "a", "containerPort": 80, "prot": "tcp"}]"#)], &["prot"]),
        (&[("ports", r#"[{"name": "a", "containerPort": 65530, "count": 7}]"#)], &["65530"]),
        (&[("ports", "a=1"), ("strategy", "sequential")], &["sequential", "Sequential", "Random"]),
        (&[("ports", "a=1"), ("base-port", "0")], &["hostport.io/base-port", "0"]),
        (&[("ports", "a=1"), ("base", "80")], &["hostport.io/base", "hostport.io/base-port"]),
        (&[("ports", "a=1"), ("claim", "../x")], &["../x"]),
        (&[("ports", "a\0b\u{202e}=1")], &["entry 1"]),
    ];
    for (annotations, words) in cases {
        refused(&node, &network().add_with(&node, &web, annotated(annotations)), 7, words);
    }
}

fn policy_is_enforced_on_the_node() {
    let node = Node::new(false);
    let cases: &[(&str, Annotations, Words)] = &[
        ("shop", &[("ports", "a=1@games")], &["games", "shop"]),
        ("shop", &[("ports", "a=1@absent")], &["absent"]),
        ("games", &[("ports", "a=1"), ("group", "media")], &["media", "tcp", "udp"]),
        ("games", &[("ports", "a=1@games"), ("base-port", "8000")], &["8000", "games"]),
        ("games", &[("ports", "a=1"), ("base-port", "40000")], &["40000"]),
        (
            "shop",
            &[("ports", r#"[{"containerPort": 1, "count": 65}]"#)],
            &["65", "64", "maxPerPod"],
        ),
        (
            "shop",
            &[("ports", "a=1,b=2,c=3,d=4,e=5"), ("group", "small")],
            &["small", "maxPerPod", "4"],
        ),
        ("shop", &[("ports", r#"[{"containerPort": 1, "hostPort": 8080}]"#)], &["8080", "static"]),
        (
            "games",
            &[("ports", r#"[{"containerPort": 1, "preferredPort": 80, "group": "games"}]"#)],
            &["80", "games"],
        ),
    ];
    for (namespace, annotations, words) in cases {
        let pod = pod("web", 2, namespace);
        refused(&node, &network().add_with(&node, &pod, annotated(annotations)), 102, words);
    }
    // What a namespace may have, whichever of its pods has it.
    let media = |count: u16| {
        let ports = format!(r#"[{{"containerPort": 1, "count": {count}, "protocol": "udp"}}]"#);
        annotated(&[("group", "media"), ("ports", &ports)])
    };
    let first = pod("first", 3, "calls");
    network().add_with(&node, &first, media(60)).run(&node).succeeded();
    // Kubernetes takes a name that is longer than a label of DNS can be.
    let name = "second".repeat(42);
    let second = Container::on_paper("second", 4).in_pod("calls", &name, "uid-second");
    let call = network().add_with(&node, &second, media(5));
    refused(&node, &call, 102, &["maxPerNamespace", "64", "60", "5", "calls"]);
    network().add_with(&node, &second, media(4)).run(&node).succeeded();
    network().add_with(&node, &first, media(60)).run(&node).succeeded();
    network().add_with(&node, &pod("third", 5, "other"), media(5)).run(&node).succeeded();
}

fn ports_by_number_only_where_they_are_allowed() {
    let node = Node::new(false);
    let rules = json!({
        "annotations": [
            { "ports": "5060", "namespaces": ["voice"] },
            { "ports": "1-1023", "protocols": ["tcp"] },
        ],
        "portMappings": [{ "ports": "8000-8999" }],
    });
    let network = network().option("static", rules);
    let by_number = |port: u16, protocol: &str| {
        let ports =
            format!(r#"[{{"containerPort": 1, "hostPort": {port}, "protocol": "{protocol}"}}]"#);
        annotated(&[("ports", &ports)])
    };
    let taken = |namespace: &str, port, protocol: &str| {
        let pod = pod("web", 2, namespace);
        network.add_with(&node, &pod, by_number(port, protocol)).run(&node).succeeded();
        network.del(&node, &pod).run(&node).succeeded();
    };
    let not = |namespace: &str, port: u16, protocol: &str| {
        let call = network.add_with(&node, &pod("web", 2, namespace), by_number(port, protocol));
        refused(&node, &call, 102, &["static.annotations", &port.to_string()]);
    };
    taken("voice", 5060, "tcp+udp");
    not("shop", 5060, "udp");
    not("voice", 5061, "udp");
    taken("edge", 443, "tcp");
    not("edge", 443, "udp");
    // Below 1024 a group must list it too, and the namespace may use that group.
    let call = network.add_with(&node, &pod("web", 2, "shop"), by_number(443, "tcp"));
    refused(&node, &call, 102, &["443", "1024"]);
    let web = pod("web", 2, "shop");
    network
        .add(&node, &web, json!([{ "hostPort": 8080, "containerPort": 80 }]))
        .run(&node)
        .succeeded();
    let call = network.add(&node, &web, json!([{ "hostPort": 80, "containerPort": 80 }]));
    refused(&node, &call, 102, &["static.portMappings", "80"]);
}

fn an_exhausted_group_says_who_has_it() {
    let node = Node::new(false);
    let runtime = annotated(&[("group", "small"), ("ports", "a=1,b=2,c=3")]);
    for (number, namespace) in [(2, "shop"), (3, "shop"), (4, "blog")] {
        let ports = if number == 4 {
            annotated(&[("group", "small"), ("ports", "a=1,b=2")])
        } else {
            runtime.clone()
        };
        let pod = pod(&format!("p{number}"), number, namespace);
        network().add_with(&node, &pod, ports).run(&node).succeeded();
    }
    let call = network().add_with(&node, &pod("late", 9, "late"), runtime);
    refused(&node, &call, 101, &["small", "8 of 8", "6", "shop"]);
}

fn hostile_annotations_end_in_errors() {
    let node = Node::new(false);
    let web = pod("web", 2, "default");
    let entries =
        |count: usize| (0..count).map(|at| format!("p{at}=80")).collect::<Vec<_>>().join(",");
    let json_entries = format!("[{}]", vec![r#"{"containerPort":80}"#; 10_000].join(","));
    for (value, code) in [
        ("a".repeat(200_000), 7),
        (entries(10_000), 102),
        (json_entries, 102),
        ("[".repeat(100_000), 7),
        (format!("[{}", r#"{"a":"#.repeat(20_000)), 7),
        ("=".repeat(200_000), 7),
        (",".repeat(200_000), 7),
        (format!("a=80@{}", "../".repeat(50_000)), 7),
        ("a=80/tcp\0".to_owned(), 7),
        ("\u{202e}=80".repeat(1000), 7),
        (r#"[{"containerPort": 1e400}]"#.to_owned(), 7),
    ] {
        let call = network().add_with(&node, &web, annotated(&[("ports", &value)]));
        refused(&node, &call, code, &[]);
    }
}

/// A pool that the kernel takes ports from as well is a mistake that bites later.
fn ephemeral_ports_are_warned_about() {
    let node = Node::new(false);
    node.host.sysctl("ipv4/ip_local_port_range", "7400 7600");
    let arena = pod("arena", 2, "games");
    let outcome =
        network().add_with(&node, &arena, annotated(&[("ports", "a=1@games")])).run(&node);
    outcome.succeeded();
    for word in ["7400-7499", "games", "ip_local_port_range"] {
        assert!(outcome.stderr.contains(word), "{word} in {}", outcome.stderr);
    }
    let outcome = network().add_with(&node, &arena, annotated(&[("ports", "a=1")])).run(&node);
    assert!(!outcome.stderr.contains("ip_local_port_range"), "{}", outcome.stderr);
}

/// One trial for each way of asking, and of being refused.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 14] = [
        ("enabled", only_the_exact_word_enables),
        ("all-sources", all_three_sources_together),
        ("sequential", sequential_pods_are_numbered_in_order),
        ("random-from-base", random_ports_are_drawn_from_the_base_up),
        ("block", blocks_are_contiguous_and_reached),
        ("block::fragmented", blocks_are_found_in_a_fragmented_pool),
        ("same", the_container_port_may_be_the_same),
        ("least-recently-used", least_recently_used_ports_come_round),
        ("mistakes", mistakes_are_named),
        ("policy", policy_is_enforced_on_the_node),
        ("static", ports_by_number_only_where_they_are_allowed),
        ("exhausted", an_exhausted_group_says_who_has_it),
        ("hostile", hostile_annotations_end_in_errors),
        ("ephemeral", ephemeral_ports_are_warned_about),
    ];
    crate::trials("asking", tests)
}
