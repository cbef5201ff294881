//! The forwarded ports of modules in the kernel: a table of their own, made like
//! that of a network.
//!
//! Limits: `127.0.0.1:PORT` is not forwarded. It would need `route_localnet` on
//! whatever link leads to the target, which may be the node's uplink, and stay when
//! the table that guards it is flushed. A target must send its replies back by this
//! node, as containers do.

use std::collections::HashSet;

use super::super::{Error, Node, log_forgotten};
use crate::{
    host,
    lease::{Forwarding, ModuleLease, NetworkName},
    nat::{self, Element, Table, elements},
    store::View,
};

/// The table of the modules' forwarded ports; `lineage` is the store's.
#[must_use]
pub fn table(lineage: u64) -> Table {
    let not_loopback = ["ip", "daddr", "!=", "127.0.0.0/8"].map(str::to_owned);
    let conditions_v4 =
        nat::condition::parse_v4(&not_loopback).expect("the condition is one of nft's");
    let options = nat::Options { snat: true, conditions_v4, lineage, ..nat::Options::default() };
    Table::new(&NetworkName::modules(), &options)
}

/// All that modules have forwarded, each block with the link that leads there now.
pub fn forwardings(leases: &View) -> Result<Vec<Forwarding>, Error> {
    let mut forwardings = Vec::new();
    for mut forwarding in leases.module_leases()?.iter().filter_map(ModuleLease::forwarding) {
        for address in forwarding.container.iter() {
            forwarding.link = host::link_to(address)?;
        }
        forwardings.push(forwarding);
    }
    Ok(forwardings)
}

/// What must become of the table.
pub(super) struct Change {
    table: Table,
    /// What goes. Leaves the kernel before the store forgets whose it was.
    remove: Vec<Element>,
    /// What comes.
    add: Vec<Element>,
    /// All that is to be there, where the table is not as it was left: all of it is
    /// made anew.
    anew: Option<Vec<Forwarding>>,
    gone: Vec<Forwarding>,
    new: Vec<Forwarding>,
}

impl Change {
    /// From what was forwarded before to what the draft says.
    pub(super) fn compute(
        node: &mut Node,
        after: &View,
        before: &[Forwarding],
    ) -> Result<Self, Error> {
        let table = table(after.lineage());
        let after = forwardings(after)?;
        let [had, has]: [HashSet<Element>; 2] =
            [before, &after].map(|all| all.iter().flat_map(elements).collect());
        let kept: Vec<Element> = had.intersection(&has).cloned().collect();
        // Nodes without forwarded ports need no table.
        let is_needed = !(before.is_empty() && after.is_empty());
        let is_intact = !is_needed
            || node.nat.is_intact(&table)? && node.nat.compare(&table, &kept)?.is_empty();
        // But for the link, which is the way there and not where it is.
        let key = |it: &Forwarding| (it.attachment.clone(), it.container, it.leases.clone());
        let is_absent_from =
            |all: &[Forwarding], one: &Forwarding| !all.iter().any(|other| key(other) == key(one));
        let gone = before.iter().filter(|one| is_absent_from(&after, one)).cloned().collect();
        let new = after.iter().filter(|one| is_absent_from(before, one)).cloned().collect();
        Ok(Self {
            table,
            remove: had.difference(&has).cloned().collect(),
            add: has.difference(&had).cloned().collect(),
            anew: (!is_intact).then_some(after),
            gone,
            new,
        })
    }

    /// Takes out what goes.
    pub(super) fn remove(&self, node: &mut Node) -> Result<(), Error> {
        if self.remove.is_empty() {
            return Ok(());
        }
        Ok(node.nat.change(&self.table, &self.remove, &[])?)
    }

    /// Puts back what went.
    pub(super) fn put_back(&self, node: &mut Node) -> Result<(), Error> {
        if self.remove.is_empty() || !node.nat.is_intact(&self.table)? {
            return Ok(());
        }
        Ok(node.nat.change(&self.table, &[], &self.remove)?)
    }

    /// Puts in what comes, or makes the table anew.
    pub(super) fn add(&self, node: &mut Node) -> Result<(), Error> {
        match &self.anew {
            Some(all) => {
                log::info!("making table {} anew", self.table.name());
                Ok(node.nat.rebuild(&self.table, all)?)
            }
            None if self.add.is_empty() => Ok(()),
            None => Ok(node.nat.change(&self.table, &[], &self.add)?),
        }
    }

    /// Lets UDP flows find their new way, or none: see `host::forget_others`.
    pub(super) fn forget_flows(&self) {
        log_forgotten(host::forget_own(&self.gone));
        log_forgotten(host::forget_others(&self.new));
    }
}
