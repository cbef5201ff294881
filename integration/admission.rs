//! `kubernetes-policy.yaml`: what it lets pass, and what it refuses with which words.
//! Its expressions are evaluated here as the API server would.

use std::sync::Arc;

use cel::{Context, ExecutionError, Program, Value, extractors::This};
use libtest_mimic::Trial;
use serde::Deserialize as _;
use serde_json::json;

const POLICY: &str = include_str!("../scripts/kubernetes-policy.yaml");

/// What Kubernetes adds to the functions of CEL.
fn context() -> Context<'static, 'static> {
    let mut context = Context::default();
    context
        .add_function("split", |This(text): This<Arc<String>>, by: Arc<String>| {
            let parts =
                text.split(by.as_str()).map(|part| Value::String(Arc::new(part.to_owned())));
            Ok::<_, ExecutionError>(Value::List(Arc::new(parts.collect())))
        })
        .unwrap();
    context
        .add_function("trim", |This(text): This<Arc<String>>| {
            Ok::<_, ExecutionError>(Value::String(Arc::new(text.trim().to_owned())))
        })
        .unwrap();
    context
}

fn evaluate(context: &Context<'_, '_>, expression: &serde_json::Value) -> Value {
    let text = expression.as_str().unwrap();
    let program = Program::compile(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    program.execute(context).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The message of the first validation that fails; nothing where the policy is not
/// about the pod or lets it pass.
fn refusal(
    labels: &serde_json::Value,
    new: &serde_json::Value,
    old: Option<&serde_json::Value>,
) -> Option<String> {
    let document = serde_yaml_ng::Deserializer::from_str(POLICY).next().unwrap();
    let policy = serde_json::Value::deserialize(document).unwrap();
    let pod = |annotations: &serde_json::Value| match annotations {
        serde_json::Value::Null => json!({ "metadata": {} }),
        annotations => json!({ "metadata": { "annotations": annotations } }),
    };
    let mut context = context();
    context.add_variable("object", pod(new)).unwrap();
    context.add_variable("oldObject", old.map(pod)).unwrap();
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    context.add_variable("request", json!({ "operation": operation })).unwrap();
    let namespace = match labels {
        serde_json::Value::Null => json!({ "metadata": {} }),
        labels => json!({ "metadata": { "labels": labels } }),
    };
    context.add_variable("namespaceObject", namespace).unwrap();
    let spec = &policy["spec"];
    for condition in spec["matchConditions"].as_array().unwrap() {
        if evaluate(&context, &condition["expression"]) != Value::Bool(true) {
            return None;
        }
    }
    let mut variables = std::collections::HashMap::<String, Value>::new();
    for variable in spec["variables"].as_array().unwrap() {
        let value = evaluate(&context, &variable["expression"]);
        variables.insert(variable["name"].as_str().unwrap().to_owned(), value);
        context.add_variable_from_value("variables", variables.clone());
    }
    let fails = |validation: &&serde_json::Value| {
        evaluate(&context, &validation["expression"]) != Value::Bool(true)
    };
    let failed = spec["validations"].as_array().unwrap().iter().find(fails);
    failed.map(|validation| validation["message"].as_str().unwrap().to_owned())
}

fn pods_are_refused_for_what_the_policy_says() {
    let games = json!({ "hostport.io/groups": "games.media" });
    let default = json!({ "hostport.io/groups": "default", "hostport.io/json": "true" });
    let ports = |ports: &str| json!({ "hostport.io/enabled": "true", "hostport.io/ports": ports });
    let of = |group: &str, list: &str| {
        let mut annotations = ports(list);
        annotations["hostport.io/group"] = json!(group);
        annotations
    };
    let none = json!(null);
    for (labels, annotations, message) in [
        (&none, json!(null), None),
        (&none, json!({ "other": "x", "hostport.io/allocated-ports": "1" }), None),
        (&none, ports("a=1"), Some("may not ask for host ports")),
        (&json!({ "x": "y" }), ports("a=1"), Some("may not ask for host ports")),
        (&default, ports("a=1, b=same/udp"), None),
        (&games, ports("a=1"), Some("must be one of the groups")),
        (&games, ports("a=1@games, b=2/udp@media"), None),
        (&games, of("games", "a=1, b=2@media"), None),
        (&games, of("default", "a=1"), Some("must be one of the groups")),
        (&games, of("games", "a=1, b=2 @default"), Some("names a group that is not")),
        (&games, of("games", r#"[{"containerPort": 1}]"#), Some("hostport.io/json")),
        (&default, ports(r#"[{"containerPort": 1, "hostPort": 53}]"#), None),
        (
            &default,
            json!({ "hostport.io/enabled": "true", "hostport.io/port": "a=1" }),
            Some("is not known"),
        ),
    ] {
        let refused = refusal(labels, &annotations, None);
        let is_right = match (&refused, message) {
            (None, None) => true,
            (Some(refused), Some(message)) => refused.contains(message),
            _ => false,
        };
        assert!(is_right, "{annotations} {labels}: {refused:?}, not {message:?}");
    }
    let mut changed = ports("a=1");
    assert_eq!(refusal(&default, &changed, Some(&changed)), None);
    changed["other"] = json!("new");
    assert_eq!(refusal(&default, &changed, Some(&ports("a=1"))), None);
    let message = refusal(&default, &ports("a=2"), Some(&ports("a=1"))).unwrap();
    assert!(message.contains("do not change later"), "{message}");
    assert!(refusal(&default, &ports("a=2"), Some(&none)).is_some());
}

pub fn trials() -> Vec<Trial> {
    crate::trials("admission", [("policy", pods_are_refused_for_what_the_policy_says as fn())])
}
