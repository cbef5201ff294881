//! Reading the values of a configuration: each by its key, with what is allowed.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Value, value::RawValue};

use super::{ConfigError, JsonError};
use crate::lease::{
    Excerpt, ForeignChain, NamespaceGlob, ParseForeignChainError, ParseNameError, ParsePortError,
    PortSet, Protocol, Protocols,
};

const MAX_CONDITIONS: usize = 64;

/// The top level of the configuration; null counts as absent.
pub(super) struct Keys<'a>(pub(super) &'a BTreeMap<String, Box<RawValue>>);

impl Keys<'_> {
    pub(super) fn value(&self, key: &str) -> Result<Option<Value>, ConfigError> {
        let raw = self.0.get(key).map(|raw| serde_json::from_str(raw.get()));
        let value: Option<Value> = raw.transpose().map_err(JsonError::from)?;
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

    pub(super) fn refuse_what_only_iptables_has(&self) -> Result<(), ConfigError> {
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

/// The same, where it must not be empty.
pub(super) fn some_ports(key: &str, value: &Value) -> Result<PortSet, ConfigError> {
    let set = ports(key, value)?;
    if set.is_empty() {
        return Err(wrong(key, value, "at least one port is needed"));
    }
    Ok(set)
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

/// A whole number from 1 to `max`.
pub(super) fn number(key: &str, value: &Value, max: u32) -> Result<u32, ConfigError> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| (1..=max).contains(number)).ok_or_else(|| ConfigError::Reason {
        key: key.to_owned(),
        value: shown(value),
        reason: format!("a whole number from 1 to {max} is allowed"),
    })
}

pub(super) fn protocols(key: &str, value: &Value) -> Result<Protocols, ConfigError> {
    const ALLOWED: &str = "an array of one or more of \"tcp\", \"udp\" and \"sctp\" is allowed";
    let names = value.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let known = names.map(|name| name.as_str().and_then(Protocol::from_name));
    let protocols = known.collect::<Option<Protocols>>().filter(|all| !all.is_empty());
    protocols.ok_or_else(|| wrong(key, value, ALLOWED))
}

pub(super) fn namespaces(key: &str, value: &Value) -> Result<Vec<NamespaceGlob>, ConfigError> {
    let Some(globs) = value.as_array() else {
        return Err(wrong(key, value, "an array of patterns like \"games-*\" is allowed"));
    };
    let globs = globs.iter().enumerate().map(|(at, glob)| {
        let key = format!("{key}[{at}]");
        let Some(text) = glob.as_str() else {
            return Err(wrong(&key, glob, "a pattern like \"games-*\" is allowed"));
        };
        text.parse().map_err(|reason: ParseNameError| ConfigError::Reason {
            key,
            value: shown(glob),
            reason: reason.to_string(),
        })
    });
    globs.collect()
}

pub(super) fn chains(key: &str, value: &Value) -> Result<Vec<ForeignChain>, ConfigError> {
    let Some(chains) = value.as_array() else {
        return Err(wrong(
            key,
            value,
            "an array of chains like \"inet filter forward\" is allowed",
        ));
    };
    let chains = chains.iter().enumerate().map(|(at, chain)| {
        let parsed = chain.as_str().unwrap_or_default().parse();
        parsed.map_err(|reason: ParseForeignChainError| ConfigError::Reason {
            key: format!("{key}[{at}]"),
            value: shown(chain),
            reason: reason.to_string(),
        })
    });
    chains.collect()
}

pub(super) fn shown(value: &Value) -> Excerpt {
    Excerpt::plain(&value.to_string())
}
