//! The CNI protocol as seen from outside the process (CNI SPEC 1.1.0).

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Network},
    held::{assert_nothing_held, forwarded, leases, ports_of},
    node::Node,
};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn network() -> Network {
    Network::bridge("podnet", true)
}

fn one_port() -> Value {
    json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }])
}

/// A call of ADD that works, as JSON to be spoilt.
fn good_add(node: &Node) -> (Call, Value) {
    let call = network().add(node, &Container::on_paper("web", 2), one_port());
    let config = serde_json::from_slice(&call.stdin).unwrap();
    (call, config)
}

/// Asserts that a spoilt ADD is refused with this code and leaves nothing behind.
#[track_caller]
fn assert_refused(node: &Node, call: &Call, code: u64) {
    let before = node.traces();
    let outcome = call.run(node);
    let what = || format!("{:?} {:.200}", call.environment, String::from_utf8_lossy(&call.stdin));
    let error = outcome.failed();
    assert_eq!(error.code, code, "{} {outcome:?}", what());
    assert_eq!(node.traces(), before, "{}", what());
    assert_nothing_held(node, &network());
}

fn every_version() {
    let node = Node::new(false);
    for version in VERSIONS {
        let network = network().version(version);
        let mut container = Container::on_paper("web", 2);
        if version < "1.0.0" {
            container.result["ips"][0]["version"] = "4".into();
            container.result["ips"][1]["version"] = "6".into();
        }
        let reply = network.add(&node, &container, one_port()).run(&node).succeeded();
        let mut expected = container.result.clone();
        expected["cniVersion"] = version.into();
        assert_eq!(reply, expected, "{version}");
        assert_eq!(ports_of(&node, &container), [8080], "{version}");

        let check = network.check(&node, &container, one_port()).run(&node);
        if version < "0.4.0" {
            check.failed_with(1);
        } else {
            assert_eq!(check.succeeded(), Value::Null, "{version}");
        }
        assert_eq!(network.del(&node, &container).run(&node).succeeded(), Value::Null, "{version}");
        assert_nothing_held(&node, &network);

        for command in ["GC", "STATUS"] {
            let mut config = network.config(&node);
            config["cni.dev/valid-attachments"] = json!([]);
            let outcome = Call::new(command, &config).run(&node);
            if version < "1.1.0" {
                outcome.failed_with(1);
            } else {
                assert_eq!(outcome.succeeded(), Value::Null, "{command}");
            }
        }
    }
}

fn version_needs_nothing() {
    let node = Node::new(false);
    for stdin in ["", "{", "garbage", "null", r#"{"cniVersion":"1.1.0"}"#, r#"{"cniVersion":"9"}"#]
    {
        let mut call = Call::new("VERSION", &Value::Null)
            .with("CNI_CONTAINERID", "dummy")
            .with("CNI_NETNS", "dummy")
            .with("CNI_IFNAME", "dummy")
            .with("CNI_PATH", "dummy");
        call.stdin = stdin.into();
        let reply = call.run(&node).succeeded();
        assert_eq!(reply["supportedVersions"], json!(VERSIONS), "{stdin:?}");
        assert!(reply["cniVersion"].is_string(), "{stdin:?}: {reply}");
        let mut bare = Call::new("VERSION", &Value::Null);
        bare.stdin = stdin.into();
        assert_eq!(bare.run(&node).succeeded(), reply, "{stdin:?}");
    }
}

fn result_is_handed_on_unchanged() {
    // Each of these texts must come back as it is: order, unknown keys, numbers.
    const PARTS: [&str; 5] = [
        r#""zeta":{"b": 1.0, "a": 1e3, "big": 123456789012345678901234567890, "n": null}"#,
        r#""interfaces":[{"sandbox":"/run/netns/x","name":"eth0","mtu":1.50,"x":"\u00e9"}]"#,
        r#""ips":[{"interface":0,"address":"10.99.0.2/16","extra":[ ]}]"#,
        r#""dns":{"search":[],"options":["ndots:5"]}"#,
        r#""routes":[{"dst":"0.0.0.0/0","priority":0e0}]"#,
    ];
    let node = Node::new(false);
    let (mut call, mut config) = good_add(&node);
    config["prevResult"] = "HERE".into();
    let result = format!(r#"{{"cniVersion":"1.0.0",{}}}"#, PARTS.join(","));
    call.stdin = config.to_string().replace("\"HERE\"", &result).into();
    let reply = call.run(&node);
    reply.succeeded();
    let places = PARTS.map(|part| {
        reply.stdout.find(part).unwrap_or_else(|| panic!("{part} is not in {}", reply.stdout))
    });
    assert!(places.is_sorted(), "{}", reply.stdout);
    let container = "10.99.0.2:80".parse().unwrap();
    assert_eq!(forwarded(&node, &network()), [(("tcp".to_owned(), 8080), container)].into());
}

/// A chain's result tells of the host's interfaces and addresses, too.
fn container_addresses_are_those_of_the_sandbox() {
    let node = Node::new(false);
    let (mut call, mut config) = good_add(&node);
    config["prevResult"] = json!({
        "interfaces": [
            { "name": "cni0" },
            { "name": "eth0", "sandbox": "" },
            { "name": "net1", "sandbox": "/run/netns/on-paper" },
            { "name": "eth0", "sandbox": "/run/netns/on-paper" },
        ],
        "ips": [
            { "interface": 0, "address": "10.1.0.1/16" },
            { "interface": 1, "address": "10.1.0.2/16" },
            { "interface": 2, "address": "10.1.0.3/16" },
            { "interface": 3, "address": "fd00:99::4/64" },
            { "interface": 3, "address": "10.99.0.4/16" },
            { "interface": 3, "address": "10.99.0.5/16" },
        ],
    });
    call.stdin = config.to_string().into();
    call.run(&node).succeeded();
    let container = "10.99.0.4:80".parse().unwrap();
    assert_eq!(forwarded(&node, &network()), [(("tcp".to_owned(), 8080), container)].into());
}

fn nothing_asked_for() {
    let node = Node::new(false);
    let (mut call, good) = good_add(&node);
    let before = node.traces();
    for runtime_config in [
        Value::Null,
        json!({}),
        json!({ "portMappings": null }),
        json!({ "portMappings": [] }),
        json!({ "portMappings": [], "io.kubernetes.cri.pod-annotations": null }),
    ] {
        let mut config = good.clone();
        config["runtimeConfig"] = runtime_config.clone();
        call.stdin = config.to_string().into();
        let reply = call.run(&node).succeeded();
        assert_eq!(reply["ips"], good["prevResult"]["ips"], "{runtime_config}");
        assert_eq!(node.traces(), before, "{runtime_config}");
    }
    let mut config = good;
    config.as_object_mut().unwrap().remove("runtimeConfig");
    call.stdin = config.to_string().into();
    call.run(&node).succeeded();
    assert_eq!(node.traces(), before);
}

/// containerd 1.x and 2.x write the keys with capitals.
fn both_spellings() {
    let node = Node::new(false);
    for (number, mappings) in [
        json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.1" }]),
        json!([{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "UDP", "HostIP": "192.0.2.1" }]),
    ]
    .into_iter()
    .enumerate()
    {
        let container = Container::on_paper("web", 2);
        network().add(&node, &container, mappings).run(&node).succeeded();
        let [held] = &leases(&node)[..] else { panic!("one lease: {number}") };
        let found = (&*held.protocol, &*held.host_ip, held.host_port, held.container_port);
        assert_eq!(found, ("udp", "192.0.2.1", 8080, 80), "{number}");
        network().del(&node, &container).run(&node).succeeded();
    }
}

fn garbage_on_stdin() {
    let node = Node::new(false);
    let (mut call, config) = good_add(&node);
    for stdin in ["", " ", "{", "[]", "null", "7", "\"x\"", "\0", "\u{feff}{}"] {
        call.stdin = stdin.into();
        assert_refused(&node, &call, 6);
    }
    call.stdin = [config.to_string().as_bytes(), b"x"].concat();
    assert_refused(&node, &call, 6);
    call.stdin = vec![0xff; 100];
    assert_refused(&node, &call, 6);
}

fn large_stdin() {
    const LIMIT: usize = 1 << 20;
    let node = Node::new(false);
    let (mut call, mut config) = good_add(&node);
    config["args"] = "x".into();
    let padding = |size| "x".repeat(size - config.to_string().len() + 1);
    let padded = |size| {
        let mut config = config.clone();
        config["args"] = padding(size).into();
        config.to_string().into_bytes()
    };
    call.stdin = padded(LIMIT + 1);
    assert_eq!(call.stdin.len(), LIMIT + 1);
    assert!((6..=7).contains(&call.run(&node).failed().code));
    assert_nothing_held(&node, &network());
    call.stdin = padded(16 * LIMIT);
    assert!((6..=7).contains(&call.run(&node).failed().code));
    assert_nothing_held(&node, &network());
    call.stdin = padded(LIMIT);
    call.run(&node).succeeded();
}

fn deep_json() {
    let node = Node::new(false);
    let (mut call, config) = good_add(&node);
    for depth in [200, 100_000] {
        let deep = "[".repeat(depth) + &"]".repeat(depth);
        call.stdin = deep.clone().into();
        assert_refused(&node, &call, 6);
        for key in ["args", "runtimeConfig", "prevResult"] {
            let mut config = config.clone();
            config[key] = json!({ "deep": "HERE" });
            call.stdin = config.to_string().replace("\"HERE\"", &deep).into();
            // Read or refused, but never a crash.
            let outcome = call.run(&node);
            assert!(outcome.status.code().is_some(), "{key}: {outcome:?}");
            if !outcome.status.success() {
                outcome.failed();
                assert_nothing_held(&node, &network());
            }
            network().del(&node, &Container::on_paper("web", 2)).run(&node).succeeded();
        }
    }
}

fn hostile_environment() {
    let node = Node::new(false);
    let long = "a".repeat(300);
    let ids = ["", " ", "..", "../x", "a/b", "/a", "-a", "a b", "a\n", "ü", "a;b", "$(x)", &long];
    let interfaces = ["", " ", "..", "../x", "a/b", "a:b", "sixteen-chars-xx"];
    let commands = ["", "FROB", "add", "ADD "];
    let cases = [
        ("CNI_CONTAINERID", &ids[..]),
        ("CNI_IFNAME", &interfaces[..]),
        ("CNI_COMMAND", &commands[..]),
        ("CNI_NETNS", &[""]),
    ];
    for (name, values) in cases {
        for value in values {
            assert_refused(&node, &good_add(&node).0.with(name, value), 4);
            if matches!(name, "CNI_CONTAINERID" | "CNI_IFNAME") {
                let del = network().del(&node, &Container::on_paper("web", 2));
                assert_refused(&node, &del.with(name, value), 4);
            }
        }
        let mut call = good_add(&node).0;
        call.environment.retain(|(other, _)| *other != name);
        assert_refused(&node, &call, 4);
    }
}

fn wrong_configuration() {
    let node = Node::new(false);
    let (mut call, good) = good_add(&node);
    let mut refused = |pointer: &str, value: Value, code: u64| {
        let mut config = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        call.stdin = config.to_string().into();
        assert_refused(&node, &call, code);
    };
    for version in ["", "0.1.0", "0.2.0", "1", "9.9.9"] {
        refused("/cniVersion", version.into(), 1);
    }
    refused("/prevResult", Value::Null, 7);
    for name in [json!("../x"), json!(""), json!("a b"), json!(7), Value::Null] {
        refused("/name", name, 7);
    }
    for (key, value) in [
        ("dataDir", json!("relative")),
        ("runDir", json!(7)),
        ("groups", json!({ "default": { "ports": "0-10" } })),
        ("groups", json!({ "default": { "ports": "20-10" } })),
        ("groups", json!({ "default": { "ports": "1-2", "cooldown": "soon" } })),
        ("groups", json!([])),
        ("exclude", json!("x")),
        ("hostListeners", json!("maybe")),
        ("lockTimeout", json!("soon")),
        ("snat", json!("yes")),
        ("masqAll", json!(1)),
        ("logLevel", json!("loud")),
        ("conditionsV4", json!("x")),
    ] {
        refused(&format!("/{key}"), value, 7);
    }
    // What only iptables has is not a wrong value but one that is not supported.
    refused("/backend", json!("iptables"), 2);
    refused("/markMasqBit", json!(13), 2);
    refused("/externalSetMarkChain", json!("KUBE-MARK-MASQ"), 2);
    for mappings in [
        json!("8080:80"),
        json!({}),
        json!([8080]),
        json!([{ "hostPort": 8080 }]),
        json!([{ "hostPort": 8080, "containerPort": 0 }]),
        json!([{ "hostPort": 65536, "containerPort": 80 }]),
        json!([{ "hostPort": -1, "containerPort": 80 }]),
        json!([{ "hostPort": 80.5, "containerPort": 80 }]),
        json!([{ "hostPort": "8080", "containerPort": 80 }]),
        json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "icmp" }]),
        json!([{ "hostPort": 8080, "containerPort": 80, "hostIP": "localhost" }]),
        json!([{ "hostPort": 8080, "containerPort": 80 }, { "hostPort": 8080, "containerPort": 81 }]),
    ] {
        refused("/runtimeConfig/portMappings", mappings, 7);
    }
}

fn del_needs_only_the_attachment() {
    let node = Node::new(false);
    let container = Container::on_paper("web", 2);
    let spoilt: [fn(&mut Value); 5] = [
        |_| {},
        |config| config["runtimeConfig"] = json!({ "portMappings": "garbage" }),
        |config| config["prevResult"] = json!({ "ips": [{ "address": "garbage" }] }),
        |config| config["groups"] = json!({ "default": { "ports": "garbage" } }),
        |config| config["name"] = "renamed".into(),
    ];
    for spoil in spoilt {
        network().add(&node, &container, one_port()).run(&node).succeeded();
        let mut config = network().config(&node);
        spoil(&mut config);
        let mut call = network().del(&node, &container).with("CNI_NETNS", "");
        call.stdin = config.to_string().into();
        for time in ["first", "second"] {
            let reply = call.run(&node).succeeded();
            assert_eq!(reply, Value::Null, "{time} time: {config}");
        }
        assert_nothing_held(&node, &network());
    }
    network().add(&node, &container, one_port()).run(&node).succeeded();
    let mut call = network().del(&node, &container);
    call.environment.retain(|(name, _)| *name != "CNI_NETNS");
    call.run(&node).succeeded();
    assert_nothing_held(&node, &network());
}

fn del_of_another_attachment_takes_nothing() {
    let node = Node::new(false);
    let container = Container::on_paper("web", 2);
    network().add(&node, &container, one_port()).run(&node).succeeded();
    let before = (leases(&node), node.traces());
    network().del(&node, &Container::on_paper("other", 3)).run(&node).succeeded();
    network().del(&node, &container).with("CNI_IFNAME", "eth1").run(&node).succeeded();
    assert_eq!((leases(&node), node.traces()), before);
}

fn del_where_nothing_ever_was() {
    let node = Node::new(false);
    let before = node.traces();
    network().del(&node, &Container::on_paper("web", 2)).run(&node).succeeded();
    assert_eq!(node.traces(), before);
    assert!(!node.data_dir().exists(), "the database");
    assert!(!node.run_dir().exists(), "the published files");
}

/// One trial for each rule.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 14] = [
        ("every-version", every_version),
        ("version-needs-nothing", version_needs_nothing),
        ("result-unchanged", result_is_handed_on_unchanged),
        ("container-addresses", container_addresses_are_those_of_the_sandbox),
        ("nothing-asked-for", nothing_asked_for),
        ("both-spellings", both_spellings),
        ("garbage-on-stdin", garbage_on_stdin),
        ("large-stdin", large_stdin),
        ("deep-json", deep_json),
        ("hostile-environment", hostile_environment),
        ("wrong-configuration", wrong_configuration),
        ("del::only-the-attachment", del_needs_only_the_attachment),
        ("del::another-attachment", del_of_another_attachment_takes_nothing),
        ("del::nothing-there", del_where_nothing_ever_was),
    ];
    crate::trials("protocol", tests)
}
