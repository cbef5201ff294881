//! What somebody who may create pods could write to hurt the node: it ends in an
//! error, soon, and the error is short and printable.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

const PORTS: &str = "hostport.io/ports";

/// Far more than any of these takes, and far less than if it were quadratic.
const SOON: Duration = Duration::from_secs(5);

/// The error that a `runtimeConfig` ends in, as it is logged.
fn refused(runtime_config: &str) -> String {
    let start = Instant::now();
    let json = format!(r#"{{"cniVersion":"1.0.0","name":"n","runtimeConfig":{runtime_config}}}"#);
    let config = Config::parse(json.as_bytes()).unwrap();
    let pod = Pod { namespace: "shop".parse().unwrap(), name: "w".parse().unwrap(), uid: None };
    let settings = config.settings().unwrap();
    let error = match Sources::read(&config) {
        Err(error) => error.to_string(),
        Ok(sources) => match asked(&sources, &settings, Some(&pod)) {
            Err(error) => error.to_string(),
            Ok(asked) => {
                panic!("{} requests for {:.200}", asked.requests.len(), runtime_config)
            }
        },
    };
    let took = start.elapsed();
    assert!(took < SOON, "{took:?} for {runtime_config:.200}");
    assert!(error.len() < 1024, "{} bytes: {error}", error.len());
    let is_printable = |c: char| c == '\'' || c == '"' || c == '\\' || c.escape_debug().len() == 1;
    assert!(error.chars().all(is_printable), "{error:?}");
    error
}

fn annotations(key: &str, value: &str) -> String {
    let mut annotations = json!({"hostport.io/enabled": "true", PORTS: "a=1"});
    annotations[key] = value.into();
    json!({"io.kubernetes.cri.pod-annotations": annotations}).to_string()
}

/// What is strange in every place where a text can be.
fn strange() -> Vec<String> {
    ["\0", "\u{202e}", "../", "\u{10ffff}", "🐢", "\n", "\u{2028}", "a", "$(POD_NAME)", "[", "{\""]
        .into_iter()
        .flat_map(|part| {
            [
                part.to_owned(),
                format!("a{part}"),
                part.repeat(200_000 / json!(part).to_string().len()),
            ]
        })
        .filter(|text| !matches!(text.as_str(), "a" | "aa" | "$(POD_NAME)" | "a$(POD_NAME)"))
        .collect()
}

#[test]
fn strange_annotations() {
    for text in strange() {
        for key in ["ports", "group", "strategy", "base-port", "claim"] {
            refused(&annotations(&format!("hostport.io/{key}"), &text));
        }
        refused(&annotations(&format!("hostport.io/{text}"), "x"));
        for list in [
            format!("{text}=1"),
            format!("a={text}"),
            format!("a=1/{text}"),
            format!("a=1@{text}:"),
            format!("a=1,{text}"),
            format!("{text}, a=1"),
        ] {
            refused(&annotations(PORTS, &list));
        }
    }
}

#[test]
fn strange_documents() {
    let fields =
        ["name", "containerPort", "protocol", "group", "count", "hostPort", "preferredPort"];
    for text in strange() {
        for field in fields.into_iter().chain(["hostIP", "claim"]) {
            let mut entry = json!({"name": "b", "containerPort": 80});
            entry[field] = format!("{text}:").into();
            let document = json!([{"containerPort": 1}, entry]);
            refused(&json!({ "portClaims": document }).to_string());
            refused(&annotations(PORTS, &document.to_string()));
        }
        let document = json!([{"containerPort": 1, text.as_str(): 1}]);
        refused(&json!({ "portClaims": document }).to_string());
        let mappings = json!([{"containerPort": 1, "hostIP": text, "protocol": text}]);
        refused(&json!({ "portMappings": mappings }).to_string());
    }
}

#[test]
fn strange_numbers() {
    for number in
        ["1e400", "-1e400", "1.5", "80.0", "-0", "1e2", "18446744073709551616", "65536", "-1"]
    {
        for field in ["containerPort", "count", "hostPort", "preferredPort"] {
            let text = match field {
                "containerPort" => format!(r#"[{{"containerPort": {number}}}]"#),
                _ => format!(r#"[{{"containerPort": 1, "{field}": {number}}}]"#),
            };
            refused(&format!(r#"{{"portClaims": {text}}}"#));
            refused(&annotations(PORTS, &text));
            if field.ends_with("Port") && !field.starts_with("pref") {
                refused(&format!(r#"{{"portMappings": {text}}}"#));
            }
        }
        refused(&annotations("hostport.io/base-port", number));
    }
    let digits = "9".repeat(200_000);
    refused(&annotations(PORTS, &format!("a={digits}")));
    refused(&format!(r#"{{"portClaims": [{{"containerPort": {digits}}}]}}"#));
    refused(&format!(r#"{{"portMappings": [{{"containerPort": {digits}}}]}}"#));
}

#[test]
fn deep_documents() {
    const DEPTH: usize = 100_000;
    let open = "[".repeat(DEPTH);
    let deep = format!("{open}{}", "]".repeat(DEPTH));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    refused(&annotations(PORTS, &open));
    for value in [&deep, &objects] {
        refused(&annotations(PORTS, &format!("[{value}]")));
        for key in ["portMappings", "portClaims", "io.kubernetes.cri.pod-annotations"] {
            refused(&format!(r#"{{"{key}": [{value}]}}"#));
        }
        refused(&format!(r#"{{"portClaims": [{{"containerPort": {value}}}]}}"#));
        refused(&format!(r#"{{"portMappings": [{{"containerPort": {value}}}]}}"#));
    }
}

#[test]
fn many_entries() {
    let entries =
        |entry: &dyn Fn(usize) -> Value| Value::Array((0..10_000).map(entry).collect()).to_string();
    let key = |key, value: &str| format!(r#"{{"{key}": {value}}}"#);
    let most = "maxPerPod allows 64";
    let distinct = entries(&|at| json!({"containerPort": 1, "hostPort": at + 1}));
    let addresses = entries(
        &|at| json!({"containerPort": 1, "hostPort": 1, "hostIP": format!("10.0.{}.{}", at / 256, at % 256)}),
    );
    let blocks =
        entries(&|at| json!({"name": format!("n{at}"), "containerPort": 1, "count": 65535}));
    for (value, message) in [(&distinct, most), (&addresses, most), (&blocks, most)] {
        assert!(refused(&key("portClaims", value)).ends_with(message));
        assert!(refused(&annotations(PORTS, value)).ends_with(message));
    }
    assert!(refused(&key("portMappings", &distinct)).ends_with(most));
    let same = entries(&|_| json!({"name": "a", "containerPort": 1}));
    assert!(
        refused(&key("portClaims", &same))
            .ends_with("both have the name \"a\": a name belongs to one entry")
    );
    let list: Vec<_> = (0..50_000).map(|at| format!("n{at}=1")).collect();
    assert!(refused(&annotations(PORTS, &list.join(","))).ends_with(most));
    assert!(refused(&annotations(PORTS, &"a=1,".repeat(50_000))).contains("entry 50001"));

    // The same static mapping is one, however often it is there.
    let same = entries(&|_| json!({"containerPort": 1, "hostPort": 80}));
    let config =
        format!(r#"{{"cniVersion":"1.0.0","name":"n","runtimeConfig":{{"portMappings":{same}}}}}"#);
    let config = Config::parse(config.as_bytes()).unwrap();
    let sources = Sources::read(&config).unwrap();
    let asked = asked(&sources, &config.settings().unwrap(), None).unwrap();
    assert_eq!(asked.requests.len(), 1);
}

#[test]
fn many_fields() {
    let many: Vec<_> = (0..30_000).map(|at| format!(r#""x{at}": 1"#)).collect();
    let object = format!("{{{}}}", many.join(", "));
    refused(&format!(r#"{{"portClaims": [{object}]}}"#));
    refused(&format!(r#"{{"portMappings": [{object}]}}"#));
    let ours = object.replace("\"x", "\"hostport.io/");
    let annotations = ours.replacen('{', r#"{"hostport.io/enabled": "true", "#, 1);
    refused(&format!(r#"{{"io.kubernetes.cri.pod-annotations": {annotations}}}"#));
}

#[test]
fn fields_that_are_there_twice() {
    for (key, value) in [
        ("portMappings", r#"[{"containerPort": 1, "containerPort": 1}]"#),
        ("portMappings", r#"[{"containerPort": 1, "hostPort": null, "HOSTPORT": 1}]"#),
        ("portClaims", r#"[{"containerPort": 1, "containerPort": 1}]"#),
        ("portClaims", r#"[{"containerPort": 1, "name": null, "n\u0061me": "a"}]"#),
        (
            "io.kubernetes.cri.pod-annotations",
            r#"{"hostport.io/enabled": "true", "hostport.io/ports": "a=1", "hostport.io/ports": "a=1"}"#,
        ),
        (
            "io.kubernetes.cri.pod-annotations",
            r#"{"hostport.io/enabled": "false", "hostport.io/enabled": "true"}"#,
        ),
    ] {
        let error = refused(&format!(r#"{{"{key}": {value}}}"#));
        assert!(error.contains("twice") || error.contains("second time"), "{error}");
    }
}
