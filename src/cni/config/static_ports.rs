//! `static`: which ports may be asked for by number.

use serde_json::{Map, Value};

use super::{
    ConfigError,
    keys::{Keys, namespaces, protocols, some_ports, wrong},
};
use crate::lease::{Excerpt, Namespace, NamespaceGlob, Port, PortSet, Protocol, Protocols, admits};

/// Which ports may be asked for by number, by where they are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticPorts {
    /// In `runtimeConfig.portMappings`.
    pub port_mappings: Allowed,
    /// In the pod's annotations.
    pub annotations: Allowed,
    /// In `runtimeConfig.portClaims`.
    pub port_claims: Allowed,
}

/// Which ports may be asked for by number in one place.
#[derive(Clone, Debug, PartialEq)]
pub enum Allowed {
    /// Every port.
    Any,
    /// What some rule allows; without rules, nothing.
    Rules(Vec<StaticRule>),
}

/// Ports that may be asked for by number.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticRule {
    /// The ports.
    pub ports: PortSet,
    /// For which protocols. Never empty.
    pub protocols: Protocols,
    /// The namespaces whose pods may; none: every container.
    pub namespaces: Option<Vec<NamespaceGlob>>,
}

impl Allowed {
    /// Whether a container of this namespace, or of none, may ask for the port.
    #[must_use]
    pub fn allows(&self, protocol: Protocol, port: Port, namespace: Option<&Namespace>) -> bool {
        match self {
            Self::Any => true,
            Self::Rules(rules) => rules.iter().any(|rule| {
                rule.protocols.contains(protocol)
                    && rule.ports.contains(port)
                    && admits(rule.namespaces.as_deref(), namespace)
            }),
        }
    }
}

pub(super) fn static_ports(keys: &Keys<'_>) -> Result<StaticPorts, ConfigError> {
    let mut written = match keys.value("static")? {
        None => Map::new(),
        Some(Value::Object(sources)) => sources,
        Some(other) => return Err(wrong("static", &other, SOURCES)),
    };
    let mut take = |source: &str, default| match written.remove(source) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => allowed(&format!("static.{source}"), value),
    };
    let found = StaticPorts {
        port_mappings: take("portMappings", Allowed::Any)?,
        annotations: take("annotations", Allowed::Rules(Vec::new()))?,
        port_claims: take("portClaims", Allowed::Any)?,
    };
    if let Some((unknown, value)) = written.into_iter().next() {
        return Err(wrong(&format!("static.{}", Excerpt::plain(&unknown)), &value, SOURCES));
    }
    Ok(found)
}

const SOURCES: &str = "an object with portMappings, annotations and portClaims is allowed";

fn allowed(key: &str, value: Value) -> Result<Allowed, ConfigError> {
    match value {
        Value::Bool(true) => Ok(Allowed::Any),
        Value::Bool(false) => Ok(Allowed::Rules(Vec::new())),
        Value::Array(rules) => {
            let rules = rules.into_iter().enumerate();
            let rules = rules.map(|(at, value)| rule(&format!("{key}[{at}]"), value));
            Ok(Allowed::Rules(rules.collect::<Result<_, _>>()?))
        }
        other => Err(wrong(
            key,
            &other,
            "true, false or an array of rules like {\"ports\": \"7000-7999\"} is allowed",
        )),
    }
}

fn rule(key: &str, value: Value) -> Result<StaticRule, ConfigError> {
    const KEYS: &str = "an object with ports, protocols and namespaces is allowed";
    let Value::Object(mut written) = value else { return Err(wrong(key, &value, KEYS)) };
    let mut take = |name: &str| {
        let value = written.remove(name).filter(|value| !value.is_null());
        (format!("{key}.{name}"), value)
    };
    let (ports, found) = take("ports");
    let rule = StaticRule {
        ports: some_ports(&ports, &found.unwrap_or_default())?,
        protocols: match take("protocols") {
            (_, None) => Protocols::ALL,
            (key, Some(value)) => protocols(&key, &value)?,
        },
        namespaces: match take("namespaces") {
            (_, None) => None,
            (key, Some(value)) => Some(namespaces(&key, &value)?),
        },
    };
    if let Some((unknown, value)) = written.into_iter().next() {
        return Err(wrong(&format!("{key}.{}", Excerpt::plain(&unknown)), &value, KEYS));
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{error, parse},
        *,
    };

    fn read(json: &str) -> StaticPorts {
        parse(&format!(r#","static":{json}"#)).settings().unwrap().static_ports
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        for json in ["{}", "null", r#"{"annotations":null,"portMappings":null}"#] {
            let expected = StaticPorts {
                port_mappings: Allowed::Any,
                annotations: Allowed::Rules(Vec::new()),
                port_claims: Allowed::Any,
            };
            assert_eq!(read(json), expected);
        }
    }

    #[test]
    fn rules_allow_ports_of_protocols_to_namespaces() {
        let rules = read(
            r#"{"portMappings": false, "annotations": [
                {"ports": "7000-7999", "protocols": ["udp"], "namespaces": ["games-*"]},
                {"ports": "8080", "namespaces": null}], "portClaims": true}"#,
        );
        assert_eq!(rules.port_mappings, Allowed::Rules(Vec::new()));
        assert_eq!(rules.port_claims, Allowed::Any);
        let allows = |protocol, port, namespace: &str| {
            let port = Port::new(port).unwrap();
            rules.annotations.allows(protocol, port, namespace.parse().ok().as_ref())
        };
        for (protocol, port, namespace, expected) in [
            (Protocol::Udp, 7000, "games-1", true),
            (Protocol::Udp, 7999, "games-1", true),
            (Protocol::Udp, 8000, "games-1", false),
            (Protocol::Tcp, 7000, "games-1", false),
            (Protocol::Udp, 7000, "shop", false),
            (Protocol::Udp, 7000, "", false),
            (Protocol::Sctp, 8080, "shop", true),
            (Protocol::Tcp, 8080, "", true),
        ] {
            assert_eq!(
                allows(protocol, port, namespace),
                expected,
                "{port}/{protocol} {namespace}"
            );
        }
    }

    #[test]
    fn wrong_values_are_refused_with_key_value_and_what_is_allowed() {
        const RULES: &str =
            "true, false or an array of rules like {\"ports\": \"7000-7999\"} is allowed";
        for (json, message) in [
            ("true", format!("static is true: {SOURCES}")),
            (r#"{"portMapping":null}"#, format!("static.portMapping is null: {SOURCES}")),
            (r#"{"annotations":"80"}"#, format!("static.annotations is \"80\": {RULES}")),
            (
                r#"{"annotations":["80"]}"#,
                "static.annotations[0] is \"80\": an object with ports, protocols and namespaces is allowed".to_owned(),
            ),
            (
                r#"{"annotations":[{"ports":"1"},{"ports":"1","namespace":"a"}]}"#,
                "static.annotations[1].namespace is \"a\": an object with ports, protocols and namespaces is allowed".to_owned(),
            ),
            (
                r#"{"annotations":[{}]}"#,
                "static.annotations[0].ports is null: a text like \"7000-7999,8443\" is allowed".to_owned(),
            ),
            (
                r#"{"annotations":[{"ports":""}]}"#,
                "static.annotations[0].ports is \"\": at least one port is needed".to_owned(),
            ),
        ] {
            assert_eq!(error(&format!(r#","static":{json}"#)), message);
        }
    }
}
