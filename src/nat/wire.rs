//! Transactions as the kernel reads them: messages of `nf_tables`.
//!
//! Pure. Everything is written as `nft` 1.0.6 writes it, down to what nft keeps for
//! itself beside rules, sets and elements, so that `nft list` shows the same whoever
//! has made a table.
//!
//! ```text
//! userdata   (kind:u8 length:u8 value)…   numbers in host byte order
//! ```

mod expression;
mod set;

use self::{expression::Expressions, set::write_elements};
use super::{
    rule::{Family, Rule, Statement},
    transaction::{Base, ChainKind, ELEMENTS, Foreign, Hook, Step},
};
use crate::{lease::ForeignFamily, netlink::Request};

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) + 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) + 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) + 6;
const DELETE_RULE: u16 = (SUBSYSTEM << 8) + 8;
const NEW_ELEMENTS: u16 = (SUBSYSTEM << 8) + 12;
const DELETE_ELEMENTS: u16 = (SUBSYSTEM << 8) + 14;
/// `NLM_F_CREATE` and `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFTNL_UDATA_RULE_COMMENT` and `NFTNL_UDATA_SET_ELEM_COMMENT`.
const USERDATA_COMMENT: u8 = 0;

/// The messages of a transaction, and of each the number of the step that it is of.
pub(super) fn messages(steps: &[Step<'_>]) -> (Vec<Request>, Vec<usize>) {
    let mut writer = Writer::default();
    let mut steps_of = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        writer.step(step);
        steps_of.resize(writer.messages.len(), index);
    }
    (writer.messages, steps_of)
}

#[derive(Default)]
struct Writer {
    messages: Vec<Request>,
    /// Sets are known by numbers within a transaction.
    sets: u32,
}

impl Writer {
    fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::AddTable(table) => {
                self.message(NEW_TABLE, CREATE).text(TABLE_NAME, table).number(TABLE_FLAGS, 0);
            }
            Step::DeleteTable(table) => {
                self.message(DELETE_TABLE, 0).text(TABLE_NAME, table);
            }
            Step::AddSet(table, set) => self.add_set(table, *set),
            Step::AddChain(table, chain, base) => self.add_chain(table, chain, *base),
            Step::AddRule(table, rule) => {
                let Rule { chain, comment, statements } = rule;
                let place = Foreign { family: ForeignFamily::Inet, table, chain };
                self.add_rule(place, CREATE | APPEND, statements, comment);
            }
            Step::InsertRule(place, statements, comment) => {
                self.add_rule(*place, CREATE, statements, comment);
            }
            Step::DeleteRule(Foreign { family, table, chain }, handle) => {
                let handle = u64::from(*handle).to_be_bytes();
                self.message_of(*family, DELETE_RULE, 0)
                    .text(RULE_TABLE, table)
                    .text(RULE_CHAIN, chain)
                    .attribute(RULE_HANDLE, &handle);
            }
            Step::AddElements(table, set, elements) => {
                debug_assert!(elements.len() <= ELEMENTS);
                let message = self.message(NEW_ELEMENTS, CREATE);
                write_elements(message, table, *set, elements, true);
            }
            Step::DeleteElement(table, element) => {
                let message = self.message(DELETE_ELEMENTS, 0);
                // The kernel deletes by the key alone.
                write_elements(message, table, element.set(), &[element], false);
            }
        }
    }

    fn message(&mut self, kind: u16, flags: u16) -> &mut Request {
        self.message_of(ForeignFamily::Inet, kind, flags)
    }

    fn message_of(&mut self, family: ForeignFamily, kind: u16, flags: u16) -> &mut Request {
        let header = [family_number(family), 0, 0, 0];
        self.messages.push(Request::new(kind, flags, &header));
        self.messages.last_mut().expect("it was put there now")
    }

    fn add_chain(&mut self, table: &str, name: &str, base: Option<Base>) {
        let message = self.message(NEW_CHAIN, CREATE);
        message.text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
        let Some(Base { kind, hook, priority }) = base else { return };
        let kind = match kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let hook = match hook {
            Hook::Prerouting => 0,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        message.text(CHAIN_TYPE, kind).number(CHAIN_POLICY, ACCEPT).nested(CHAIN_HOOK, |at| {
            at.number(HOOK_NUMBER, hook).number(HOOK_PRIORITY, priority.cast_unsigned());
        });
    }

    /// The sets that have no name but in the rule come before it.
    fn add_rule(
        &mut self,
        Foreign { family, table, chain }: Foreign<'_>,
        flags: u16,
        statements: &[Statement],
        text: &str,
    ) {
        let mut message = Request::new(NEW_RULE, flags, &[family_number(family), 0, 0, 0]);
        message.text(RULE_TABLE, table).text(RULE_CHAIN, chain).nested(RULE_EXPRESSIONS, |list| {
            let is_of_one_family = match family {
                ForeignFamily::Inet => None,
                ForeignFamily::Ip => Some(Family::V4),
                ForeignFamily::Ip6 => Some(Family::V6),
            };
            Expressions::new(list, self, table, is_of_one_family).statements(statements);
        });
        message.attribute(RULE_USERDATA, &comment(text));
        self.messages.push(message);
    }
}

fn data(request: &mut Request, kind: u16, value: &[u8]) {
    request.nested(kind, |data| {
        data.attribute(DATA_VALUE, value);
    });
}

fn entry(userdata: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u8::try_from(value.len()).expect("what is kept beside is short");
    userdata.extend([kind, length]);
    userdata.extend(value);
}

fn comment(text: &str) -> Vec<u8> {
    let mut userdata = Vec::new();
    entry(&mut userdata, USERDATA_COMMENT, &[text.as_bytes(), &[0]].concat());
    userdata
}

/// `NFPROTO_*`.
pub(super) fn family_number(family: ForeignFamily) -> u8 {
    match family {
        ForeignFamily::Inet => 1,
        ForeignFamily::Ip => 2,
        ForeignFamily::Ip6 => 10,
    }
}
