//! What a rule is made of, as values of which each backend makes its own form:
//! [`super::json`] for `nft`, [`super::wire`] for the kernel.
//!
//! Pure. Only what the tables here need is there, so that both can say all of it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::element::Set;

/// A rule and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) comment: String,
    pub(super) statements: Vec<Statement>,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn includes(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// Which of a packet's two addresses or ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// A header with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Of whatever protocol.
    Any,
    Tcp,
    Udp,
    Sctp,
}

/// What is looked at of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    InputLink,
    OutputLink,
    Mark,
    Protocol,
    Address(Family, End),
    Port(Transport, End),
}

/// What a field may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Prefix(IpNetwork),
    /// A name; with `*` at its end, all that begin so.
    Link(String),
    Mark(u32),
    Port(u16),
    /// From the first to the last, compared with each.
    Ports(u16, u16),
}

impl Value {
    pub(super) fn is_range(&self) -> bool {
        match self {
            Self::Prefix(prefix) => !is_host(*prefix),
            Self::Link(name) => name.ends_with('*'),
            Self::Mark(_) | Self::Port(_) => false,
            Self::Ports(..) => true,
        }
    }
}

/// Whether it is of one address only.
pub(super) fn is_host(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
}

/// What a rule asks for or does, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `meta nfproto ipv4`
    IsOf(Family),
    /// `FIELD VALUE`, `FIELD != { VALUE, … }`: of the values, none covers another.
    Is { field: Field, negated: bool, values: Vec<Value> },
    /// `FIELD . … @SET`
    IsIn(Vec<Field>, Set),
    /// `ct status dnat`
    IsForwarded,
    /// `fib daddr type local`
    IsToHost,
    /// `meta mark & BITS == BITS`
    HasMark(u32),
    /// `meta mark set meta mark | BITS`
    SetMark(u32),
    /// `counter`
    Count,
    /// `accept`
    Accept,
    /// `drop`
    Drop,
    /// `jump CHAIN`
    Jump(&'static str),
    /// `masquerade`
    Masquerade,
    /// `dnat ip to FIELD . … map @ADDRESSES : FIELD . … map @PORTS`
    Forward { family: Family, key: Vec<Field>, addresses: Set, ports: Set },
}

impl Statement {
    pub(super) fn is(field: Field, value: Value) -> Self {
        Self::Is { field, negated: false, values: vec![value] }
    }

    pub(super) fn is_not(field: Field, value: Value) -> Self {
        Self::Is { field, negated: true, values: vec![value] }
    }
}
