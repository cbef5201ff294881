//! Keys and values, as they are in the trees. Every value says which schema it
//! is of, so that a newer one is refused and not misread.
//!
//! ```text
//! tree         key                                          value
//! attachment   container 0 interface 0 network              {"schema":1, …a Forwarding}
//! port         protocol, port (2), tag, address (0, 4, 16)  1 0 container 0 interface 0 network
//! network      network 0 container 0 interface              1
//! address      network 0 address 0 container 0 interface    1
//! pod          namespace 0 pod 0 container 0 interface 0 network    1
//! link         network 0 link 0 container 0 interface       1
//! released     protocol, port (2)                           1 0 milliseconds since boot
//! released-at  milliseconds since boot (8), protocol, port (2)   1
//! meta         schema                                       1
//! ```
//!
//! `0` is a NUL byte, which no name can hold; numbers in keys are big-endian,
//! the protocol is its IANA number in one byte, and the tag is 0 for any
//! address, 1 and 2 for any of IPv4 and IPv6, 4 and 6 before one address.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::lease::{Attachment, Forwarding, HostAddress, HostPort, Port, Protocol};

use super::StoreError;

/// The newest schema that is known, and the one that is written.
pub(super) const SCHEMA: u32 = 1;

/// The trees of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Attachment,
    Port,
    Network,
    Address,
    Pod,
    Link,
    Released,
    ReleasedAt,
    Meta,
}

impl Tree {
    /// Every tree, in the order of its number.
    pub(super) const ALL: [Self; 9] = [
        Self::Attachment,
        Self::Port,
        Self::Network,
        Self::Address,
        Self::Pod,
        Self::Link,
        Self::Released,
        Self::ReleasedAt,
        Self::Meta,
    ];

    /// Whether it is about attachments, which do not outlive the boot.
    pub(super) fn is_of_boot(self) -> bool {
        self != Self::Meta
    }

    /// Its name in the database.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attachment => "attachment",
            Self::Port => "port",
            Self::Network => "network",
            Self::Address => "address",
            Self::Pod => "pod",
            Self::Link => "link",
            Self::Released => "released",
            Self::ReleasedAt => "released-at",
            Self::Meta => "meta",
        }
    }
}

/// Names with a NUL between each two.
pub(super) fn key<const N: usize>(names: [&str; N]) -> Vec<u8> {
    names.join("\0").into_bytes()
}

/// What all keys begin with whose first names are these.
pub(super) fn prefix<const N: usize>(names: [&str; N]) -> Vec<u8> {
    let mut prefix = key(names);
    prefix.push(0);
    prefix
}

/// The key of an attachment's record.
pub(super) fn attachment_key(owner: &Attachment) -> Vec<u8> {
    key([owner.container.as_str(), owner.interface.as_str(), owner.network.as_str()])
}

/// What the keys begin with of all that is held on a port.
pub(super) fn port_prefix(protocol: Protocol, port: Port) -> Vec<u8> {
    let [high, low] = port.number().to_be_bytes();
    vec![protocol.number(), high, low]
}

/// The key of a host port.
pub(super) fn port_key(port: &HostPort) -> Vec<u8> {
    let mut key = port_prefix(port.protocol, port.port);
    match port.address {
        HostAddress::Any => key.push(0),
        HostAddress::AnyV4 => key.push(1),
        HostAddress::AnyV6 => key.push(2),
        HostAddress::V4(address) => {
            key.push(4);
            key.extend(address.octets());
        }
        HostAddress::V6(address) => {
            key.push(6);
            key.extend(address.octets());
        }
    }
    key
}

/// The host port of such a key.
pub(super) fn read_port_key(key: &[u8]) -> Option<HostPort> {
    let (&[protocol, high, low, tag], address) = key.split_first_chunk()?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.number() == protocol)?;
    let port = Port::new(u16::from_be_bytes([high, low]))?;
    let address = match (tag, address.len()) {
        (0, 0) => HostAddress::Any,
        (1, 0) => HostAddress::AnyV4,
        (2, 0) => HostAddress::AnyV6,
        (4, _) => HostAddress::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
        (6, _) => HostAddress::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
        _ => return None,
    };
    Some(HostPort { protocol, port, address })
}

/// What the keys of all releases at this time begin with.
pub(super) fn released_at(at: Duration) -> [u8; 8] {
    milliseconds(at).to_be_bytes()
}

/// The time since boot does not reach the limit in half a billion years.
fn milliseconds(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// The key of a release, by its time.
pub(super) fn released_key(at: Duration, protocol: Protocol, port: Port) -> Vec<u8> {
    [released_at(at).as_slice(), &port_prefix(protocol, port)].concat()
}

/// A value: the schema, and what comes after it.
pub(super) fn stamp(schema: u32, content: &[&str]) -> Vec<u8> {
    let mut value = schema.to_string();
    for part in content {
        value.push('\0');
        value.push_str(part);
    }
    value.into_bytes()
}

/// What comes after the schema in a value.
pub(super) fn unstamp<'v>(
    tree: Tree,
    key: &[u8],
    value: &'v [u8],
) -> Result<Vec<&'v str>, StoreError> {
    let text = std::str::from_utf8(value).map_err(|_| damaged(tree, key))?;
    let mut parts = text.split('\0');
    let schema = parts.next().and_then(|schema| schema.parse().ok());
    supported(tree, key, schema.ok_or_else(|| damaged(tree, key))?)?;
    Ok(parts.collect())
}

/// The value of the port index.
pub(super) fn owner(attachment: &Attachment) -> Vec<u8> {
    let Attachment { network, container, interface } = attachment;
    stamp(SCHEMA, &[container.as_str(), interface.as_str(), network.as_str()])
}

/// The attachment of such a value.
pub(super) fn read_owner(key: &[u8], value: &[u8]) -> Result<Attachment, StoreError> {
    fn name<T: FromStr>(key: &[u8], name: &str) -> Result<T, StoreError> {
        name.parse().map_err(|_| damaged(Tree::Port, key))
    }
    let &[container, interface, network] = unstamp(Tree::Port, key, value)?.as_slice() else {
        return Err(damaged(Tree::Port, key));
    };
    Ok(Attachment {
        network: name(key, network)?,
        container: name(key, container)?,
        interface: name(key, interface)?,
    })
}

/// The value of the index of releases.
pub(super) fn released(at: Duration) -> Vec<u8> {
    stamp(SCHEMA, &[&milliseconds(at).to_string()])
}

/// The time of such a value.
pub(super) fn read_released(key: &[u8], value: &[u8]) -> Result<Duration, StoreError> {
    let parts = unstamp(Tree::Released, key, value)?;
    let time = parts.first().and_then(|time| time.parse().ok());
    time.map(Duration::from_millis).ok_or_else(|| damaged(Tree::Released, key))
}

/// The record of an attachment.
pub(super) fn forwarding(forwarding: &Forwarding) -> Vec<u8> {
    #[derive(Serialize)]
    struct Record<'f> {
        schema: u32,
        #[serde(flatten)]
        forwarding: &'f Forwarding,
    }
    let record = Record { schema: SCHEMA, forwarding };
    serde_json::to_vec(&record).expect("a forwarding's keys are text")
}

/// The forwarding of such a record.
pub(super) fn read_forwarding(key: &[u8], value: &[u8]) -> Result<Forwarding, StoreError> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let damage = |_| damaged(Tree::Attachment, key);
    let Schema { schema } = serde_json::from_slice(value).map_err(damage)?;
    supported(Tree::Attachment, key, schema)?;
    serde_json::from_slice(value).map_err(damage)
}

/// A record that cannot be understood.
pub(super) fn damaged(tree: Tree, key: &[u8]) -> StoreError {
    StoreError::Record { tree: tree.name(), key: String::from_utf8_lossy(key).into_owned() }
}

fn supported(tree: Tree, key: &[u8], schema: u32) -> Result<(), StoreError> {
    if schema <= SCHEMA {
        return Ok(());
    }
    let what = format!("record {:?} of {}", String::from_utf8_lossy(key), tree.name());
    Err(StoreError::Schema { what, found: schema, supported: SCHEMA })
}
