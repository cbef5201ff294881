//! The capability argument `portMappings` (CNI CONVENTIONS.md, "port mappings"):
//! `[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]`.
//!
//! Keys are taken in any case, as Go's JSON does: containerd 1.x and 2.x write
//! `HostPort` (go-cni's struct has no JSON tags). Other keys are ignored.

use std::net::Ipv6Addr;

use serde_json::{Map, Value};

use super::Request;
use crate::lease::{HostAddress, HostPort, Port, Protocol};

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
        value: String,
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
    /// A key is written twice, in different cases.
    #[error("runtimeConfig.portMappings[{index}] has {key} twice")]
    Twice {
        /// Position of the mapping, from 0.
        index: usize,
        /// The key.
        key: &'static str,
    },
    /// Two mappings ask for the same host port.
    #[error("runtimeConfig.portMappings[{first}] and [{second}] both ask for host port {host}")]
    Overlap {
        /// Position of the one, from 0.
        first: usize,
        /// Position of the other.
        second: usize,
        /// What the other asks for.
        host: HostPort,
    },
}

/// The requests of a `portMappings` value. A mapping that is there twice, the
/// same in all of its parts, counts once when its host port is given.
pub fn parse_port_mappings(value: &Value) -> Result<Vec<Request>, MappingError> {
    let entries = value.as_array().ok_or(MappingError::Shape)?;
    let mut requests: Vec<(usize, Request)> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let request = parse_entry(index, entry.as_object().ok_or(MappingError::Shape)?)?;
        if let Some(host) = request.static_port() {
            let overlapping = requests
                .iter()
                .find(|(_, other)| other.static_port().is_some_and(|o| o.conflicts_with(&host)));
            match overlapping {
                Some((_, other)) if *other == request => continue,
                Some((first, _)) => {
                    return Err(MappingError::Overlap { first: *first, second: index, host });
                }
                None => {}
            }
        }
        requests.push((index, request));
    }
    Ok(requests.into_iter().map(|(_, request)| request).collect())
}

const PROTOCOLS: &str = "tcp, udp or sctp is allowed";
const ADDRESSES: &str = "an address of the host, or nothing for all of them, is allowed";
const LOOPBACK: &str = "of loopback addresses, those of IPv4 are allowed";
const CONTAINER_PORTS: &str = "a number from 1 to 65535 is allowed";

fn parse_entry(index: usize, entry: &Map<String, Value>) -> Result<Request, MappingError> {
    let find = |key: &'static str| {
        let mut found = entry.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
        let value = found.next().map(|(_, value)| value).filter(|value| !value.is_null());
        if found.next().is_some() {
            return Err(MappingError::Twice { index, key });
        }
        Ok(value)
    };
    let wrong = |key, value: &Value, allowed| MappingError::Value {
        index,
        key,
        value: value.to_string().chars().take(SHOWN).collect(),
        allowed,
    };
    let number = |key, allowed| {
        let Some(value) = find(key)? else { return Ok(0) };
        let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
        number.ok_or_else(|| wrong(key, value, allowed))
    };
    let text = |key, allowed| match find(key)? {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(wrong(key, other, allowed)),
    };

    let protocol = match text("protocol", PROTOCOLS)? {
        "" => Protocol::Tcp,
        name => {
            Protocol::from_name(name).ok_or_else(|| wrong("protocol", &name.into(), PROTOCOLS))?
        }
    };
    let address: HostAddress = match text("hostIP", ADDRESSES)? {
        "" => HostAddress::Any,
        address => match address.parse() {
            // The kernel drops the replies; there is no route_localnet for IPv6.
            Ok(HostAddress::V6(Ipv6Addr::LOCALHOST)) => {
                return Err(wrong("hostIP", &address.into(), LOOPBACK));
            }
            Ok(HostAddress::V4(group)) if group.is_multicast() || group.is_broadcast() => {
                return Err(wrong("hostIP", &address.into(), ADDRESSES));
            }
            Ok(HostAddress::V6(group)) if group.is_multicast() => {
                return Err(wrong("hostIP", &address.into(), ADDRESSES));
            }
            parsed => parsed.map_err(|_| wrong("hostIP", &address.into(), ADDRESSES))?,
        },
    };
    if find("containerPort")?.is_none() {
        return Err(MappingError::Missing { index, key: "containerPort" });
    }
    let container_port = Port::new(number("containerPort", CONTAINER_PORTS)?)
        .ok_or_else(|| wrong("containerPort", &0.into(), CONTAINER_PORTS))?;
    let host_port = Port::new(number("hostPort", "a number from 0 (any) to 65535 is allowed")?);
    Ok(Request { container_port, protocol, address, host_port })
}

/// The most characters of a value that an error repeats.
const SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Vec<Request>, String> {
        parse_port_mappings(value).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let cni = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
        let containerd =
            json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}]);
        let requests = parse(&cni).unwrap();
        assert_eq!(parse(&containerd).unwrap(), requests);
        assert_eq!(requests[0].static_port().unwrap().to_string(), "8080/tcp");
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let requests = parse(&json!([{"containerPort": 80}, {"hostPort": 0, "containerPort": 53,
            "protocol": "UDP", "hostIP": "192.0.2.1", "later": {}}]));
        let [web, dns] = requests.unwrap()[..] else { panic!() };
        assert_eq!(
            (web.protocol, web.address, web.host_port),
            (Protocol::Tcp, HostAddress::Any, None)
        );
        assert_eq!(dns.on(Port::new(7).unwrap()).to_string(), "192.0.2.1:7/udp");
        assert_eq!(parse(&json!([])).unwrap(), []);
    }

    #[test]
    fn wrong_mappings_name_entry_key_and_value() {
        for (entry, message) in [
            (json!({}), "[0] has no containerPort"),
            (
                json!({"containerPort": 65536}),
                "[0].containerPort is 65536: a number from 1 to 65535 is allowed",
            ),
            (
                json!({"containerPort": "80"}),
                "[0].containerPort is \"80\": a number from 1 to 65535 is allowed",
            ),
            (
                json!({"containerPort": 80.5}),
                "[0].containerPort is 80.5: a number from 1 to 65535 is allowed",
            ),
            (
                json!({"containerPort": 80, "hostPort": -1}),
                "[0].hostPort is -1: a number from 0 (any) to 65535 is allowed",
            ),
            (
                json!({"containerPort": 80, "protocol": "icmp"}),
                "[0].protocol is \"icmp\": tcp, udp or sctp is allowed",
            ),
            (
                json!({"containerPort": 80, "hostIP": "x"}),
                "[0].hostIP is \"x\": an address of the host, or nothing for all of them, is allowed",
            ),
            (
                json!({"containerPort": 80, "hostIP": "255.255.255.255"}),
                "[0].hostIP is \"255.255.255.255\": an address of the host, or nothing for all of them, is allowed",
            ),
            (
                json!({"containerPort": 80, "hostIP": "ff02::1"}),
                "[0].hostIP is \"ff02::1\": an address of the host, or nothing for all of them, is allowed",
            ),
            (
                json!({"containerPort": 80, "hostIP": "::1"}),
                "[0].hostIP is \"::1\": of loopback addresses, those of IPv4 are allowed",
            ),
            (json!({"containerPort": 80, "ContainerPort": 80}), "[0] has containerPort twice"),
        ] {
            assert_eq!(parse(&json!([entry])), Err(format!("runtimeConfig.portMappings{message}")));
        }
        for value in [json!({}), json!(1), json!([1])] {
            assert_eq!(
                parse(&value),
                Err("runtimeConfig.portMappings is not an array of objects".into())
            );
        }
    }

    #[test]
    fn one_host_port_cannot_lead_to_two_places() {
        let http = json!({"hostPort": 80, "containerPort": 80});
        assert_eq!(parse(&json!([http, http])).unwrap().len(), 1);
        let elsewhere = json!({"hostPort": 80, "containerPort": 81, "hostIP": "0.0.0.0"});
        let message = "runtimeConfig.portMappings[0] and [1] both ask for host port 0.0.0.0:80/tcp";
        assert_eq!(parse(&json!([http, elsewhere])), Err(message.into()));
        let dns = json!({"hostPort": 80, "containerPort": 81, "protocol": "udp"});
        assert_eq!(parse(&json!([http, dns])).unwrap().len(), 2);
        let dynamic = json!({"containerPort": 80});
        assert_eq!(parse(&json!([dynamic, dynamic])).unwrap().len(), 2);
    }
}
