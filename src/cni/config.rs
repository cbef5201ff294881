//! The configuration on stdin: one entry of a conflist, completed by the runtime
//! (CNI SPEC, section 3, "Deriving execution configuration").
//!
//! Two readings of the same text: [`Config::parse`] takes what every verb needs
//! and forgives the rest, so that DEL works whatever has become of the
//! configuration; [`Config::settings`] and the methods beside it look at
//! everything else and refuse what is wrong.

mod error;
mod groups;
mod keys;
mod static_ports;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use log::LevelFilter;
use serde::Deserialize;
use serde_json::value::RawValue;

pub use error::ConfigError;
use keys::{Keys, duration, number, ports, wrong};
pub use static_ports::{Allowed, StaticPorts, StaticRule};

use super::{CniVersion, JsonError, PrevResult, STDIN_LIMIT, json};
use crate::lease::{
    Backend, ContainerId, Excerpt, ForeignChain, Group, GroupName, InterfaceName, NetworkName,
    PortSet,
};

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
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long to wait for the lock.
    pub lock_timeout: Duration,
    /// The named pools.
    pub groups: BTreeMap<GroupName, Group>,
    /// The group of requests that name none; always one of `groups`.
    pub default_group: GroupName,
    /// The most ports that a container may ask for, each protocol counted.
    pub max_per_pod: u32,
    /// Which ports may be asked for by number.
    pub static_ports: StaticPorts,
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
    /// The chains of others that are to let pass what is forwarded.
    pub accept_in: Vec<ForeignChain>,
    /// By which way nftables is changed.
    pub backend: Backend,
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
const KNOWN_KEYS: [&str; 35] = [
    "acceptIn",
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
    "formerly",
    "groups",
    "hostListeners",
    "ipMasq",
    "ipam",
    "lockTimeout",
    "logFile",
    "logLevel",
    "markMasqBit",
    "masqAll",
    "maxPerPod",
    "name",
    "prevResult",
    "runDir",
    "runtimeConfig",
    "snat",
    "static",
    "type",
];

/// `dataDir` where the configuration has none.
pub const DATA_DIR: &str = "/var/lib/portclaim";
/// `runDir` where the configuration has none.
pub const RUN_DIR: &str = "/run/portclaim";
/// `lockTimeout` where the configuration has none.
pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// What portclaim replaces.
pub const PORTMAP: &str = "portmap";
const MAX_LOCK_TIMEOUT: Duration = Duration::from_mins(10);
/// `maxPerPod` where the configuration has none.
pub const DEFAULT_MAX_PER_POD: u32 = 64;
const MAX_MAX_PER_POD: u32 = 4096;

impl Config {
    /// Reads what every verb needs: version, network and directories. Directories
    /// that are none are refused; all other keys are left for later.
    pub fn parse(stdin: &[u8]) -> Result<Self, ConfigError> {
        if stdin.len() > STDIN_LIMIT {
            return Err(ConfigError::TooLarge);
        }
        let keys: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(stdin).map_err(JsonError::from)?;
        let keys = Keys(&keys);
        let version = match keys.string("cniVersion")? {
            None => return Err(ConfigError::Version { found: Excerpt::quoted("") }),
            Some(text) => CniVersion::from_text(&text)
                .ok_or_else(|| ConfigError::Version { found: Excerpt::quoted(&text) })?,
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
        let keys: Option<BTreeMap<String, &RawValue>> = serde_json::from_slice(stdin).ok();
        let version = keys.and_then(|keys| json::text(keys.get("cniVersion")?));
        version.and_then(|text| CniVersion::from_text(&text)).unwrap_or(CniVersion::NEWEST)
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

    /// `backend`: `"netlink"` or `"nft"`; `portmap`'s `"nftables"` stands for the first.
    pub fn backend(&self) -> Result<Backend, ConfigError> {
        match Keys(&self.keys).string("backend")?.as_deref() {
            None | Some("netlink" | "nftables") => Ok(Backend::Netlink),
            Some("nft") => Ok(Backend::Nft),
            Some("iptables") => Err(ConfigError::Unsupported {
                key: "backend",
                value: Excerpt::plain("\"iptables\""),
                instead: "remove it or write \"netlink\"",
            }),
            Some(other) => {
                Err(wrong("backend", &other.into(), "\"netlink\" or \"nft\" is allowed"))
            }
        }
    }

    /// `formerly`: whether portclaim has taken the place of `portmap`, and containers
    /// may still run whose ports are from there.
    pub fn is_in_place_of_portmap(&self) -> Result<bool, ConfigError> {
        match Keys(&self.keys).string("formerly")?.as_deref() {
            None => Ok(false),
            Some(PORTMAP) => Ok(true),
            Some(other) => Err(wrong("formerly", &other.into(), "\"portmap\" is allowed")),
        }
    }

    /// The configuration as `portmap` would read it in the place of portclaim.
    #[must_use]
    pub fn for_portmap(&self) -> Vec<u8> {
        let kind = serde_json::value::to_raw_value(PORTMAP).expect("a text is JSON");
        let mut keys: BTreeMap<&str, &RawValue> =
            self.keys.iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        keys.insert("type", &kind);
        serde_json::to_vec(&keys).expect("what was JSON is JSON")
    }

    /// `logLevel` and `logFile`.
    pub fn logging(&self) -> Result<Logging, ConfigError> {
        let keys = Keys(&self.keys);
        let level = match keys.string("logLevel")? {
            None => LevelFilter::Warn,
            Some(text) => text.parse().map_err(|_| {
                let allowed = "off, error, warn, info, debug or trace is allowed";
                wrong("logLevel", &text.into(), allowed)
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
        self.is_in_place_of_portmap()?;
        let (groups, default_group) = groups::groups(&keys)?;
        let host_listeners = match keys.string("hostListeners")?.as_deref() {
            None | Some("refuse") => HostListeners::Refuse,
            Some("shadow") => HostListeners::Shadow,
            Some(other) => {
                let allowed = "\"refuse\" or \"shadow\" is allowed";
                return Err(wrong("hostListeners", &other.into(), allowed));
            }
        };
        Ok(Settings {
            lock_timeout: self.lock_timeout()?,
            groups,
            default_group,
            max_per_pod: keys
                .value("maxPerPod")?
                .map(|value| number("maxPerPod", &value, MAX_MAX_PER_POD))
                .transpose()?
                .unwrap_or(DEFAULT_MAX_PER_POD),
            static_ports: static_ports::static_ports(&keys)?,
            exclude: keys.value("exclude")?.map(|value| ports("exclude", &value)).transpose()?,
            host_listeners,
            snat: keys.flag("snat")?.unwrap_or(true),
            masq_all: keys.flag("masqAll")?.unwrap_or(false),
            conditions_v4: keys.conditions("conditionsV4")?,
            conditions_v6: keys.conditions("conditionsV6")?,
            accept_in: keys
                .value("acceptIn")?
                .map(|value| keys::chains("acceptIn", &value))
                .transpose()?
                .unwrap_or_default(),
            backend: self.backend()?,
        })
    }

    /// `prevResult`, without which a chained plugin has nothing to do.
    pub fn prev_result(&self) -> Result<PrevResult, ConfigError> {
        let raw = self.keys.get("prevResult").filter(|raw| raw.get() != "null");
        let raw = raw.ok_or(ConfigError::Missing { key: "prevResult" })?;
        Ok(PrevResult::parse(raw)?)
    }

    /// A key of `runtimeConfig` as it is written; none where it, or all of
    /// `runtimeConfig`, is absent or null.
    pub fn runtime_config(&self, key: &str) -> Result<Option<&RawValue>, ConfigError> {
        let Some(raw) = self.keys.get("runtimeConfig").filter(|raw| !json::is_null(raw)) else {
            return Ok(None);
        };
        let keys: BTreeMap<String, &RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| ConfigError::Value {
                key: "runtimeConfig".to_owned(),
                value: Excerpt::plain(raw.get()),
                allowed: "an object is allowed",
            })?;
        Ok(keys.get(key).copied().filter(|raw| !json::is_null(raw)))
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
                value: Excerpt::plain(raw.get()),
                reason: JsonError::from(error).to_string(),
            })?;
        let valid = valid.unwrap_or_default();
        Ok(valid.into_iter().map(|v| (v.container, v.interface)).collect())
    }
}
