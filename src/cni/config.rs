//! The configuration on stdin: one entry of a conflist, completed by the runtime
//! (CNI SPEC, section 3, "Deriving execution configuration").
//!
//! Two readings of the same text: [`Config::parse`] takes what every verb needs
//! and forgives the rest, so that DEL works whatever has become of the
//! configuration; [`Config::settings`] and the methods beside it look at
//! everything else and refuse what is wrong.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use log::LevelFilter;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{CniVersion, PrevResult, ResultError, STDIN_LIMIT};
use crate::lease::{ContainerId, InterfaceName, NetworkName, ParseNameError, PortSet};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("the network configuration on stdin is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// More than [`STDIN_LIMIT`].
    #[error("the network configuration on stdin is larger than {STDIN_LIMIT} bytes")]
    TooLarge,
    /// A version that is not spoken.
    #[error("cniVersion {found:?} is not supported: {}", CniVersion::ALL.map(CniVersion::as_str).join(", "))]
    Version {
        /// What the configuration says.
        found: String,
    },
    /// The verb came with a later version than the configuration's.
    #[error("{verb} needs cniVersion {since} or later, the configuration has {version}")]
    VerbVersion {
        /// The verb.
        verb: super::Verb,
        /// The first version that has it.
        since: CniVersion,
        /// The configuration's version.
        version: CniVersion,
    },
    /// A key that must be there is not.
    #[error("{key} is missing in the network configuration")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The network's name has not the form it must have.
    #[error("name is not usable")]
    Name(#[source] ParseNameError),
    /// A key has a value that it cannot have.
    #[error("{key} is {value}: {allowed}")]
    Value {
        /// The key with the keys it stands under.
        key: String,
        /// The value, as JSON.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The same, where the reader of the value has a reason.
    #[error("{key} is {value}: {reason}")]
    Reason {
        /// The key with the keys it stands under.
        key: String,
        /// The value, as JSON.
        value: String,
        /// Why it is refused.
        reason: String,
    },
    /// A key means something to portmap that only iptables has.
    #[error("{key} is {value}: it has no meaning on nftables, {instead}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// The value, as JSON.
        value: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// Ports are asked for in a way that this version does not know.
    #[error("{key} is {value}: this version takes ports only from runtimeConfig.portMappings")]
    NotYet {
        /// The key or annotation.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// `prevResult` cannot be used.
    #[error(transparent)]
    Result(#[from] ResultError),
}

/// What each verb reads; made by [`Config::parse`].
#[derive(Debug)]
pub struct Config {
    /// The version to reply in.
    pub version: CniVersion,
    /// The network.
    pub network: NetworkName,
    /// Where the database is.
    pub data_dir: PathBuf,
    /// Where files for containers are published.
    pub run_dir: PathBuf,
    keys: BTreeMap<String, Box<RawValue>>,
}

/// Everything in the configuration that says how ports are given and forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long to wait for the lock.
    pub lock_timeout: Duration,
    /// The named pools.
    pub groups: BTreeMap<String, Group>,
    /// The group of requests that name none; always one of `groups`.
    pub default_group: String,
    /// Never given out dynamically; none: what the node reserves.
    pub exclude: Option<PortSet>,
    /// What becomes of a static port on which a host process listens.
    pub host_listeners: HostListeners,
    /// Masquerade hairpin, loopback and same-link traffic, as portmap's `snat`.
    pub snat: bool,
    /// Masquerade all forwarded traffic.
    pub masq_all: bool,
    /// Further conditions for IPv4 packets, in the words of nft or iptables.
    pub conditions_v4: Vec<String>,
    /// The same for IPv6.
    pub conditions_v6: Vec<String>,
}

/// A named pool of host ports with its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The ports that may be given in its name. Never empty.
    pub ports: PortSet,
    /// How long a port rests after its release.
    pub cooldown: Duration,
}

/// What becomes of a static port on which a process of the host listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostListeners {
    /// The port is refused.
    Refuse,
    /// The container gets the port and the process no more packets: portmap's way.
    Shadow,
}

/// Where and how much is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// From which level on.
    pub level: LevelFilter,
    /// The file that is appended to; none: stderr.
    pub file: Option<PathBuf>,
}

/// The keys of a plugin's configuration that the specification or the runtime
/// owns, and those read here: any other has no effect.
const KNOWN_KEYS: [&str; 31] = [
    "args",
    "backend",
    "capabilities",
    "cniVersion",
    "cniVersions",
    "cni.dev/attachments",
    "cni.dev/valid-attachments",
    "conditionsV4",
    "conditionsV6",
    "dataDir",
    "defaultGroup",
    "disableCheck",
    "disableGC",
    "dns",
    "exclude",
    "externalSetMarkChain",
    "groups",
    "hostListeners",
    "ipMasq",
    "ipam",
    "lockTimeout",
    "logFile",
    "logLevel",
    "markMasqBit",
    "masqAll",
    "name",
    "prevResult",
    "runDir",
    "runtimeConfig",
    "snat",
    "type",
];

const DATA_DIR: &str = "/var/lib/portclaim";
const RUN_DIR: &str = "/run/portclaim";
const DEFAULT_GROUP: &str = "default";
const DEFAULT_PORTS: &str = "10000-19999";
const DEFAULT_COOLDOWN: Duration = Duration::from_mins(1);
/// `lockTimeout` where the configuration has none.
pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_LOCK_TIMEOUT: Duration = Duration::from_mins(10);
const MAX_COOLDOWN: Duration = Duration::from_hours(24);
const MAX_CONDITIONS: usize = 64;

impl Config {
    /// Reads what every verb needs: version, network and directories. Directories
    /// that are none are refused; all other keys are left for later.
    pub fn parse(stdin: &[u8]) -> Result<Self, ConfigError> {
        if stdin.len() > STDIN_LIMIT {
            return Err(ConfigError::TooLarge);
        }
        let keys: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(stdin).map_err(ConfigError::Json)?;
        let keys = Keys(&keys);
        let version = match keys.string("cniVersion")? {
            None => return Err(ConfigError::Version { found: String::new() }),
            Some(found) => CniVersion::from_text(&found).ok_or(ConfigError::Version { found })?,
        };
        let network = keys.string("name")?.ok_or(ConfigError::Missing { key: "name" })?;
        Ok(Self {
            version,
            network: network.parse().map_err(ConfigError::Name)?,
            data_dir: keys.directory("dataDir")?.unwrap_or_else(|| DATA_DIR.into()),
            run_dir: keys.directory("runDir")?.unwrap_or_else(|| RUN_DIR.into()),
            keys: keys.0.clone(),
        })
    }

    /// The version to print an error in when [`Config::parse`] has failed: the
    /// configuration's if that much of it can be read, else the newest.
    #[must_use]
    pub fn version_of(stdin: &[u8]) -> CniVersion {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "cniVersion")]
            version: String,
        }
        let found = serde_json::from_slice::<Version>(stdin).ok();
        found.and_then(|v| CniVersion::from_text(&v.version)).unwrap_or(CniVersion::NEWEST)
    }

    /// Fails when the configuration's version does not have the verb yet.
    pub fn require_version(&self, verb: super::Verb, since: CniVersion) -> Result<(), ConfigError> {
        if self.version < since {
            return Err(ConfigError::VerbVersion { verb, since, version: self.version });
        }
        Ok(())
    }

    /// `lockTimeout`, 0 to 10 minutes.
    pub fn lock_timeout(&self) -> Result<Duration, ConfigError> {
        let keys = Keys(&self.keys);
        let found = keys.value("lockTimeout")?;
        let timeout = found.map(|value| duration("lockTimeout", &value, MAX_LOCK_TIMEOUT));
        Ok(timeout.transpose()?.unwrap_or(DEFAULT_LOCK_TIMEOUT))
    }

    /// `logLevel` and `logFile`.
    pub fn logging(&self) -> Result<Logging, ConfigError> {
        let keys = Keys(&self.keys);
        let level = match keys.string("logLevel")? {
            None => LevelFilter::Warn,
            Some(text) => text.parse().map_err(|_| ConfigError::Value {
                key: "logLevel".to_owned(),
                value: Value::from(text).to_string(),
                allowed: "off, error, warn, info, debug or trace is allowed",
            })?,
        };
        Ok(Logging { level, file: keys.directory("logFile")? })
    }

    /// Keys that mean nothing to this version, for a warning: a misspelt key
    /// should not go unnoticed.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str).filter(|key| !KNOWN_KEYS.contains(key))
    }

    /// Everything that says how ports are given and forwarded.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let keys = Keys(&self.keys);
        keys.refuse_what_only_iptables_has()?;
        let groups = keys.groups()?;
        let default_group = keys.string("defaultGroup")?.unwrap_or_else(|| DEFAULT_GROUP.into());
        if !groups.contains_key(&default_group) {
            return Err(ConfigError::Value {
                key: "defaultGroup".to_owned(),
                value: Value::from(default_group).to_string(),
                allowed: "a name of groups is allowed",
            });
        }
        let host_listeners = match keys.string("hostListeners")?.as_deref() {
            None | Some("refuse") => HostListeners::Refuse,
            Some("shadow") => HostListeners::Shadow,
            Some(other) => {
                return Err(ConfigError::Value {
                    key: "hostListeners".to_owned(),
                    value: Value::from(other).to_string(),
                    allowed: "\"refuse\" or \"shadow\" is allowed",
                });
            }
        };
        Ok(Settings {
            lock_timeout: self.lock_timeout()?,
            groups,
            default_group,
            exclude: keys.value("exclude")?.map(|value| ports("exclude", &value)).transpose()?,
            host_listeners,
            snat: keys.flag("snat")?.unwrap_or(true),
            masq_all: keys.flag("masqAll")?.unwrap_or(false),
            conditions_v4: keys.conditions("conditionsV4")?,
            conditions_v6: keys.conditions("conditionsV6")?,
        })
    }

    /// `prevResult`, without which a chained plugin has nothing to do.
    pub fn prev_result(&self) -> Result<PrevResult, ConfigError> {
        let raw = self.keys.get("prevResult").filter(|raw| raw.get() != "null");
        let raw = raw.ok_or(ConfigError::Missing { key: "prevResult" })?;
        Ok(PrevResult::parse(raw)?)
    }

    /// A key of `runtimeConfig`; none where it, or all of `runtimeConfig`, is
    /// absent or null.
    pub fn runtime_config(&self, key: &str) -> Result<Option<Value>, ConfigError> {
        match Keys(&self.keys).value("runtimeConfig")? {
            None => Ok(None),
            Some(Value::Object(mut map)) => Ok(map.remove(key).filter(|value| !value.is_null())),
            Some(other) => Err(ConfigError::Value {
                key: "runtimeConfig".to_owned(),
                value: shown(&other),
                allowed: "an object is allowed",
            }),
        }
    }

    /// `cni.dev/valid-attachments` of GC, which a runtime without any writes as
    /// null. Absent, it is an error: everything would be removed.
    pub fn valid_attachments(&self) -> Result<HashSet<(ContainerId, InterfaceName)>, ConfigError> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container: ContainerId,
            #[serde(rename = "ifname")]
            interface: InterfaceName,
        }
        const KEY: &str = "cni.dev/valid-attachments";
        let raw = self.keys.get(KEY).ok_or(ConfigError::Missing { key: KEY })?;
        let valid: Option<Vec<Valid>> =
            serde_json::from_str(raw.get()).map_err(|error| ConfigError::Reason {
                key: KEY.to_owned(),
                value: raw.get().chars().take(SHOWN).collect(),
                reason: error.to_string(),
            })?;
        let valid = valid.unwrap_or_default();
        Ok(valid.into_iter().map(|v| (v.container, v.interface)).collect())
    }
}

/// The top level of the configuration; null counts as absent.
struct Keys<'a>(&'a BTreeMap<String, Box<RawValue>>);

impl Keys<'_> {
    fn value(&self, key: &str) -> Result<Option<Value>, ConfigError> {
        let raw = self.0.get(key).map(|raw| serde_json::from_str(raw.get()));
        let value: Option<Value> = raw.transpose().map_err(ConfigError::Json)?;
        Ok(value.filter(|value| !value.is_null()))
    }

    fn string(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let text = |value| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong(key, &other, "a text is allowed")),
        };
        self.value(key)?.map(text).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let flag = |value| match value {
            Value::Bool(flag) => Ok(flag),
            other => Err(wrong(key, &other, "true or false is allowed")),
        };
        self.value(key)?.map(flag).transpose()
    }

    fn directory(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let absolute = |text: String| {
            if text.starts_with('/') && !text.contains('\0') {
                Ok(PathBuf::from(text))
            } else {
                Err(wrong(key, &text.into(), "an absolute path is allowed"))
            }
        };
        self.string(key)?.map(absolute).transpose()
    }

    fn conditions(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        const ALLOWED: &str = "an array of at most 64 texts is allowed";
        let Some(value) = self.value(key)? else { return Ok(Vec::new()) };
        let texts = value.as_array().filter(|array| array.len() <= MAX_CONDITIONS);
        let texts = texts.and_then(|array| {
            array.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| wrong(key, &value, ALLOWED))
    }

    fn groups(&self) -> Result<BTreeMap<String, Group>, ConfigError> {
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

    fn refuse_what_only_iptables_has(&self) -> Result<(), ConfigError> {
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

fn ports(key: &str, value: &Value) -> Result<PortSet, ConfigError> {
    let Some(text) = value.as_str() else {
        return Err(wrong(key, value, "a text like \"7000-7999,8443\" is allowed"));
    };
    text.parse().map_err(|reason: crate::lease::ParsePortError| ConfigError::Reason {
        key: key.to_owned(),
        value: shown(value),
        reason: reason.to_string(),
    })
}

fn duration(key: &str, value: &Value, max: Duration) -> Result<Duration, ConfigError> {
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

fn wrong(key: &str, value: &Value, allowed: &'static str) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), value: shown(value), allowed }
}

/// The most characters of a value that an error repeats.
const SHOWN: usize = 120;

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
