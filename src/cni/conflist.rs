//! A whole conflist, as its author wrote it: what stands around portclaim in it.
//!
//! Pure, and forgiving: it is the runtime that refuses what is no conflist.

mod edit;

use serde_json::Value;

use super::config::PORTMAP;

pub use edit::{EditError, add, remove};

/// The plugins of a network, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// The network.
    pub name: String,
    plugins: Vec<Plugin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugin {
    kind: String,
    capabilities: Vec<String>,
    hairpin_mode: bool,
}

/// What is wrong with a conflist that has portclaim in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistFault {
    /// No plugin before it makes an interface.
    #[error("portclaim stands before the plugin that makes the interface")]
    First,
    /// Both take host ports.
    #[error("portclaim and portmap are in one chain: both would forward the same ports")]
    BesidePortmap,
    /// It is there more than once.
    #[error("portclaim is there {0} times")]
    Repeated(usize),
    /// Nothing that asks for ports reaches it.
    #[error("portclaim has none of the capabilities {}", CAPABILITIES.join(", "))]
    NoCapability,
    /// Some ways of asking are not offered.
    #[error("portclaim does not have the capability {0}")]
    Capability(&'static str),
    /// It is no network of a chain.
    #[error("it is of a single plugin, not a conflist: portclaim has no interface to forward to")]
    Alone,
}

impl ConflistFault {
    /// Whether containers do not get ports because of it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Capability(_))
    }
}

const OURS: &str = "portclaim";
/// The ways to ask for ports.
const CAPABILITIES: [&str; 3] = ["portMappings", "portClaims", "io.kubernetes.cri.pod-annotations"];
/// Those without which something that people expect does not work.
const EXPECTED: [&str; 2] = ["portMappings", "io.kubernetes.cri.pod-annotations"];

impl Conflist {
    /// Reads a conflist, or the configuration of a single plugin; none where the text is
    /// no JSON object.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let list: Value = serde_json::from_slice(text).ok()?;
        list.as_object()?;
        let entries = list["plugins"].as_array();
        let entries = entries.cloned().unwrap_or_else(|| vec![list.clone()]);
        let plugins = entries.iter().map(|entry| Plugin {
            kind: entry["type"].as_str().unwrap_or_default().to_owned(),
            capabilities: entry["capabilities"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| **value == Value::Bool(true))
                .map(|(name, _)| name.clone())
                .collect(),
            hairpin_mode: entry["hairpinMode"] == true,
        });
        Some(Self {
            name: list["name"].as_str().unwrap_or_default().to_owned(),
            plugins: plugins.collect(),
        })
    }

    /// Whether portclaim is in it.
    #[must_use]
    pub fn has_portclaim(&self) -> bool {
        self.has(OURS)
    }

    /// Whether `portmap` is in it.
    #[must_use]
    pub fn has_portmap(&self) -> bool {
        self.has(PORTMAP)
    }

    /// Whether its interfaces are on a bridge that sends no packet back where it came
    /// from.
    #[must_use]
    pub fn has_bridge_without_hairpin(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.kind == "bridge" && !plugin.hairpin_mode)
    }

    /// What is wrong with it; nothing where portclaim is not in it.
    #[must_use]
    pub fn faults(&self) -> Vec<ConflistFault> {
        let mut faults = Vec::new();
        let count = self.plugins.iter().filter(|plugin| plugin.kind == OURS).count();
        let Some(at) = self.plugins.iter().position(|plugin| plugin.kind == OURS) else {
            return faults;
        };
        if self.plugins.len() == 1 {
            faults.push(ConflistFault::Alone);
        } else if at == 0 {
            faults.push(ConflistFault::First);
        }
        if count > 1 {
            faults.push(ConflistFault::Repeated(count));
        }
        if self.has_portmap() {
            faults.push(ConflistFault::BesidePortmap);
        }
        let has = |name: &&str| self.plugins[at].capabilities.iter().any(|own| own == name);
        if CAPABILITIES.iter().any(has) {
            let absent = EXPECTED.into_iter().filter(|name| !has(name));
            faults.extend(absent.map(ConflistFault::Capability));
        } else {
            faults.push(ConflistFault::NoCapability);
        }
        faults
    }

    fn has(&self, kind: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(plugins: &str) -> Vec<ConflistFault> {
        Conflist::parse(format!(r#"{{"name": "n", "plugins": [{plugins}]}}"#).as_bytes())
            .unwrap()
            .faults()
    }

    #[test]
    fn what_is_wrong_with_a_conflist_is_found() {
        use ConflistFault::{Alone, BesidePortmap, Capability, First, NoCapability, Repeated};
        const BRIDGE: &str = r#"{"type": "bridge"}"#;
        const OURS: &str = r#"{"type": "portclaim", "capabilities":
            {"portMappings": true, "io.kubernetes.cri.pod-annotations": true}}"#;
        const DEAF: &str = r#"{"type": "portclaim", "capabilities": {"portMappings": false}}"#;
        const HALF: &str = r#"{"type": "portclaim", "capabilities": {"portMappings": true}}"#;
        const PORTMAP: &str = r#"{"type": "portmap"}"#;
        let annotations = "io.kubernetes.cri.pod-annotations";
        for (plugins, expected) in [
            (vec![BRIDGE, OURS], vec![]),
            (vec![BRIDGE, PORTMAP], vec![]),
            (vec![], vec![]),
            (vec![OURS, BRIDGE], vec![First]),
            (vec![OURS], vec![Alone]),
            (vec![BRIDGE, OURS, OURS], vec![Repeated(2)]),
            (vec![BRIDGE, PORTMAP, OURS], vec![BesidePortmap]),
            (vec![BRIDGE, DEAF], vec![NoCapability]),
            (vec![BRIDGE, HALF], vec![Capability(annotations)]),
        ] {
            assert_eq!(faults(&plugins.join(",")), expected, "{plugins:?}");
        }
    }

    #[test]
    fn what_is_no_conflist_does_no_harm() {
        for text in ["", "{", "[]", "1"] {
            assert_eq!(Conflist::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["{}", r#"{"plugins": 1}"#, r#"{"plugins": [1, {"type": 2}]}"#] {
            assert_eq!(Conflist::parse(text.as_bytes()).unwrap().faults(), [], "{text}");
        }
        let single = Conflist::parse(br#"{"name": "n", "type": "portclaim"}"#).unwrap();
        assert!(single.has_portclaim() && single.faults().contains(&ConflistFault::Alone));
    }
}
