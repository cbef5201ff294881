//! Sets and maps: those that have a name, and those that are in one rule only.

use std::net::IpAddr;

use super::{CREATE, NEW_ELEMENTS, SUBSYSTEM, Writer, comment, data, entry};
use crate::{
    nat::{
        element::{Element, Kind, Set},
        rule::Value,
        transaction::ELEMENTS,
    },
    netlink::Request,
};

const NEW_SET: u16 = (SUBSYSTEM << 8) + 9;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const DESCRIPTION_SIZE: u16 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_SET_ID: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;

/// `NFT_SET_MAP`.
const MAP: u32 = 1 << 3;

/// `NFT_SET_*`.
const ANONYMOUS: u32 = 1;
const CONSTANT: u32 = 1 << 1;
const INTERVAL: u32 = 1 << 2;
/// `NFT_SET_ELEM_INTERVAL_END`: what is from there on is not in the set.
const INTERVAL_END: u32 = 1;
/// What the kernel makes a name of.
pub(super) const ANONYMOUS_NAME: &str = "__set%d";
/// `NFTNL_UDATA_SET_MERGE_ELEMENTS`.
const USERDATA_MERGE: u8 = 2;
/// `NFTNL_UDATA_SET_ELEM_FLAGS`: nft's sign of an interval without an end.
const USERDATA_FLAGS: u8 = 1;
const OPEN: u32 = 1;
/// nft's `BYTEORDER_INVALID`, that of a concatenation, and others.
const NO_ORDER: u32 = 0;
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;

/// `NFTNL_UDATA_SET_KEYBYTEORDER`.
const USERDATA_KEY_ORDER: u8 = 0;
/// `NFTNL_UDATA_SET_DATABYTEORDER`.
const USERDATA_DATA_ORDER: u8 = 1;
/// `NFTNL_UDATA_SET_KEY_TYPEOF`: an expression whose type the key has.
const USERDATA_KEY_TYPEOF: u8 = 3;
/// `NFTNL_UDATA_SET_DATA_INTERVAL`.
const USERDATA_DATA_INTERVAL: u8 = 6;
/// `NFTNL_UDATA_SET_TYPEOF_EXPR` and `NFTNL_UDATA_SET_TYPEOF_DATA`.
const TYPEOF_EXPRESSION: u8 = 0;
const TYPEOF_DATA: u8 = 1;
/// nft's `EXPR_CONCAT`.
const CONCATENATION: u32 = 13;

impl Writer {
    pub(super) fn add_set(&mut self, table: &str, set: Set) {
        self.sets += 1;
        let id = self.sets;
        let mut userdata = Vec::new();
        entry(&mut userdata, USERDATA_KEY_ORDER, &NO_ORDER.to_ne_bytes());
        if set.is_map() {
            entry(&mut userdata, USERDATA_DATA_ORDER, &BIG_ENDIAN.to_ne_bytes());
        }
        let mut concatenation = Vec::new();
        entry(&mut concatenation, TYPEOF_EXPRESSION, &CONCATENATION.to_ne_bytes());
        entry(&mut concatenation, TYPEOF_DATA, &[]);
        entry(&mut userdata, USERDATA_KEY_TYPEOF, &concatenation);
        if set.is_map() {
            entry(&mut userdata, USERDATA_DATA_INTERVAL, &0u32.to_ne_bytes());
        }
        let key = set.key();
        let message = self.message(NEW_SET, CREATE);
        message
            .text(SET_TABLE, table)
            .text(SET_NAME, set.name())
            .number(SET_FLAGS, if set.is_map() { MAP } else { 0 })
            .number(SET_KEY_TYPE, key.iter().fold(0, |kinds, kind| kinds << 6 | type_of(*kind)))
            .number(SET_KEY_LENGTH, key.iter().map(|kind| 4 * words(*kind)).sum());
        if let Some(data) = set.data() {
            message.number(SET_DATA_TYPE, type_of(data)).number(SET_DATA_LENGTH, length(data));
        }
        message.number(SET_ID, id).attribute(SET_USERDATA, &userdata);
    }

    /// Adds a set for one rule only, and returns its number.
    pub(super) fn add_anonymous_set(&mut self, table: &str, kind: Kind, values: &[Value]) -> u32 {
        let is_interval = values.iter().any(Value::is_range);
        let values: Vec<_> = values.iter().map(bounds).collect();
        let (elements, size) = if is_interval {
            intervals(values)
        } else {
            let elements = values.into_iter().map(|(value, _)| Bound { value, flag: None });
            let elements: Vec<_> = elements.collect();
            let size = elements.len();
            (elements, size)
        };
        let is_number = matches!(kind, Kind::Mark | Kind::Link);
        let mut userdata = Vec::new();
        let order = if is_number { HOST_ENDIAN } else { BIG_ENDIAN };
        entry(&mut userdata, USERDATA_KEY_ORDER, &order.to_ne_bytes());
        if is_interval {
            entry(&mut userdata, USERDATA_MERGE, &1u32.to_ne_bytes());
        }
        let flags = ANONYMOUS | CONSTANT | if is_interval { INTERVAL } else { 0 };
        self.sets += 1;
        let id = self.sets;
        self.message(NEW_SET, CREATE)
            .text(SET_TABLE, table)
            .text(SET_NAME, ANONYMOUS_NAME)
            .number(SET_FLAGS, flags)
            .number(SET_KEY_TYPE, type_of(kind))
            .number(SET_KEY_LENGTH, length(kind))
            .number(SET_ID, id)
            .nested(SET_DESCRIPTION, |description| {
                let size = u32::try_from(size).expect("a condition is short");
                description.number(DESCRIPTION_SIZE, size);
            })
            .attribute(SET_USERDATA, &userdata);
        for part in elements.chunks(ELEMENTS) {
            self.message(NEW_ELEMENTS, CREATE)
                .text(LIST_TABLE, table)
                .text(LIST_SET, ANONYMOUS_NAME)
                .number(LIST_SET_ID, id)
                .nested(LIST_ELEMENTS, |list| {
                    for bound in part {
                        write_bound(list, bound);
                    }
                });
        }
        id
    }
}

fn write_bound(list: &mut Request, Bound { value, flag }: &Bound) {
    list.nested(LIST_ELEMENT, |element| {
        if *flag == Some(Flag::End) {
            element.number(ELEMENT_FLAGS, INTERVAL_END);
        }
        data(element, ELEMENT_KEY, value);
        if *flag == Some(Flag::Open) {
            let mut userdata = Vec::new();
            entry(&mut userdata, USERDATA_FLAGS, &OPEN.to_ne_bytes());
            element.attribute(ELEMENT_USERDATA, &userdata);
        }
    });
}

/// Lists elements of a set; to be deleted, only by their keys.
pub(super) fn write_elements(
    message: &mut Request,
    table: &str,
    set: Set,
    elements: &[&Element],
    is_whole: bool,
) {
    message.text(LIST_TABLE, table).text(LIST_SET, set.name()).nested(LIST_ELEMENTS, |list| {
        for element in elements {
            list.nested(LIST_ELEMENT, |entry| {
                data(entry, ELEMENT_KEY, &element.key_bytes());
                if !is_whole {
                    return;
                }
                if set.is_map() {
                    data(entry, ELEMENT_DATA, &element.data_bytes());
                }
                if let Some(text) = element.comment() {
                    entry.attribute(ELEMENT_USERDATA, &comment(text));
                }
            });
        }
    });
}

/// An element of a set of intervals, which reaches to the next one.
struct Bound {
    value: Vec<u8>,
    flag: Option<Flag>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    /// From there on, nothing is in the set.
    End,
    /// From there on, everything is.
    Open,
}

/// Intervals by their bounds, and the size that nft tells of such a set.
fn intervals(mut values: Vec<(Vec<u8>, Vec<u8>)>) -> (Vec<Bound>, usize) {
    values.sort();
    let mut merged: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(values.len());
    for (first, last) in values {
        match merged.last_mut() {
            Some((_, end)) if after(end).is_none_or(|next| first <= next) => {
                if *end < last {
                    *end = last;
                }
            }
            _ => merged.push((first, last)),
        }
    }
    let begins_at_zero = merged.first().is_some_and(|(first, _)| first.iter().all(|b| *b == 0));
    let size = 2 * merged.len() + usize::from(!begins_at_zero);
    let mut bounds = Vec::with_capacity(size);
    if let (false, Some((first, _))) = (begins_at_zero, merged.first()) {
        bounds.push(Bound { value: vec![0; first.len()], flag: Some(Flag::End) });
    }
    for (first, last) in merged {
        let end = after(&last);
        let flag = end.is_none().then_some(Flag::Open);
        bounds.push(Bound { value: first, flag });
        bounds.extend(end.map(|value| Bound { value, flag: Some(Flag::End) }));
    }
    (bounds, size)
}

/// The next value; none after the greatest.
fn after(value: &[u8]) -> Option<Vec<u8>> {
    let mut next = value.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// The first and the last that a value stands for, in the bytes of registers.
pub(super) fn bounds(value: &Value) -> (Vec<u8>, Vec<u8>) {
    match value {
        Value::Prefix(prefix) => (octets(prefix.network()), octets(prefix.broadcast())),
        Value::Link(name) => {
            let padded = |padding| {
                let mut bytes = name.trim_end_matches('*').as_bytes().to_vec();
                bytes.resize(length(Kind::Link) as usize, padding);
                bytes
            };
            (padded(0), padded(if value.is_range() { 0xff } else { 0 }))
        }
        Value::Mark(mark) => (mark.to_ne_bytes().to_vec(), mark.to_ne_bytes().to_vec()),
        Value::Port(port) => (port.to_be_bytes().to_vec(), port.to_be_bytes().to_vec()),
        Value::Ports(first, last) => (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec()),
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The number by which nft knows the type of a value.
fn type_of(kind: Kind) -> u32 {
    match kind {
        Kind::V4 => 7,
        Kind::V6 => 8,
        Kind::Protocol => 12,
        Kind::Port => 13,
        Kind::Mark => 19,
        Kind::Link => 41,
    }
}

pub(super) fn length(kind: Kind) -> u32 {
    match kind {
        Kind::Protocol => 1,
        Kind::Port => 2,
        Kind::V4 | Kind::Mark => 4,
        Kind::V6 | Kind::Link => 16,
    }
}

/// How many registers of four bytes it takes.
pub(super) fn words(kind: Kind) -> u32 {
    length(kind).div_ceil(4)
}
