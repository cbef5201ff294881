//! Keys and values, as they are in the trees. Every value says which schema it
//! is of, so that a newer one is refused and not misread.
//!
//! ```text
//! tree          key                                          value
//! attachment    network 0 hash of the container (2)          container 0 interface: {"schema":1, …a Forwarding}
//! port          protocol, port (2) of 8                      PORT: 1 0 container 0 interface 0 network
//! held          protocol, high byte of the port              bits
//! address       network 0 address (4, 16) of 8               last byte, container 0 interface:
//! pod           namespace 0 hash of the name (2)             pod 0 container 0 interface 0 network:
//! link          network 0 link                               1 0 number of attachments
//! release       protocol, port (2) of 64                     protocol, port (2): 1 0 at 0 rested [0 module]
//! rested        rested (8) of 1,024                          rested (8), protocol, port (2):
//! claim         CLAIM                                        {"schema":1, …a Claim}
//! claim-port    protocol, port (2) of 8                      PORT: 1 0 CLAIM
//! claimed       protocol, high byte of the port              bits
//! claim-holder  container 0 interface 0 network 0 CLAIM      1
//! claim-expiry  seconds since the Unix epoch (8), CLAIM      1
//! module        module 0 protocol, port (2)                  {"schema":1, …a ModuleLease}
//! module-port   protocol, port (2) of 8                      PORT: 1 0 module
//! module-held   protocol, high byte of the port              bits
//! meta          schema                                       the schema of all trees together
//! meta          time                                         1 0 seconds since the Unix epoch
//! meta          place                                        1 0 ID 0 length 0 CRC-32 0 live bytes
//!
//! PORT  = protocol, port (2), tag, address (0, 4, 16)
//! CLAIM = namespace or nothing 0 claim 0 port name 0 protocol name
//! bits  = the byte 1, then 32 bytes: a bit for each port with that high byte
//! ```
//!
//! A value with a colon is a bucket of entries, here with their keys before the colon. The
//! first of 8 ports or addresses, which differ in the lowest three bits, is in the key of
//! the bucket (of 64 ports, or of 1,024 milliseconds), or a hash of which a node has about as many as it has containers: buckets
//! are to have a few entries each.
//!
//! `0` is a NUL byte, which no name can hold; numbers in keys are big-endian,
//! those in values decimal. The protocol is its IANA number in one byte, and the
//! tag is 0 for any address, 1 and 2 for any of IPv4 and IPv6, 4 and 6 before one
//! address. `at` and `rested` are milliseconds since boot.
//!
//! Trees up to `rested`, and `claim-holder`, are of the boot. `held`, `claimed` and
//! `module-held` sum up the ports of `port`, `claim-port` and `module-port`, whatever
//! the address, the lowest port in the lowest bit of the first byte; what has no bit
//! set is not there. The port in a key of `module` is the lowest of its block.
//! `rested` leads to the releases that are forgotten once the port has rested.
//! Each claim is either in `claim-holder` or in `claim-expiry`, there under 0
//! when nobody knew the time as it became unused.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::lease::{
    Attachment, Claim, ClaimKey, Forwarding, HostAddress, HostPort, ModuleId, ModuleLease,
    Namespace, NetworkName, Pod, Port, PortMap, Protocol, Release,
};

use super::{StoreError, database::Place, journal::Position, tree::Tree};

/// The newest schema of a value that is known, and the one that is written.
pub(super) const SCHEMA: u32 = 1;
/// The same in a byte.
const BITS_SCHEMA: u8 = 1;
/// What is the same of the last byte in a bucket of ports or addresses.
const BUCKET_MASK: u8 = 0xf8;
/// The same for releases.
const RELEASE_MASK: u8 = 0xc0;
/// In milliseconds.
const RESTED_SPAN: u64 = 1024;
/// How many bits of a hash are in the key of a bucket of a network's attachments.
const ATTACHMENT_BITS: u32 = 12;
/// The same for a namespace's pods.
const POD_BITS: u32 = 11;

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

/// The key of the bucket of a container's attachments to a network.
pub(super) fn attachment_bucket(network: &[u8], container: &[u8]) -> Vec<u8> {
    let mut bucket = network.to_vec();
    bucket.push(0);
    bucket.extend(hash::<ATTACHMENT_BITS>(container));
    bucket
}

/// The key of an attachment's record in its bucket.
pub(super) fn attachment_key(owner: &Attachment) -> Vec<u8> {
    key([owner.container.as_str(), owner.interface.as_str()])
}

/// The network of the key of a bucket of attachments.
pub(super) fn network_of(bucket: &[u8]) -> &[u8] {
    bucket.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// So many bits of a CRC-32, which is as good as random for names.
fn hash<const BITS: u32>(name: &[u8]) -> [u8; 2] {
    let [.., high, low] = (crc32fast::hash(name) & ((1 << BITS) - 1)).to_be_bytes();
    [high, low]
}

/// The key of the bucket of an address in a network.
pub(super) fn address_bucket(network: &NetworkName, address: IpAddr) -> Vec<u8> {
    let mut bucket = prefix([network.as_str()]);
    match address {
        IpAddr::V4(address) => bucket.extend(address.octets()),
        IpAddr::V6(address) => bucket.extend(address.octets()),
    }
    if let Some(last) = bucket.last_mut() {
        *last &= BUCKET_MASK;
    }
    bucket
}

/// What the keys begin with in it of all that is about the address.
pub(super) fn address_prefix(address: IpAddr) -> [u8; 1] {
    match address {
        IpAddr::V4(address) => [address.octets()[3]],
        IpAddr::V6(address) => [address.octets()[15]],
    }
}

/// The key of the bucket of a pod.
pub(super) fn pod_bucket(pod: &Pod) -> Vec<u8> {
    let mut bucket = prefix([pod.namespace.as_str()]);
    bucket.extend(hash::<POD_BITS>(pod.name.as_str().as_bytes()));
    bucket
}

/// The key of the bucket of a port.
pub(super) fn port_bucket(protocol: Protocol, port: Port) -> Vec<u8> {
    let [high, low] = port.number().to_be_bytes();
    vec![protocol.number(), high, low & BUCKET_MASK]
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

/// What the keys begin with of the releases that have rested at this time.
pub(super) fn rested_prefix(rested: Duration) -> [u8; 8] {
    milliseconds(rested).to_be_bytes()
}

/// The time since boot does not reach the limit in half a billion years.
fn milliseconds(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// The key of the bucket of a release, by its key.
pub(super) fn release_bucket(key: &[u8]) -> Vec<u8> {
    let mut bucket = key.to_vec();
    if let Some(last) = bucket.last_mut() {
        *last &= RELEASE_MASK;
    }
    bucket
}

/// The key of the bucket of the releases that have rested at this time.
pub(super) fn rested_bucket(rested: Duration) -> [u8; 8] {
    (milliseconds(rested) & !(RESTED_SPAN - 1)).to_be_bytes()
}

/// The key of a release, by the time until which the port rests.
pub(super) fn rested_key(rested: Duration, protocol: Protocol, port: Port) -> Vec<u8> {
    [rested_prefix(rested).as_slice(), &port_prefix(protocol, port)].concat()
}

/// The key of a port's bit.
pub(super) fn bits_key(protocol: Protocol, port: Port) -> [u8; 2] {
    let [high, _] = port.number().to_be_bytes();
    [protocol.number(), high]
}

/// The bits under such a key.
pub(super) fn bits(bits: [u8; PortMap::CHUNK_BYTES]) -> Vec<u8> {
    [&[BITS_SCHEMA], bits.as_slice()].concat()
}

/// The bits of such a value.
pub(super) fn read_bits(
    tree: Tree,
    key: &[u8],
    value: &[u8],
) -> Result<[u8; PortMap::CHUNK_BYTES], StoreError> {
    let (&schema, bits) = value.split_first().ok_or_else(|| damaged(tree, key))?;
    supported(tree, key, schema.into())?;
    bits.try_into().map_err(|_| damaged(tree, key))
}

/// The key of a claim's record.
pub(super) fn claim_key(claim: &ClaimKey) -> Vec<u8> {
    key(claim_names(claim))
}

fn claim_names(claim: &ClaimKey) -> [&str; 4] {
    let ClaimKey { namespace, claim, name, protocol } = claim;
    [namespace_name(namespace.as_ref()), claim.as_str(), name.as_str(), protocol.name()]
}

/// What the keys begin with of all claims of a namespace, or of none.
pub(super) fn namespace_prefix(namespace: Option<&Namespace>) -> Vec<u8> {
    prefix([namespace_name(namespace)])
}

/// No namespace has the empty name.
fn namespace_name(namespace: Option<&Namespace>) -> &str {
    namespace.map_or("", Namespace::as_str)
}

/// What the keys begin with of the claims that an attachment uses.
pub(super) fn holder_prefix(holder: &Attachment) -> Vec<u8> {
    prefix([holder.container.as_str(), holder.interface.as_str(), holder.network.as_str()])
}

/// The claim's key in such a key.
pub(super) fn claim_of_holder_key(key: &[u8]) -> Option<&[u8]> {
    const NAMES: usize = 3;
    key.splitn(NAMES + 1, |byte| *byte == 0).nth(NAMES)
}

/// What the keys begin with of the claims that expire at this time, in seconds
/// since the Unix epoch.
pub(super) fn expiry_prefix(expires: u64) -> [u8; 8] {
    expires.to_be_bytes()
}

/// The claim's key in a key that begins like this.
pub(super) fn claim_of_expiry_key(key: &[u8]) -> Option<&[u8]> {
    key.get(size_of::<u64>()..)
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

/// The schema that a value says.
pub(super) fn read_schema(tree: Tree, key: &[u8], value: &[u8]) -> Result<u32, StoreError> {
    let text = std::str::from_utf8(value).ok().and_then(|text| text.split('\0').next());
    text.and_then(|schema| schema.parse().ok()).ok_or_else(|| damaged(tree, key))
}

/// What comes after the schema in a value.
pub(super) fn unstamp<'v>(
    tree: Tree,
    key: &[u8],
    value: &'v [u8],
) -> Result<Vec<&'v str>, StoreError> {
    supported(tree, key, read_schema(tree, key, value)?)?;
    let text = std::str::from_utf8(value).map_err(|_| damaged(tree, key))?;
    Ok(text.split('\0').skip(1).collect())
}

/// The value of the port index.
pub(super) fn owner(attachment: &Attachment) -> Vec<u8> {
    let Attachment { network, container, interface } = attachment;
    stamp(SCHEMA, &[container.as_str(), interface.as_str(), network.as_str()])
}

/// The attachment of such a value.
pub(super) fn read_owner(key: &[u8], value: &[u8]) -> Result<Attachment, StoreError> {
    let &[container, interface, network] = unstamp(Tree::Port, key, value)?.as_slice() else {
        return Err(damaged(Tree::Port, key));
    };
    Ok(Attachment {
        network: name(Tree::Port, key, network)?,
        container: name(Tree::Port, key, container)?,
        interface: name(Tree::Port, key, interface)?,
    })
}

fn name<T: FromStr>(tree: Tree, key: &[u8], name: &str) -> Result<T, StoreError> {
    name.parse().map_err(|_| damaged(tree, key))
}

/// The value of the index of claims by port.
pub(super) fn claim_of_port(claim: &ClaimKey) -> Vec<u8> {
    stamp(SCHEMA, &claim_names(claim))
}

/// The claim of such a value.
pub(super) fn read_claim_of_port(key: &[u8], value: &[u8]) -> Result<ClaimKey, StoreError> {
    const TREE: Tree = Tree::ClaimPort;
    let &[namespace, claim, port, protocol] = unstamp(TREE, key, value)?.as_slice() else {
        return Err(damaged(TREE, key));
    };
    Ok(ClaimKey {
        namespace: match namespace {
            "" => None,
            namespace => Some(name(TREE, key, namespace)?),
        },
        claim: name(TREE, key, claim)?,
        name: name(TREE, key, port)?,
        protocol: Protocol::from_name(protocol).ok_or_else(|| damaged(TREE, key))?,
    })
}

/// A number as a value.
pub(super) fn number(number: u64) -> Vec<u8> {
    stamp(SCHEMA, &[&number.to_string()])
}

/// The number of such a value.
pub(super) fn read_number(tree: Tree, key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let &[number] = unstamp(tree, key, value)?.as_slice() else { return Err(damaged(tree, key)) };
    number.parse().map_err(|_| damaged(tree, key))
}

/// What a database says about itself.
pub(super) fn place(place: Place) -> Vec<u8> {
    let Place { position: Position { id, length, crc32 }, live } = place;
    let numbers = [id, length, crc32.into(), live].map(|number| number.to_string());
    stamp(SCHEMA, &numbers.each_ref().map(String::as_str))
}

/// What such a value says.
pub(super) fn read_place(tree: Tree, key: &[u8], value: &[u8]) -> Result<Place, StoreError> {
    let damage = || damaged(tree, key);
    let numbers: Result<Vec<u64>, _> =
        unstamp(tree, key, value)?.into_iter().map(str::parse).collect();
    let Ok(&[id, length, crc32, live]) = numbers.as_deref() else { return Err(damage()) };
    let crc32 = u32::try_from(crc32).map_err(|_| damage())?;
    Ok(Place { position: Position { id, length, crc32 }, live })
}

/// The last field of a release of a module's.
const BY_MODULE: &str = "module";

/// The value of a release.
pub(super) fn release(release: Release) -> Vec<u8> {
    let Release { at, rested, by_module } = release;
    let (at, rested) = (milliseconds(at).to_string(), milliseconds(rested).to_string());
    let fields = [at.as_str(), rested.as_str(), BY_MODULE];
    stamp(SCHEMA, if by_module { &fields } else { &fields[..2] })
}

/// The release of such a value.
pub(super) fn read_release(key: &[u8], value: &[u8]) -> Result<Release, StoreError> {
    let damage = || damaged(Tree::Release, key);
    let (at, rested, by_module) = match *unstamp(Tree::Release, key, value)?.as_slice() {
        [at, rested] => (at, rested, false),
        [at, rested, BY_MODULE] => (at, rested, true),
        _ => return Err(damage()),
    };
    let time = |time: &str| time.parse().map(Duration::from_millis).map_err(|_| damage());
    Ok(Release { at: time(at)?, rested: time(rested)?, by_module })
}

/// The record of an attachment.
pub(super) fn forwarding(forwarding: &Forwarding) -> Vec<u8> {
    json(forwarding)
}

/// The forwarding of such a record.
pub(super) fn read_forwarding(key: &[u8], value: &[u8]) -> Result<Forwarding, StoreError> {
    read_json(Tree::Attachment, key, value)
}

/// The record of a claim.
pub(super) fn claim(claim: &Claim) -> Vec<u8> {
    json(claim)
}

/// The claim of such a record.
pub(super) fn read_claim(key: &[u8], value: &[u8]) -> Result<Claim, StoreError> {
    read_json(Tree::Claim, key, value)
}

/// The key of what a module holds, by the lowest port of the block.
pub(super) fn module_key(module: &ModuleId, protocol: Protocol, first: Port) -> Vec<u8> {
    [module_prefix(module), port_prefix(protocol, first)].concat()
}

/// What the keys begin with of all that a module holds.
pub(super) fn module_prefix(module: &ModuleId) -> Vec<u8> {
    prefix([module.as_str()])
}

/// The record of what a module holds.
pub(super) fn module_lease(lease: &ModuleLease) -> Vec<u8> {
    json(lease)
}

/// The lease of such a record.
pub(super) fn read_module_lease(key: &[u8], value: &[u8]) -> Result<ModuleLease, StoreError> {
    read_json(Tree::Module, key, value)
}

/// The value of the index of modules by port.
pub(super) fn module_of_port(module: &ModuleId) -> Vec<u8> {
    stamp(SCHEMA, &[module.as_str()])
}

/// The module of such a value.
pub(super) fn read_module_of_port(key: &[u8], value: &[u8]) -> Result<ModuleId, StoreError> {
    const TREE: Tree = Tree::ModulePort;
    let &[module] = unstamp(TREE, key, value)?.as_slice() else { return Err(damaged(TREE, key)) };
    name(TREE, key, module)
}

fn json<T: Serialize>(content: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Record<'c, T> {
        schema: u32,
        #[serde(flatten)]
        content: &'c T,
    }
    serde_json::to_vec(&Record { schema: SCHEMA, content }).expect("a record's keys are text")
}

fn read_json<T: DeserializeOwned>(tree: Tree, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let damage = |_| damaged(tree, key);
    let Schema { schema } = serde_json::from_slice(value).map_err(damage)?;
    supported(tree, key, schema)?;
    serde_json::from_slice(value).map_err(damage)
}

/// A record that cannot be understood.
pub(super) fn damaged(tree: Tree, key: &[u8]) -> StoreError {
    StoreError::Record { tree: tree.name(), key: String::from_utf8_lossy(key).into_owned() }
}

pub(super) fn supported(tree: Tree, key: &[u8], schema: u32) -> Result<(), StoreError> {
    if schema <= SCHEMA {
        return Ok(());
    }
    let what = format!("record {:?} of {}", String::from_utf8_lossy(key), tree.name());
    Err(StoreError::Schema { what, found: schema, supported: SCHEMA })
}
