//! From what is written to requests, through all sources and rules.

use serde_json::{Value, json};

use super::*;
use crate::lease::Group;

/// The groups and rules of most tests.
const SETTINGS: &str = r#"
    "groups": {
        "default": {"ports": "10000-19999", "maxPerPod": 10},
        "games": {"ports": "7000-7999", "namespaces": ["games-*"], "protocols": ["udp", "tcp"],
                  "strategy": "least-recently-used"},
        "low": {"ports": "53,400-500", "namespaces": ["games-*"], "strategy": "sequential"}
    },
    "static": {"annotations": [{"ports": "1-1023,7000-7009", "namespaces": ["games-*"]}],
               "portClaims": [{"ports": "8000-8999", "protocols": ["tcp"]}]}"#;

fn config(keys: &str, runtime_config: &Value) -> Config {
    let json =
        format!(r#"{{"cniVersion":"1.0.0","name":"net","runtimeConfig":{runtime_config},{keys}}}"#);
    Config::parse(json.as_bytes()).unwrap()
}

fn ask(keys: &str, namespace: &str, runtime_config: &Value) -> Result<Vec<Request>, RequestError> {
    ask_all(keys, namespace, runtime_config).map(|asked| asked.requests)
}

fn ask_all(keys: &str, namespace: &str, runtime_config: &Value) -> Result<Asked, RequestError> {
    let config = config(keys, runtime_config);
    let pod = namespace.parse().ok().map(|namespace| Pod {
        namespace,
        name: "web-0".parse().unwrap(),
        uid: None,
    });
    asked(&Sources::read(&config).unwrap(), &config.settings().unwrap(), pod.as_ref())
}

fn annotations(ports: &str, more: &[(&str, &str)]) -> Value {
    let mut annotations = json!({"hostport.io/enabled": "true", "hostport.io/ports": ports});
    for (key, value) in more {
        annotations[format!("hostport.io/{key}")] = (*value).into();
    }
    json!({"io.kubernetes.cri.pod-annotations": annotations})
}

/// Each request on a line: name, container, protocols, address, count, choice.
fn shown(requests: &[Request]) -> Vec<String> {
    let show = |request: &Request| {
        let name = request.name.as_ref().map_or("-", PortName::as_str);
        let container = match request.container {
            ContainerPort::Number(port) => port.to_string(),
            ContainerPort::Same => "same".to_owned(),
        };
        let choice = match &request.choice {
            Choice::Static(port) => format!("={port}"),
            Choice::Dynamic(dynamic) => {
                let from = dynamic.from.map(|port| format!(" from {port}")).unwrap_or_default();
                let preferred =
                    dynamic.preferred.map(|port| format!(" preferred {port}")).unwrap_or_default();
                let claim =
                    dynamic.claim.as_ref().map(|name| format!(" claim {name}")).unwrap_or_default();
                format!("{} {:?}{from}{preferred}{claim}", dynamic.group, dynamic.strategy)
            }
        };
        let count = match request.count {
            1 => String::new(),
            count => format!(" x{count}"),
        };
        let address = request.address;
        format!("{name} {address}{container}/{}{count} {choice}", request.protocols)
    };
    requests.iter().map(show).collect()
}

#[test]
fn what_may_be_had_becomes_requests() {
    let mapping = json!({"portMappings": [{"containerPort": 80},
        {"containerPort": 443, "hostPort": 443, "protocol": "UDP"}]});
    let document = json!({"portClaims": [{"name": "a", "containerPort": "same", "count": 2,
        "protocol": "tcp+udp", "group": "games", "preferredPort": 7998, "claim": "$(POD_NAME)"},
        {"containerPort": 1, "hostPort": 8000, "count": 3}]});
    for (asked, expected) in [
        (json!(null), vec![]),
        (json!({"portMappings": [], "portClaims": []}), vec![]),
        (mapping, vec!["- 80/tcp default Random", "- 443/udp =443"]),
        (
            document,
            vec![
                "a same/tcp+udp x2 games LeastRecentlyUsed preferred 7998 claim web-0",
                "- 1/tcp x3 =8000",
            ],
        ),
        (
            annotations("a=1, b=same/udp@games", &[]),
            vec!["a 1/tcp default Random", "b same/udp games LeastRecentlyUsed"],
        ),
        // The group's strategy, unless the annotation names one.
        (
            annotations("a=1", &[("group", "low"), ("strategy", "Random"), ("claim", "c")]),
            vec!["a 1/tcp low Random claim c"],
        ),
        // A base means Sequential, and a group that has it: the default group first.
        (
            annotations("a=1", &[("base-port", "15000")]),
            vec!["a 1/tcp default Sequential from 15000"],
        ),
        (
            annotations("a=1", &[("base-port", "450"), ("strategy", "Random")]),
            vec!["a 1/tcp low Random from 450"],
        ),
        (
            annotations("a=1,b=2@games", &[("base-port", "7500")]),
            vec!["a 1/tcp games Sequential from 7500", "b 2/tcp games Sequential from 7500"],
        ),
        // A port by number: by a rule, and below 1024 one of a group.
        (
            annotations(
                r#"[{"containerPort": 1, "hostPort": 53}, {"containerPort": 2, "hostPort": 7009}]"#,
                &[("base-port", "7000"), ("group", "low"), ("claim", "c")],
            ),
            vec!["- 1/tcp =53", "- 2/tcp =7009"],
        ),
    ] {
        let requests = ask(SETTINGS, "games-1", &asked).unwrap();
        assert_eq!(shown(&requests), expected, "{asked}");
    }
}

#[test]
fn a_health_check_is_of_a_tcp_port_that_is_asked_for() {
    let mapping = json!([{"containerPort": 80}]);
    let alone = |check: &str| {
        let annotations = json!({"hostport.io/enabled": "true", "hostport.io/health": check});
        json!({"io.kubernetes.cri.pod-annotations": annotations, "portMappings": mapping})
    };
    for (asked, expected) in [
        (annotations("a=1", &[]), None),
        (annotations("a=1/udp", &[("health", "none")]), None),
        (annotations("a=1/udp, b=2/tcp+udp", &[("health", "tcp")]), Some("tcp")),
        (annotations("a=1, b=2", &[("health", "b=http:/h?x=1")]), Some("b=http:/h?x=1")),
        (alone("http:/"), Some("http:/")),
    ] {
        let health = ask_all(SETTINGS, "shop", &asked).unwrap().health;
        assert_eq!(health.map(|check| check.to_string()).as_deref(), expected, "{asked}");
    }
    let mut without_ports = alone("tcp");
    without_ports["portMappings"] = json!([]);
    for (asked, message) in [
        (
            annotations("a=1/udp", &[("health", "tcp")]),
            "hostport.io/health is \"tcp\": no TCP port is asked for",
        ),
        (without_ports, "hostport.io/health is \"tcp\": no TCP port is asked for"),
        (
            annotations("a=1/udp,b=2", &[("health", "a=tcp")]),
            "hostport.io/health is \"a=tcp\": the port of this name is not a TCP port",
        ),
        (
            annotations("a=1", &[("health", "c=tcp")]),
            "hostport.io/health is \"c=tcp\": no port of this name is asked for",
        ),
        (
            annotations("a=1", &[("health", "http")]),
            "hostport.io/health is \"http\": \"none\", \"tcp\" and \"http:/PATH\" are allowed, the latter two also with the name of a TCP port: \"web=http:/healthz\"",
        ),
    ] {
        assert_eq!(ask_all(SETTINGS, "shop", &asked).unwrap_err().to_string(), message);
    }
}

#[test]
fn sources_are_taken_together() {
    let mut asked = annotations("a=1", &[]);
    asked["portMappings"] = json!([{"containerPort": 80}]);
    asked["portClaims"] = json!([{"name": "b", "containerPort": 2}]);
    let requests = ask(SETTINGS, "games-1", &asked).unwrap();
    let expected = ["- 80/tcp default Random", "a 1/tcp default Random", "b 2/tcp default Random"];
    assert_eq!(shown(&requests), expected);

    asked["portClaims"] = json!([{"name": "a", "containerPort": 2}]);
    assert_eq!(
        ask(SETTINGS, "games-1", &asked).unwrap_err().to_string(),
        "hostport.io/ports, entry 1 and runtimeConfig.portClaims, entry 1 both have the name \"a\": a name belongs to one entry"
    );
    let asked = json!({"portMappings": [{"containerPort": 1, "hostPort": 8002, "hostIP": "0.0.0.0"}],
        "portClaims": [{"containerPort": 1, "hostPort": 8000, "count": 3}]});
    assert_eq!(
        ask(SETTINGS, "games-1", &asked).unwrap_err().to_string(),
        "runtimeConfig.portMappings[0] and runtimeConfig.portClaims, entry 1 both ask for host port 8002/tcp"
    );
    let elsewhere = json!({"portMappings": [{"containerPort": 1, "hostPort": 80},
        {"containerPort": 2, "hostPort": 80, "protocol": "udp"},
        {"containerPort": 2, "hostPort": 81, "hostIP": "192.0.2.1"},
        {"containerPort": 2, "hostPort": 81, "hostIP": "192.0.2.2"}]});
    assert_eq!(ask(SETTINGS, "games-1", &elsewhere).unwrap().len(), 4);
}

#[test]
fn refusals_name_the_rule() {
    let document = |entry: Value| json!({"portClaims": [entry]});
    let game = "namespace \"games-1\" may use \"default\", \"games\", \"low\"";
    for (namespace, asked, message) in [
        (
            "games-1",
            document(json!({"containerPort": 1, "count": 33, "protocol": "tcp+udp"})),
            "66 ports are asked for, each protocol counted: maxPerPod allows 64".to_owned(),
        ),
        (
            "games-1",
            document(json!({"containerPort": 1, "count": 11})),
            "11 ports of group \"default\" are asked for, each protocol counted: groups.default.maxPerPod allows 10".to_owned(),
        ),
        (
            "games-1",
            annotations("a=1@game", &[]),
            format!("hostport.io/ports, entry 1: there is no group \"game\": {game}"),
        ),
        (
            "shop",
            annotations("a=1,b=1@games", &[]),
            "hostport.io/ports, entry 2: namespace \"shop\" may not use group \"games\" (allowed: \"default\")".to_owned(),
        ),
        (
            "",
            document(json!({"containerPort": 1, "group": "games"})),
            "runtimeConfig.portClaims, entry 1: containers without a pod may not use group \"games\" (allowed: \"default\")".to_owned(),
        ),
        (
            "games-1",
            annotations("a=1/sctp@games", &[]),
            "hostport.io/ports, entry 1: group \"games\" is for tcp+udp, and sctp is asked for".to_owned(),
        ),
        (
            "games-1",
            annotations(r#"[{"containerPort": 1, "hostPort": 7999}]"#, &[]),
            "hostport.io/ports, entry 1: namespace \"games-1\" may not ask for host port 7999/tcp by number: static.annotations does not allow it".to_owned(),
        ),
        (
            "shop",
            annotations(r#"[{"containerPort": 1, "hostPort": 7000}]"#, &[]),
            "hostport.io/ports, entry 1: namespace \"shop\" may not ask for host port 7000/tcp by number: static.annotations does not allow it".to_owned(),
        ),
        (
            "games-1",
            document(json!({"containerPort": 1, "hostPort": 8000, "protocol": "tcp+udp"})),
            "runtimeConfig.portClaims, entry 1: namespace \"games-1\" may not ask for host port 8000/udp by number: static.portClaims does not allow it".to_owned(),
        ),
        (
            "games-1",
            document(json!({"containerPort": 1, "hostPort": 8998, "count": 3})),
            "runtimeConfig.portClaims, entry 1: namespace \"games-1\" may not ask for host port 9000/tcp by number: static.portClaims does not allow it".to_owned(),
        ),
        (
            "games-1",
            annotations(r#"[{"containerPort": 1, "hostPort": 80}]"#, &[]),
            "hostport.io/ports, entry 1: namespace \"games-1\" may not ask for host port 80/tcp: below 1024, annotations may ask only for ports of groups that it may use".to_owned(),
        ),
        (
            "games-1",
            document(json!({"containerPort": 1, "preferredPort": 7999, "count": 2, "group": "games"})),
            "runtimeConfig.portClaims, entry 1: preferredPort 8000 is not in group \"games\", which has 7000-7999".to_owned(),
        ),
        (
            "games-1",
            document(json!({"containerPort": 1, "preferredPort": 7999})),
            "runtimeConfig.portClaims, entry 1: preferredPort 7999 is not in group \"default\", which has 10000-19999".to_owned(),
        ),
        (
            "games-1",
            annotations("a=1,b=2@games", &[("base-port", "10000")]),
            "hostport.io/ports, entry 2: hostport.io/base-port 10000 is not in group \"games\", which has 7000-7999".to_owned(),
        ),
        (
            "games-1",
            annotations("a=1", &[("base-port", "30558")]),
            "hostport.io/ports, entry 1: hostport.io/base-port 30558 is in none of the groups that namespace \"games-1\" may use: \"default\" (10000-19999), \"games\" (7000-7999), \"low\" (53,400-500)".to_owned(),
        ),
        (
            "shop",
            annotations("a=1", &[("base-port", "7000")]),
            "hostport.io/ports, entry 1: hostport.io/base-port 7000 is in none of the groups that namespace \"shop\" may use: \"default\" (10000-19999)".to_owned(),
        ),
    ] {
        let error = ask(SETTINGS, namespace, &asked).unwrap_err();
        assert!(matches!(error, RequestError::Policy(_)), "{error}");
        assert_eq!(error.to_string(), message, "{asked}");
    }
}

#[test]
fn port_mappings_may_be_kept_from_a_default_group_and_from_numbers() {
    let keys = r#""groups": {"default": {"namespaces": []}}, "static": {"portMappings": false}"#;
    for (mapping, message) in [
        (
            json!({"containerPort": 1}),
            "runtimeConfig.portMappings[0] names no group, and namespace \"shop\" may not use the default group \"default\" (allowed: none)",
        ),
        (
            json!({"containerPort": 1, "hostPort": 80}),
            "runtimeConfig.portMappings[0]: namespace \"shop\" may not ask for host port 80/tcp by number: static.portMappings does not allow it",
        ),
    ] {
        let error = ask(keys, "shop", &json!({"portMappings": [mapping]})).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

/// Groups may overlap: one for TCP and one for UDP on the same numbers is natural.
#[test]
fn a_base_port_finds_a_group_that_has_the_protocols() {
    let keys = r#""groups": {
        "a-udp": {"ports": "7000-7999", "protocols": ["udp"]},
        "b-both": {"ports": "7000-7999", "protocols": ["tcp", "udp"]},
        "c-both": {"ports": "7000-7999"},
        "default": {"ports": "7500-8999", "protocols": ["tcp"]}}"#;
    for (ports, base, expected) in [
        ("a=1", "7000", "a 1/tcp b-both Sequential from 7000"),
        ("a=1/udp", "7000", "a 1/udp a-udp Sequential from 7000"),
        ("a=1/tcp+udp", "7600", "a 1/tcp+udp b-both Sequential from 7600"),
        ("a=1/sctp", "7600", "a 1/sctp c-both Sequential from 7600"),
        ("a=1", "7600", "a 1/tcp default Sequential from 7600"),
    ] {
        let requests = ask(keys, "shop", &annotations(ports, &[("base-port", base)])).unwrap();
        assert_eq!(shown(&requests), [expected]);
    }
    let error = ask(keys, "shop", &annotations("a=1/udp", &[("base-port", "8000")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "hostport.io/ports, entry 1: group \"default\" is for tcp, and udp is asked for"
    );
}

#[test]
fn many_groups_are_not_all_listed() {
    let group = |at: usize| format!(r#""g{at:02}": {{"ports": "1"}}"#);
    let groups: Vec<_> = (0..20).map(group).collect();
    let keys = format!(r#""groups": {{{}}}"#, groups.join(","));
    let error = ask(&keys, "shop", &annotations("a=1@g20", &[])).unwrap_err().to_string();
    assert!(error.ends_with("\"g05\", \"g06\" and 13 more"), "{error}");
}

#[test]
fn namespaces_have_quotas() {
    let config = config(r#""groups": {"default": {"maxPerNamespace": 10}}"#, &json!(null));
    let settings = config.settings().unwrap();
    let (name, group) = settings.groups.first_key_value().unwrap();
    let shop = "shop".parse().unwrap();
    assert_eq!(namespace_quota(name, group, 8, 2, Some(&shop)), Ok(()));
    let error = namespace_quota(name, group, 8, 3, Some(&shop)).unwrap_err().to_string();
    assert_eq!(
        error,
        "3 ports of group \"default\" are asked for, each protocol counted, beside 8 of namespace \"shop\", unused claims included: groups.default.maxPerNamespace allows 10"
    );
    assert!(namespace_quota(name, group, u32::MAX, u32::MAX, None).is_err());
    let open = Group { max_per_namespace: None, ..group.clone() };
    assert_eq!(namespace_quota(name, &open, u32::MAX, u32::MAX, None), Ok(()));
}
