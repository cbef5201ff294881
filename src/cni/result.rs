//! The result of the plugins before this one, which is handed on as it came.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
    ser::{SerializeMap, Serializer},
};
use serde_json::value::RawValue;

use super::{CniVersion, JsonError};
use crate::lease::{ContainerAddresses, Excerpt, InterfaceName};

/// Why `prevResult` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It is not the JSON of a result.
    #[error("prevResult is not a CNI result")]
    Json(#[from] JsonError),
    /// An address is none.
    #[error("prevResult.ips[{index}].address {address} is not an address with a prefix length")]
    Address {
        /// Position in `ips`, from 0.
        index: usize,
        /// What stands there, in quotation marks.
        address: Excerpt,
    },
}

/// `prevResult`: every key with its text as it came, known or not, in order.
#[derive(Clone, Debug)]
pub struct PrevResult {
    keys: Vec<(String, Box<RawValue>)>,
    interfaces: Vec<Interface>,
    ips: Vec<(Option<i64>, IpAddr)>,
}

#[derive(Clone, Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    #[serde(default)]
    interface: Option<i64>,
    address: String,
}

impl PrevResult {
    /// Reads a result of version 0.3.0 or later.
    pub fn parse(raw: &RawValue) -> Result<Self, ResultError> {
        let Keys(keys) = serde_json::from_str(raw.get()).map_err(JsonError::from)?;
        let value = |name| keys.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.get());
        let interfaces: Option<Vec<Interface>> =
            value("interfaces").map_or(Ok(None), serde_json::from_str).map_err(JsonError::from)?;
        let ips: Option<Vec<Ip>> =
            value("ips").map_or(Ok(None), serde_json::from_str).map_err(JsonError::from)?;
        let ips = ips.unwrap_or_default().into_iter().enumerate().map(|(index, ip)| {
            let network = ip.address.parse::<IpNetwork>().map_err(|_| ResultError::Address {
                index,
                address: Excerpt::quoted(&ip.address),
            })?;
            Ok((ip.interface, network.ip().to_canonical()))
        });
        let ips = ips.collect::<Result<_, ResultError>>()?;
        Ok(Self { interfaces: interfaces.unwrap_or_default(), ips, keys })
    }

    /// The container's addresses as portmap finds them: the first of each family
    /// that is not known to belong to another interface than the sandbox's
    /// `interface`.
    #[must_use]
    pub fn container_addresses(&self, interface: &InterfaceName) -> ContainerAddresses {
        let mut addresses = ContainerAddresses::default();
        for (index, address) in &self.ips {
            let at = index.and_then(|index| usize::try_from(index).ok());
            let elsewhere = at.and_then(|at| self.interfaces.get(at)).is_some_and(|found| {
                let in_sandbox = found.sandbox.as_deref().is_some_and(|path| !path.is_empty());
                !in_sandbox || found.name.as_deref() != Some(interface.as_str())
            });
            match address {
                _ if elsewhere => {}
                IpAddr::V4(v4) => _ = addresses.v4.get_or_insert(*v4),
                IpAddr::V6(v6) => _ = addresses.v6.get_or_insert(*v6),
            }
        }
        addresses
    }

    /// The result as JSON, with `cniVersion` set to `version` and all else as
    /// it came.
    #[must_use]
    pub fn to_json(&self, version: CniVersion) -> String {
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut json);
        let mut map = serializer.serialize_map(None).expect("memory takes what is written");
        let written = std::iter::once(map.serialize_entry("cniVersion", version.as_str())).chain(
            self.keys
                .iter()
                .filter(|(key, _)| key != "cniVersion")
                .map(|(key, value)| map.serialize_entry(key, value)),
        );
        written.collect::<Result<(), _>>().expect("memory takes what is written");
        map.end().expect("memory takes what is written");
        String::from_utf8(json).expect("JSON is UTF-8")
    }
}

/// An object's keys in the order in which they stand.
struct Keys(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<PrevResult, ResultError> {
        PrevResult::parse(&RawValue::from_string(json.to_owned()).unwrap())
    }

    fn addresses(json: &str) -> (String, String) {
        let found = parse(json).unwrap().container_addresses(&"eth0".parse().unwrap());
        let show = |address: Option<String>| address.unwrap_or_default();
        (show(found.v4.map(|a| a.to_string())), show(found.v6.map(|a| a.to_string())))
    }

    #[test]
    fn everything_comes_back_as_it_came() {
        let json = r#"{"x-first":1.0,"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.2/24","new":[1e3,null]}],"big":123456789012345678901234567890,"dns":{ "b":1, "a":"\u00e9"}}"#;
        let expected = r#"{"cniVersion":"1.0.0","x-first":1.0,"ips":[{"version":"4","address":"10.1.0.2/24","new":[1e3,null]}],"big":123456789012345678901234567890,"dns":{ "b":1, "a":"\u00e9"}}"#;
        assert_eq!(parse(json).unwrap().to_json(CniVersion::V1_0_0), expected);
        assert_eq!(parse("{}").unwrap().to_json(CniVersion::V0_3_0), r#"{"cniVersion":"0.3.0"}"#);
    }

    #[test]
    fn addresses_are_those_of_the_interface_in_the_sandbox() {
        let interfaces = r#""interfaces":[{"name":"cni0"},{"name":"veth1","sandbox":""},{"name":"eth0","sandbox":"/run/netns/a"},{"name":"net1","sandbox":"/run/netns/a"}]"#;
        let result = |ips: &str| format!("{{{interfaces},\"ips\":[{ips}]}}");
        for (ips, v4, v6) in [
            ("", "", ""),
            (r#"{"address":"10.1.0.2/24"}"#, "10.1.0.2", ""),
            (r#"{"interface":null,"address":"10.1.0.2/24"}"#, "10.1.0.2", ""),
            (
                r#"{"interface":2,"address":"10.1.0.2/24"},{"interface":2,"address":"10.1.0.3/24"}"#,
                "10.1.0.2",
                "",
            ),
            (
                r#"{"interface":0,"address":"10.1.0.1/24"},{"interface":2,"address":"10.1.0.2/24"}"#,
                "10.1.0.2",
                "",
            ),
            (
                r#"{"interface":1,"address":"10.1.0.1/24"},{"interface":3,"address":"10.1.0.2/24"}"#,
                "",
                "",
            ),
            (
                r#"{"interface":9,"address":"10.1.0.2/24"},{"interface":-1,"address":"fd00::2/64"}"#,
                "10.1.0.2",
                "fd00::2",
            ),
        ] {
            assert_eq!(addresses(&result(ips)), (v4.to_owned(), v6.to_owned()), "{ips}");
        }
        assert_eq!(addresses(r#"{"ips":null,"interfaces":null}"#), (String::new(), String::new()));
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for json in
            ["null", "[]", "\"x\"", r#"{"ips":{}}"#, r#"{"ips":[{}]}"#, r#"{"interfaces":[1]}"#]
        {
            assert!(parse(json).is_err(), "{json}");
        }
        let error = parse(r#"{"ips":[{"address":"10.1.0.2/33"}]}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "prevResult.ips[0].address \"10.1.0.2/33\" is not an address with a prefix length"
        );
    }
}
