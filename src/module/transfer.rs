//! What outlives containers as one document: claims and the ports of modules, to keep
//! them or to take them to another node. And the same from the environment of a
//! `NethServer` module.
//!
//! ```json
//! {
//!   "claims": [{"namespace": "games", "claim": "arena-0", "name": "game", "protocol": "udp",
//!               "hostPort": 7000, "count": 1, "group": "games", "ttl": 2592000}],
//!   "modules": [{"module": "mail1", "protocol": "tcp", "hostPort": 20001, "count": 4,
//!                "group": "default"}]
//! }
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cni::JsonError,
    lease::{
        Claim, ClaimKey, ClaimName, Endpoint, Excerpt, GroupName, HostAddress, ModuleId,
        ModuleLease, Namespace, Port, PortMap, PortName, PortSet, Protocol,
    },
};

/// Claims and the ports of modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// The claims, whoever uses them.
    pub claims: Vec<ClaimEntry>,
    /// The blocks of modules. Of one module, the first is the one whose first port is
    /// the module's first.
    pub modules: Vec<BlockEntry>,
}

/// A claim, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimEntry {
    /// The namespace of the pods that may use it; none: of containers in no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Its name.
    pub claim: ClaimName,
    /// The name of the port.
    pub name: PortName,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The host's addresses; every one where it is left out.
    #[serde(rename = "hostIP", default, skip_serializing_if = "HostAddress::is_any")]
    pub address: HostAddress,
    /// The port, the lowest of a block.
    #[serde(rename = "hostPort")]
    pub port: Port,
    /// How many ports.
    #[serde(default = "one")]
    pub count: u16,
    /// The group that they are from.
    pub group: GroupName,
    /// How long it is kept while nobody uses it, in seconds; as the group says where it
    /// is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// When it is given up, in seconds since the Unix epoch; `ttl` from now on where it
    /// is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// A block of a module's, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BlockEntry {
    /// The owner.
    pub module: ModuleId,
    /// What the module calls it, where it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ClaimName>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The lowest port.
    #[serde(rename = "hostPort")]
    pub port: Port,
    /// How many ports.
    #[serde(default = "one")]
    pub count: u16,
    /// The group that they are from; the module's own, or the node's default, where it
    /// is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Where they are forwarded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Endpoint>,
}

fn one() -> u16 {
    1
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Not JSON, or not of this form.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// An entry is wrong.
    #[error("{list}[{index}]: {reason}")]
    Entry {
        /// In which list.
        list: &'static str,
        /// Position of the entry, from 0.
        index: usize,
        /// What is wrong.
        reason: Excerpt,
    },
    /// A block has no port, or ends above the last one.
    #[error("{list}[{index}]: count is {count}: 1 to {most} ports from {port} on are allowed")]
    Count {
        /// In which list.
        list: &'static str,
        /// Position of the entry, from 0.
        index: usize,
        /// The number that is written.
        count: u16,
        /// How many there may be.
        most: u32,
        /// The lowest.
        port: Port,
    },
    /// A variable of an environment has not the form it must have.
    #[error("{variable} is {value}: ports like 20001, 20001-20004 or 20001,20002 are allowed")]
    Variable {
        /// Which.
        variable: String,
        /// Its value.
        value: Excerpt,
    },
    /// An environment says nothing of ports.
    #[error("there is no TCP_PORT, TCP_PORTS, TCP_PORTS_RANGE, nor any of UDP")]
    NoVariable,
}

impl Transfer {
    /// What a node has.
    #[must_use]
    pub fn of(claims: &[Claim], modules: &[ModuleLease]) -> Self {
        let claims = claims.iter().map(ClaimEntry::from).collect();
        let mut modules: Vec<_> = modules.iter().collect();
        modules.sort_by(|a, b| (&a.module, a.since, a.port).cmp(&(&b.module, b.since, b.port)));
        Self { claims, modules: modules.into_iter().map(BlockEntry::from).collect() }
    }

    /// Reads a document.
    pub fn parse(text: &[u8]) -> Result<Self, TransferError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(default)]
            claims: Vec<Value>,
            #[serde(default)]
            modules: Vec<Value>,
        }
        fn entries<T: for<'de> Deserialize<'de>>(
            list: &'static str,
            values: Vec<Value>,
        ) -> Result<Vec<T>, TransferError> {
            let parse = |(index, value)| {
                serde_json::from_value(value).map_err(|error| {
                    let reason = JsonError::from(error).reason().clone();
                    TransferError::Entry { list, index, reason }
                })
            };
            values.into_iter().enumerate().map(parse).collect()
        }
        let document: Document = serde_json::from_slice(text).map_err(JsonError::from)?;
        let claims: Vec<ClaimEntry> = entries("claims", document.claims)?;
        let modules: Vec<BlockEntry> = entries("modules", document.modules)?;
        for (index, entry) in claims.iter().enumerate() {
            check_count("claims", index, entry.port, entry.count)?;
        }
        for (index, entry) in modules.iter().enumerate() {
            check_count("modules", index, entry.port, entry.count)?;
            if let Some(to) = entry.to {
                check_count("modules", index, to.port(), entry.count)?;
            }
        }
        Ok(Self { claims, modules })
    }

    /// Reads what an environment says of the ports that a module has: `TCP_PORT`,
    /// `TCP_PORTS` and `TCP_PORTS_RANGE`, and the same of UDP. Each is a port, a range
    /// (`20001-20004`) or a list of these.
    pub fn from_environment(module: &ModuleId, text: &str) -> Result<Self, TransferError> {
        let mut transfer = Self::default();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let prefix = protocol.name().to_uppercase();
            let mut ports = PortMap::default();
            let mut first = None;
            for suffix in ["_PORT", "_PORTS_RANGE", "_PORTS"] {
                let variable = format!("{prefix}{suffix}");
                let Some(value) = variable_of(text, &variable) else { continue };
                let wrong = || TransferError::Variable {
                    variable: variable.clone(),
                    value: Excerpt::quoted(value),
                };
                let set: PortSet = value.parse().map_err(|_| wrong())?;
                first = first.or_else(|| set.iter().next());
                ports.include(&PortMap::from(&set));
            }
            let mut blocks = blocks(&ports);
            // The first port stays the first.
            let is_first = |(port, count): &(Port, u16)| {
                first.is_some_and(|first| {
                    (port.number()..).take((*count).into()).any(|n| n == first.number())
                })
            };
            blocks.sort_by_key(|block| !is_first(block));
            transfer.modules.extend(blocks.into_iter().map(|(port, count)| BlockEntry {
                module: module.clone(),
                name: None,
                protocol,
                port,
                count,
                group: None,
                to: None,
            }));
        }
        if transfer.modules.is_empty() {
            return Err(TransferError::NoVariable);
        }
        Ok(transfer)
    }
}

/// The neighbouring ports of a set, the lowest first.
fn blocks(ports: &PortMap) -> Vec<(Port, u16)> {
    let mut blocks: Vec<(Port, u16)> = Vec::new();
    for port in ports.iter() {
        match blocks.last_mut() {
            Some((first, count)) if first.above(*count) == Some(port) => *count += 1,
            _ => blocks.push((port, 1)),
        }
    }
    blocks
}

/// The last value that an environment gives a variable.
fn variable_of<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let value = |line: &'t str| {
        let line = line.trim();
        let (found, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| {
            value.strip_prefix(*quote).and_then(|value| value.strip_suffix(*quote))
        });
        (found.trim() == name).then(|| quoted.unwrap_or(value))
    };
    text.lines().rev().find_map(value).filter(|value| !value.is_empty())
}

fn check_count(
    list: &'static str,
    index: usize,
    port: Port,
    count: u16,
) -> Result<(), TransferError> {
    let most = 65536 - u32::from(port.number());
    if (1..=most).contains(&u32::from(count)) {
        return Ok(());
    }
    Err(TransferError::Count { list, index, count, most, port })
}

impl From<&Claim> for ClaimEntry {
    fn from(claim: &Claim) -> Self {
        let ClaimKey { namespace, claim: name_of_claim, name, protocol } = claim.key.clone();
        Self {
            namespace,
            claim: name_of_claim,
            name,
            protocol,
            address: claim.address,
            port: claim.port,
            count: claim.count,
            group: claim.group.clone(),
            ttl: Some(claim.ttl),
            expires: claim.expires,
        }
    }
}

impl From<&ModuleLease> for BlockEntry {
    fn from(lease: &ModuleLease) -> Self {
        Self {
            module: lease.module.clone(),
            name: lease.name.clone(),
            protocol: lease.protocol,
            port: lease.port,
            count: lease.count,
            group: Some(lease.group.clone()),
            to: lease.to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"{
        "claims": [
            {"namespace": "games", "claim": "arena-0", "name": "game", "protocol": "udp",
             "hostIP": "192.0.2.1", "hostPort": 7000, "count": 2, "group": "games", "ttl": 60,
             "expires": 1800000000},
            {"claim": "c", "name": "n", "protocol": "tcp", "hostPort": 65535, "group": "games"}
        ],
        "modules": [
            {"module": "mail1", "name": "smtp", "protocol": "tcp", "hostPort": 20001, "count": 4,
             "group": "default", "to": "10.0.0.5:25"},
            {"module": "mail1", "protocol": "udp", "hostPort": 53}
        ]
    }"#;

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let read = Transfer::parse(ALL.as_bytes()).unwrap();
        assert_eq!((read.claims[1].count, read.modules[1].count), (1, 1));
        let text = serde_json::to_vec(&read).unwrap();
        assert_eq!(Transfer::parse(&text).unwrap(), read);
        assert_eq!(Transfer::parse(b"{}").unwrap(), Transfer::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, message) in [
            ("\"claims\"", "\"claim\"", "unknown field"),
            ("\"hostPort\": 65535", "\"hostPort\": 65536", "claims[1]: invalid value"),
            ("\"hostPort\": 53", "\"port\": 53", "modules[1]: unknown field"),
            (
                "\"count\": 4",
                "\"count\": 0",
                "modules[0]: count is 0: 1 to 45535 ports from 20001 on are allowed",
            ),
            (
                "\"hostPort\": 65535",
                "\"count\": 2, \"hostPort\": 65535",
                "claims[1]: count is 2: 1 to 1 ports from 65535 on are allowed",
            ),
            (":25\"", ":65533\"", "modules[0]: count is 4: 1 to 3 ports from 65533 on"),
            ("\"module\": \"mail1\", \"protocol\"", "\"protocol\"", "modules[1]: missing field"),
        ] {
            let text = ALL.replacen(from, to, 1);
            assert_ne!(text, ALL);
            let error = Transfer::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    fn blocks_of(text: &str) -> Result<Vec<(Protocol, u16, u16)>, String> {
        let transfer = Transfer::from_environment(&"mail1".parse().unwrap(), text);
        let blocks = transfer.map_err(|error| error.to_string())?.modules;
        Ok(blocks.iter().map(|it| (it.protocol, it.port.number(), it.count)).collect())
    }

    #[test]
    fn an_environment_says_which_ports_there_are() {
        use Protocol::{Tcp, Udp};
        for (text, expected) in [
            ("TCP_PORT=20001\n", &[(Tcp, 20001, 1)][..]),
            ("TCP_PORT=20001\nTCP_PORTS=20001-20004\n", &[(Tcp, 20001, 4)]),
            ("TCP_PORT=20001\nTCP_PORTS_RANGE=20001-20009\n", &[(Tcp, 20001, 9)]),
            (
                "# x\nMODULE_ID=mail1\nexport UDP_PORT='20006'\n TCP_PORT = \"20003\"\n\
                 UDP_PORTS=20001,20002,20006,20007\nTCP_PORTS=\n",
                &[(Tcp, 20003, 1), (Udp, 20006, 2), (Udp, 20001, 2)],
            ),
        ] {
            assert_eq!(blocks_of(text).as_deref(), Ok(expected), "{text}");
        }
        let error = blocks_of("TCP_PORT=0\n").unwrap_err();
        assert!(error.starts_with("TCP_PORT is \"0\": ports like 20001"), "{error}");
        assert!(blocks_of("TCP_PORTS=20004-20001").is_err());
        assert!(blocks_of("PORT=1\nXTCP_PORT=2\n#TCP_PORT=3").unwrap_err().contains("no TCP_PORT"));
    }
}
