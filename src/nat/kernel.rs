//! What the kernel holds of one table, read by netlink.
//!
//! `nft` would read whole tables for this, and its `get element` whole maps
//! (1.0.6); here only one table's rules and single elements are asked for.

use std::io;

use rustix::io::Errno;

use super::{
    element::{Element, Set},
    wire::SUBSYSTEM,
};
use crate::netlink::{Attributes, Message, Request, Socket};

const GET_TABLE: u16 = (SUBSYSTEM << 8) + 1;
const GET_CHAIN: u16 = (SUBSYSTEM << 8) + 4;
const GET_RULE: u16 = (SUBSYSTEM << 8) + 7;
const GET_ELEMENT: u16 = (SUBSYSTEM << 8) + 13;
/// `struct nfgenmsg`: `NFPROTO_INET`, version 0, no resource.
const HEADER: [u8; 4] = [1, 0, 0, 0];
/// The same for tables of every family.
const HEADER_OF_ALL: [u8; 4] = [0; 4];
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_USERDATA: u16 = 7;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
const DATA_VALUE: u16 = 1;
/// `NFTNL_UDATA_RULE_COMMENT` and `NFTNL_UDATA_SET_ELEM_COMMENT`.
const USERDATA_COMMENT: u8 = 0;

/// An element as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Empty in a set.
    pub(super) data: Vec<u8>,
    pub(super) comment: Option<String>,
}

/// A chain as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldChain {
    /// `NFPROTO_*`.
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    /// `NF_INET_*`, of a base chain.
    pub(super) hook: Option<u32>,
    /// `NF_DROP` or `NF_ACCEPT`, of a base chain.
    pub(super) policy: Option<u32>,
}

/// The names of the tables in the family `inet`.
pub(super) fn tables(socket: &mut Socket) -> io::Result<Vec<String>> {
    socket.dump(&Request::new(GET_TABLE, 0, &HEADER), |message| {
        let is_inet = message.body.first() == HEADER.first();
        let name = message.attributes(HEADER.len()).text(TABLE_NAME)?;
        is_inet.then(|| name.to_owned())
    })
}

/// Every chain of every table, without its rules.
pub(super) fn chains(socket: &mut Socket) -> io::Result<Vec<HeldChain>> {
    socket.dump(&Request::new(GET_CHAIN, 0, &HEADER_OF_ALL), |message| {
        let attributes = message.attributes(HEADER.len());
        let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        let hook = attributes.nested(CHAIN_HOOK);
        Some(HeldChain {
            family: *message.body.first()?,
            table: attributes.text(CHAIN_TABLE)?.to_owned(),
            name: attributes.text(CHAIN_NAME)?.to_owned(),
            hook: hook.and_then(|hook| hook.find(HOOK_NUMBER)).and_then(number),
            policy: attributes.find(CHAIN_POLICY).and_then(number),
        })
    })
}

/// A rule as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldRule {
    pub(super) chain: String,
    pub(super) comment: String,
    /// By which it is deleted.
    pub(super) handle: u32,
}

/// The chain and comment of every rule of a table; none when there is no table.
pub(super) fn rules(socket: &mut Socket, table: &str) -> io::Result<Vec<(String, String)>> {
    let rules = rules_of(socket, HEADER[0], table)?;
    Ok(rules.into_iter().map(|rule| (rule.chain, rule.comment)).collect())
}

/// The rules of a table of this family (`NFPROTO_*`).
pub(super) fn rules_of(socket: &mut Socket, family: u8, table: &str) -> io::Result<Vec<HeldRule>> {
    let mut request = Request::new(GET_RULE, 0, &[family, 0, 0, 0]);
    request.text(RULE_TABLE, table);
    socket.dump(&request, |message| {
        let attributes = message.attributes(HEADER.len());
        if attributes.text(RULE_TABLE) != Some(table) {
            return None;
        }
        let chain = attributes.text(RULE_CHAIN).unwrap_or_default().to_owned();
        let comment = attributes.find(RULE_USERDATA).and_then(comment).unwrap_or_default();
        // 64 bits on the wire, of which nftables' JSON has 32.
        let handle =
            attributes.find(RULE_HANDLE).and_then(|bytes| bytes.get(4..8)?.try_into().ok());
        let handle = handle.map(u32::from_be_bytes).unwrap_or_default();
        Some(HeldRule { chain, comment: comment.to_owned(), handle })
    })
}

/// The element under the same key; none when it, its set or the table is absent.
pub(super) fn element(
    socket: &mut Socket,
    table: &str,
    element: &Element,
) -> io::Result<Option<Held>> {
    let mut request = Request::new(GET_ELEMENT, 0, &HEADER);
    request.text(LIST_TABLE, table).text(LIST_SET, element.set().name()).nested(
        LIST_ELEMENTS,
        |list| {
            list.nested(LIST_ELEMENT, |entry| {
                entry.nested(ELEMENT_KEY, |key| {
                    key.attribute(DATA_VALUE, &element.key_bytes());
                });
            });
        },
    );
    let mut held = None;
    match socket.call(&request, |message| held = held.take().or_else(|| read(message))) {
        // INVAL: the set has keys of another form, in a table of another layout.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::INVAL)) => {
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(()) if held.is_none() => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "netlink reply holds no element"))
        }
        Ok(()) => Ok(held),
    }
}

/// Every element of a map or set, by its key; none when it or the table is absent.
pub(super) fn elements(
    socket: &mut Socket,
    table: &str,
    set: Set,
) -> io::Result<Vec<(Vec<u8>, Held)>> {
    let mut request = Request::new(GET_ELEMENT, 0, &HEADER);
    request.text(LIST_TABLE, table).text(LIST_SET, set.name());
    let lists = socket.dump(&request, |message| {
        let list = message.attributes(HEADER.len()).nested(LIST_ELEMENTS)?;
        let elements = list.filter(|entry| entry.kind == LIST_ELEMENT).filter_map(|entry| {
            let element = Attributes::new(entry.value);
            let key = element.nested(ELEMENT_KEY)?.find(DATA_VALUE)?.to_vec();
            Some((key, held(&element)))
        });
        Some(elements.collect::<Vec<_>>())
    });
    match lists {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(Vec::new()),
        lists => Ok(lists?.concat()),
    }
}

fn read(message: Message<'_>) -> Option<Held> {
    let list = message.attributes(HEADER.len()).nested(LIST_ELEMENTS)?;
    Some(held(&list.nested(LIST_ELEMENT)?))
}

fn held(element: &Attributes<'_>) -> Held {
    let data = element.nested(ELEMENT_DATA).and_then(|data| data.find(DATA_VALUE));
    Held {
        data: data.unwrap_or_default().to_vec(),
        comment: element.find(ELEMENT_USERDATA).and_then(comment).map(str::to_owned),
    }
}

/// The comment in what nft keeps beside a rule or an element.
///
/// ```text
/// userdata   (kind:u8 length:u8 value)…   a comment ends with a NUL
/// ```
fn comment(mut userdata: &[u8]) -> Option<&str> {
    loop {
        let (kind, length) = (*userdata.first()?, usize::from(*userdata.get(1)?));
        let value = userdata.get(2..2 + length)?;
        if kind == USERDATA_COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        userdata = &userdata[2 + length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_found_behind_other_userdata() {
        assert_eq!(comment(&[0, 3, b'a', b'b', 0]), Some("ab"));
        assert_eq!(comment(&[7, 1, 9, 0, 2, b'c', 0]), Some("c"));
        assert_eq!(comment(&[]), None);
        assert_eq!(comment(&[0, 3, b'a']), None);
        assert_eq!(comment(&[1, 0, 0]), None);
        assert_eq!(comment(&[0, 1, 0xff]), None);
    }

    #[test]
    fn replies_without_their_parts_hold_nothing() {
        for body in [&[][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 8, 0, 3, 0, 4, 0, 2, 0]] {
            assert_eq!(read(Message { kind: 0, flags: 0, sequence: 0, body }), None);
        }
    }
}
