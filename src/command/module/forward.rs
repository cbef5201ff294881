//! The forwarded ports of modules in the kernel: a table of their own, made like
//! that of a network.
//!
//! Limits: `127.0.0.1:PORT` is not forwarded. It would need `route_localnet` on
//! whatever link leads to the target, which may be the node's uplink, and stay when
//! the table that guards it is flushed. A target must send its replies back by this
//! node, as containers do. A route to it that changes is noticed by the next change
//! and by the operator's `restore`.

use std::collections::HashSet;

use super::super::{Error, Node, log_forgotten};
use crate::{
    host,
    lease::{Forwarding, ModuleLease, NetworkName},
    nat::{self, Element, Rules, Table, elements},
    store::View,
};

/// The table of the modules' forwarded ports; `lineage` is the store's.
#[must_use]
pub fn table(lineage: u64) -> Table {
    let not_loopback = ["ip", "daddr", "!=", "127.0.0.0/8"].map(str::to_owned);
    let conditions_v4 =
        nat::condition::parse_v4(&not_loopback).expect("the condition is one of nft's");
    // Marked whether or not a chain of others asks for it (`acceptIn`): modules are of no
    // conflist's network.
    let options =
        nat::Options { snat: true, conditions_v4, marks: true, lineage, ..nat::Options::default() };
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

/// Makes the table anew if it is not as it should be, and tells whether it was. Whoever
/// calls has something else to do, so that an error is logged.
pub(in super::super) fn heal(node: &mut Node, leases: &View) -> bool {
    let mut rebuild = || {
        let table = table(leases.lineage());
        let is_ill = match node.nat.rules(&table)? {
            Rules::Intact => false,
            Rules::Other => true,
            Rules::None => leases.module_leases()?.iter().any(|lease| lease.to.is_some()),
        };
        if is_ill {
            make_anew(node, &table, &forwardings(leases)?)?;
            node.tally.tables(1);
        }
        Ok::<_, Error>(is_ill)
    };
    rebuild().unwrap_or_else(|error| {
        log::warn!("cannot put the rules of modules back: {}", error.with_causes());
        false
    })
}

fn make_anew(node: &mut Node, table: &Table, all: &[Forwarding]) -> Result<(), Error> {
    log::info!("making table {} anew", table.name());
    Ok(node.nat.rebuild(table, all)?)
}

/// What must become of the table.
pub(super) struct Change {
    table: Table,
    /// All that was forwarded.
    before: Vec<Forwarding>,
    /// All that is to be.
    after: Vec<Forwarding>,
    /// What goes. Leaves the kernel before the store forgets whose it was.
    remove: Vec<Element>,
    /// What comes.
    add: Vec<Element>,
    /// Whether the table is as it was left; else all of it is made anew.
    is_intact: bool,
}

impl Change {
    /// From what was forwarded before to what the draft says.
    pub(super) fn compute(
        node: &mut Node,
        after: &View,
        before: Vec<Forwarding>,
    ) -> Result<Self, Error> {
        let table = table(after.lineage());
        let after = forwardings(after)?;
        let [had, has]: [HashSet<Element>; 2] =
            [&before, &after].map(|all| all.iter().flat_map(elements).collect());
        let kept: Vec<Element> = had.intersection(&has).cloned().collect();
        let is_intact = match node.nat.rules(&table)? {
            Rules::Intact => node.nat.compare(&table, &kept)?.is_empty(),
            // Nodes without forwarded ports need no table.
            Rules::None => before.is_empty() && after.is_empty(),
            Rules::Other => false,
        };
        let remove = had.difference(&has).cloned().collect();
        let add = has.difference(&had).cloned().collect();
        Ok(Self { table, before, after, remove, add, is_intact })
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
        if self.remove.is_empty() {
            return Ok(());
        }
        if node.nat.is_intact(&self.table)? {
            return Ok(node.nat.change(&self.table, &[], &self.remove)?);
        }
        make_anew(node, &self.table, &self.before)
    }

    /// Puts in what comes, or makes the table anew.
    pub(super) fn add(&self, node: &mut Node) -> Result<(), Error> {
        if !self.is_intact {
            return make_anew(node, &self.table, &self.after);
        }
        if self.add.is_empty() {
            return Ok(());
        }
        match node.nat.change(&self.table, &[], &self.add) {
            // A reload of the host's firewall came in between.
            Err(_) if !node.nat.is_intact(&self.table)? => {
                make_anew(node, &self.table, &self.after)
            }
            changed => Ok(changed?),
        }
    }

    /// Lets UDP flows find their new way, or none: see `host::Flows`.
    pub(super) fn forget_flows(&self, node: &mut Node) {
        // But for the link, which is the way there and not where it is.
        let key = |it: &Forwarding| (it.attachment.clone(), it.container, it.leases.clone());
        let is_absent_from =
            |all: &[Forwarding], one: &&Forwarding| !all.iter().any(|other| key(other) == key(one));
        let (before, after) = (&self.before, &self.after);
        log_forgotten(
            node.flows.forget_own(before.iter().filter(|one| is_absent_from(after, one))),
        );
        log_forgotten(
            node.flows.forget_others(after.iter().filter(|one| is_absent_from(before, one))),
        );
    }
}
