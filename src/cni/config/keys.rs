//! Reading the values of a configuration: each by its key, with what is allowed.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Value, value::RawValue};

use super::{ConfigError, Group};
use crate::lease::{ParsePortError, PortSet};

pub(super) const DEFAULT_GROUP: &str = "default";
const DEFAULT_PORTS: &str = "10000-19999";
const DEFAULT_COOLDOWN: Duration = Duration::from_mins(1);
const MAX_COOLDOWN: Duration = Duration::from_hours(24);
const MAX_CONDITIONS: usize = 64;

/// The top level of the configuration; null counts as absent.
pub(super) struct Keys<'a>(pub(super) &'a BTreeMap<String, Box<RawValue>>);

impl Keys<'_> {
    pub(super) fn value(&self, key: &str) -> Result<Option<Value>, ConfigError> {
        let raw = self.0.get(key).map(|raw| serde_json::from_str(raw.get()));
        let value: Option<Value> = raw.transpose().map_err(ConfigError::Json)?;
        Ok(value.filter(|value| !value.is_null()))
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let text = |value| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong(key, &other, "a text is allowed")),
        };
        self.value(key)?.map(text).transpose()
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let flag = |value| match value {
            Value::Bool(flag) => Ok(flag),
            other => Err(wrong(key, &other, "true or false is allowed")),
        };
        self.value(key)?.map(flag).transpose()
    }

    pub(super) fn directory(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let absolute = |text: String| {
            if text.starts_with('/') && !text.contains('\0') {
                Ok(PathBuf::from(text))
            } else {
                Err(wrong(key, &text.into(), "an absolute path is allowed"))
            }
        };
        self.string(key)?.map(absolute).transpose()
    }

    pub(super) fn conditions(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        const ALLOWED: &str = "an array of at most 64 texts is allowed";
        let Some(value) = self.value(key)? else { return Ok(Vec::new()) };
        let texts = value.as_array().filter(|array| array.len() <= MAX_CONDITIONS);
        let texts = texts.and_then(|array| {
            array.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| wrong(key, &value, ALLOWED))
    }

    pub(super) fn groups(&self) -> Result<BTreeMap<String, Group>, ConfigError> {
        let default_ports = || DEFAULT_PORTS.parse().expect("the default is a set of ports");
        let groups = match self.value("groups")? {
            None => serde_json::Map::new(),
            Some(Value::Object(groups)) => groups,
            Some(other) => return Err(wrong("groups", &other, "an object of groups is allowed")),
        };
        let mut parsed = BTreeMap::new();
        for (name, value) in groups {
            if !is_group_name(&name) {
                return Err(wrong(
                    "a name in groups",
                    &name.into(),
                    "1 to 63 letters, digits, '-' and '_' are allowed",
                ));
            }
            let key = |key: &str| format!("groups.{name}.{key}");
            let Value::Object(mut keys) = value else {
                let key = format!("groups.{name}");
                return Err(wrong(&key, &value, "an object with ports and cooldown is allowed"));
            };
            let cooldown = match keys.remove("cooldown") {
                None => DEFAULT_COOLDOWN,
                Some(value) => duration(&key("cooldown"), &value, MAX_COOLDOWN)?,
            };
            let ports = match keys.remove("ports") {
                None if name == DEFAULT_GROUP => default_ports(),
                found => ports(&key("ports"), &found.unwrap_or_default())?,
            };
            if ports.is_empty() {
                return Err(wrong(&key("ports"), &"".into(), "at least one port is needed"));
            }
            if let Some((unknown, value)) = keys.into_iter().next() {
                return Err(wrong(&key(&unknown), &value, "only ports and cooldown are allowed"));
            }
            parsed.insert(name, Group { ports, cooldown });
        }
        parsed
            .entry(DEFAULT_GROUP.to_owned())
            .or_insert_with(|| Group { ports: default_ports(), cooldown: DEFAULT_COOLDOWN });
        Ok(parsed)
    }

    pub(super) fn refuse_what_only_iptables_has(&self) -> Result<(), ConfigError> {
        match self.string("backend")?.as_deref() {
            None | Some("nftables") => {}
            Some("iptables") => {
                return Err(ConfigError::Unsupported {
                    key: "backend",
                    value: "\"iptables\"".to_owned(),
                    instead: "remove it or write \"nftables\"",
                });
            }
            Some(other) => {
                return Err(wrong("backend", &other.into(), "\"nftables\" is allowed"));
            }
        }
        for key in ["externalSetMarkChain", "markMasqBit"] {
            if let Some(value) = self.value(key)? {
                return Err(ConfigError::Unsupported {
                    key,
                    value: shown(&value),
                    instead: "remove it: traffic is masqueraded without a mark",
                });
            }
        }
        Ok(())
    }
}

fn is_group_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

pub(super) fn ports(key: &str, value: &Value) -> Result<PortSet, ConfigError> {
    let Some(text) = value.as_str() else {
        return Err(wrong(key, value, "a text like \"7000-7999,8443\" is allowed"));
    };
    text.parse().map_err(|reason: ParsePortError| ConfigError::Reason {
        key: key.to_owned(),
        value: shown(value),
        reason: reason.to_string(),
    })
}

pub(super) fn duration(key: &str, value: &Value, max: Duration) -> Result<Duration, ConfigError> {
    let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    parsed.filter(|duration| *duration <= max).ok_or_else(|| ConfigError::Reason {
        key: key.to_owned(),
        value: shown(value),
        reason: format!(
            "a time like \"500ms\", \"10s\" or \"2m\" up to {} is allowed",
            humantime::format_duration(max)
        ),
    })
}

pub(super) fn wrong(key: &str, value: &Value, allowed: &'static str) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), value: shown(value), allowed }
}

/// The most characters of a value that an error repeats.
pub(super) const SHOWN: usize = 120;

pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
