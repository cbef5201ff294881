//! The capability argument `portMappings` (CNI CONVENTIONS.md, "port mappings"):
//! `[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]`.
//!
//! Keys are taken in any case, as Go's JSON does: containerd 1.x and 2.x write
//! `HostPort` (go-cni's struct has no JSON tags). Other keys are ignored.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::{
    ContainerPort,
    ask::{self, Ask, CONTAINER_PORTS, Fit, Place, Source, Wish},
};
use crate::{
    cni::json::{self, Object},
    lease::{Excerpt, HostAddress, Port, Protocol},
};

/// Why port mappings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Not an array of objects.
    #[error("runtimeConfig.portMappings is not an array of objects")]
    Shape,
    /// A key has a value that it cannot have.
    #[error("runtimeConfig.portMappings[{index}].{key} is {value}: {allowed}")]
    Value {
        /// Position of the mapping, from 0.
        index: usize,
        /// The key.
        key: &'static str,
        /// The value, as JSON.
        value: Excerpt,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A key that must be there is not.
    #[error("runtimeConfig.portMappings[{index}] has no {key}")]
    Missing {
        /// Position of the mapping, from 0.
        index: usize,
        /// The key.
        key: &'static str,
    },
    /// A key is written twice, in the same or in different cases.
    #[error("runtimeConfig.portMappings[{index}] has {key} twice")]
    Twice {
        /// Position of the mapping, from 0.
        index: usize,
        /// The key.
        key: &'static str,
    },
}

/// What a `portMappings` value asks for. A mapping that is there twice, the same
/// in all of its parts, counts once when its host port is given.
pub(super) fn parse(raw: &RawValue) -> Result<Vec<Ask>, MappingError> {
    let entries: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| MappingError::Shape)?;
    let mut asks = Vec::with_capacity(entries.len());
    let mut seen = HashSet::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let ask = parse_entry(index, entry)?;
        let Wish::Static(port) = ask.wish else {
            asks.push(ask);
            continue;
        };
        if seen.insert((port, ask.address, ask.protocols, ask.container)) {
            asks.push(ask);
        }
    }
    Ok(asks)
}

const PROTOCOLS: &str = "tcp, udp or sctp is allowed";
const HOST_PORTS: &str = "a number from 0 (any) to 65535 is allowed";

fn parse_entry(index: usize, entry: &RawValue) -> Result<Ask, MappingError> {
    let Object(entries) = Object::parse(entry.get()).map_err(|_| MappingError::Shape)?;
    let find = |key: &'static str| {
        let mut found =
            entries.iter().filter(|(name, _)| json::key(name).eq_ignore_ascii_case(key));
        let value = found.next().map(|(_, value)| *value).filter(|value| !json::is_null(value));
        if found.next().is_some() {
            return Err(MappingError::Twice { index, key });
        }
        Ok(value)
    };
    let wrong = |key, value: &RawValue, allowed| MappingError::Value {
        index,
        key,
        value: Excerpt::plain(value.get()),
        allowed,
    };
    let text = |key, allowed| match find(key)? {
        None => Ok(None),
        Some(raw) => match json::text(raw) {
            Some(text) => Ok(Some((raw, text)).filter(|(_, text)| !text.is_empty())),
            None => Err(wrong(key, raw, allowed)),
        },
    };

    let protocol = match text("protocol", PROTOCOLS)? {
        None => Protocol::Tcp,
        Some((raw, name)) => {
            Protocol::from_name(&name).ok_or_else(|| wrong("protocol", raw, PROTOCOLS))?
        }
    };
    let address = match text("hostIP", ask::ADDRESSES)? {
        None => HostAddress::Any,
        Some((raw, address)) => {
            ask::host_address(&address).map_err(|allowed| wrong("hostIP", raw, allowed))?
        }
    };
    let container = find("containerPort")?;
    let container = container.ok_or(MappingError::Missing { index, key: "containerPort" })?;
    let container = ask::port(container.get())
        .ok_or_else(|| wrong("containerPort", container, CONTAINER_PORTS))?;
    let host_port: Option<Port> = match find("hostPort")? {
        None => None,
        Some(raw) if raw.get() == "0" => None,
        Some(raw) => Some(ask::port(raw.get()).ok_or_else(|| wrong("hostPort", raw, HOST_PORTS))?),
    };
    Ok(Ask {
        place: Place { source: Source::PortMappings, index },
        name: None,
        container: ContainerPort::Number(container),
        protocols: protocol.into(),
        address,
        count: 1,
        wish: host_port.map_or_else(|| Wish::Dynamic(Fit::default()), Wish::Static),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<Ask>, String> {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        super::parse(&raw).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let cni = r#"[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]"#;
        let containerd =
            r#"[{"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}]"#;
        let asks = parse(cni).unwrap();
        assert_eq!(parse(containerd).unwrap(), asks);
        assert_eq!(asks[0].wish, Wish::Static(Port::new(8080).unwrap()));
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let asks = parse(
            r#"[{"containerPort": 80, "protocol": null, "hostPort": null}, {"hostPort": 0,
            "containerPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1", "later": {}}]"#,
        );
        let [web, dns] = &asks.unwrap()[..] else { panic!() };
        assert_eq!((web.protocols, web.address), (Protocol::Tcp.into(), HostAddress::Any));
        assert_eq!((&web.name, web.count), (&None, 1));
        assert_eq!(web.wish, Wish::Dynamic(Fit::default()));
        assert_eq!(dns.protocols, Protocol::Udp.into());
        assert_eq!(dns.address, "192.0.2.1".parse().unwrap());
        assert_eq!(dns.wish, Wish::Dynamic(Fit::default()));
        assert_eq!(parse("[]").unwrap(), []);
    }

    #[test]
    fn wrong_mappings_name_entry_key_and_value() {
        for (entry, message) in [
            ("{}", "[0] has no containerPort"),
            (r#"{"containerPort": null}"#, "[0] has no containerPort"),
            (
                r#"{"containerPort": 65536}"#,
                "[0].containerPort is 65536: a number from 1 to 65535 is allowed",
            ),
            (
                r#"{"containerPort": 0}"#,
                "[0].containerPort is 0: a number from 1 to 65535 is allowed",
            ),
            (
                r#"{"containerPort": "80"}"#,
                "[0].containerPort is \"80\": a number from 1 to 65535 is allowed",
            ),
            (
                r#"{"containerPort": 80.5}"#,
                "[0].containerPort is 80.5: a number from 1 to 65535 is allowed",
            ),
            (
                r#"{"containerPort": 1e400}"#,
                "[0].containerPort is 1e400: a number from 1 to 65535 is allowed",
            ),
            (
                r#"{"containerPort": 80, "hostPort": -1}"#,
                "[0].hostPort is -1: a number from 0 (any) to 65535 is allowed",
            ),
            (
                r#"{"containerPort": 80, "protocol": "icmp"}"#,
                "[0].protocol is \"icmp\": tcp, udp or sctp is allowed",
            ),
            (
                r#"{"containerPort": 80, "protocol": "\ud800"}"#,
                "[0].protocol is \"\\ud800\": tcp, udp or sctp is allowed",
            ),
            (
                r#"{"containerPort": 80, "hostIP": "x"}"#,
                "[0].hostIP is \"x\": an address of the host, or nothing for all of them, is allowed",
            ),
            (
                r#"{"containerPort": 80, "hostIP": "255.255.255.255"}"#,
                "[0].hostIP is \"255.255.255.255\": an address of the host, or nothing for all of them, is allowed",
            ),
            (
                r#"{"containerPort": 80, "hostIP": "ff02::1"}"#,
                "[0].hostIP is \"ff02::1\": an address of the host, or nothing for all of them, is allowed",
            ),
            (
                r#"{"containerPort": 80, "hostIP": "::1"}"#,
                "[0].hostIP is \"::1\": of loopback addresses, those of IPv4 are allowed",
            ),
            (r#"{"containerPort": 80, "ContainerPort": 80}"#, "[0] has containerPort twice"),
            (r#"{"containerPort": 80, "hostPort": 1, "hostPort": 1}"#, "[0] has hostPort twice"),
        ] {
            let expected = format!("runtimeConfig.portMappings{message}");
            assert_eq!(parse(&format!("[{entry}]")), Err(expected));
        }
        for json in ["{}", "1", "[1]", "[[]]"] {
            let expected = "runtimeConfig.portMappings is not an array of objects";
            assert_eq!(parse(json), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_static_mapping_that_is_there_twice_counts_once() {
        let http = r#"{"hostPort": 80, "containerPort": 80}"#;
        assert_eq!(parse(&format!("[{http},{http}]")).unwrap().len(), 1);
        let dynamic = r#"{"containerPort": 80}"#;
        assert_eq!(parse(&format!("[{dynamic},{dynamic}]")).unwrap().len(), 2);
    }
}
