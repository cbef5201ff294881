//! Transactions: what is to be changed, all of it or nothing, in this order.
//!
//! Pure. Each backend renders them in its own form.

use std::fmt;

use super::{
    element::{Element, Set},
    rule::{Rule, Statement},
};
use crate::lease::ForeignFamily;

/// The hook and the priority by which packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) kind: ChainKind,
    pub(super) hook: Hook,
    pub(super) priority: i32,
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainKind {
    Filter,
    Nat,
}

/// Where a base chain is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// A chain of a table of somebody else, as nft names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign<'a> {
    pub(super) family: ForeignFamily,
    pub(super) table: &'a str,
    pub(super) chain: &'a str,
}

/// One step of a transaction. Tables are of the family `inet` unless they are
/// somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Does nothing where the table is there.
    AddTable(&'a str),
    DeleteTable(&'a str),
    AddSet(&'a str, Set),
    AddChain(&'a str, &'static str, Option<Base>),
    AddRule(&'a str, &'a Rule),
    /// At most [`ELEMENTS`] of one set.
    AddElements(&'a str, Set, Vec<&'a Element>),
    DeleteElement(&'a str, &'a Element),
    /// Before all others of the chain.
    InsertRule(Foreign<'a>, Vec<Statement>, &'static str),
    /// By its handle.
    DeleteRule(Foreign<'a>, u32),
}

/// How many elements of a set a step or a message may have: in netlink, they share an
/// attribute of at most 64 KiB, and the largest takes 200 bytes.
pub(super) const ELEMENTS: usize = 256;

/// What it changes, to be read in an error.
impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable(table) | Self::DeleteTable(table) => write!(f, "table inet {table}"),
            Self::AddSet(table, set) => write!(f, "{} of table inet {table}", named(*set)),
            Self::AddChain(table, chain, _) => write!(f, "chain {chain} of table inet {table}"),
            Self::AddRule(table, Rule { chain, comment, .. }) => {
                write!(f, "rule \"{comment}\" in chain {chain} of table inet {table}")
            }
            Self::AddElements(table, set, elements) => match elements[..] {
                [element] => {
                    write!(f, "element {element} of {} of table inet {table}", named(*set))
                }
                _ => write!(f, "elements of {} of table inet {table}", named(*set)),
            },
            Self::DeleteElement(table, element) => {
                write!(f, "element {element} of {} of table inet {table}", named(element.set()))
            }
            Self::InsertRule(Foreign { family, table, chain }, ..)
            | Self::DeleteRule(Foreign { family, table, chain }, _) => {
                write!(f, "rule in chain {chain} of table {} {table}", family.name())
            }
        }
    }
}

fn named(set: Set) -> String {
    format!("{} {}", if set.is_map() { "map" } else { "set" }, set.name())
}
