//! What the operator's `restore` does: makes kernel and files again what the store
//! says, for all networks.
//!
//! ```text
//! LOCK → compare → nft: one transaction for all tables → chains of others, sysctl → conntrack → files
//! ```
//!
//! Only what differs is touched, so that a second call has nothing to do. Killed at
//! any moment, it leaves less to do for the next one.

use std::path::PathBuf;

use super::{
    Error, compare::ComparedFolder, compare::Projection, log_forgotten, operate::Operator,
};
use crate::{
    host,
    lease::{ForeignChain, Forwarding, InterfaceName, NetworkName},
    nat::Table,
    publish,
    store::View,
};

/// What `restore` has done, or would do.
#[derive(Debug, Default)]
pub struct Restoration {
    /// The tables, sorted by network.
    pub tables: Vec<RestoredTable>,
    /// The links whose `route_localnet` is on again.
    pub links: Vec<InterfaceName>,
    /// The chains of others that let pass what is forwarded again.
    pub opened: Vec<ForeignChain>,
    /// The folders whose files are what they should be again.
    pub published: Vec<PathBuf>,
    /// The folders of containers that hold nothing, and whose files are gone.
    pub withdrawn: Vec<PathBuf>,
    /// What is worth knowing, and no fault.
    pub notes: Vec<String>,
    /// What could not be restored; the rest was.
    pub errors: Vec<Error>,
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredTable {
    /// Its name in the family `inet`.
    pub name: String,
    /// The network, where that is known.
    pub network: Option<NetworkName>,
    /// How many leases it forwards.
    pub leases: usize,
    /// Whether it was not as it should be, and so written.
    pub is_written: bool,
}

impl Operator<'_> {
    /// Looks what a call of [`Operator::restore`] would do. Takes no lock.
    pub fn plan_restore(&mut self) -> Result<Restoration, Error> {
        let leases = self.node.store.read()?;
        let projection = self.project(&leases)?;
        let links = projection.closed_links.keys().cloned().collect();
        let mut restoration = restoration(&projection);
        restoration.opened.clone_from(&projection.closed_chains);
        for folder in &projection.folders {
            match folder {
                ComparedFolder::Faulty(faulty) => {
                    restoration.published.push(faulty.publication.folder().to_owned());
                }
                ComparedFolder::Foreign(folder) => restoration.withdrawn.push(folder.clone()),
            }
        }
        Ok(Restoration { links, ..restoration })
    }

    /// Makes kernel and files what the store says, under the lock. Fails when the
    /// store cannot be read or the kernel not be changed; goes on after all else.
    pub fn restore(&mut self) -> Result<Restoration, Error> {
        // Nothing is created on a node that never held anything.
        if !self.node.store.exists()? {
            let leases = self.node.store.read()?;
            return self.restore_from(&leases);
        }
        let mut lock = self.node.store.lock(self.lock_timeout)?;
        let draft = lock.begin()?;
        let restoration = self.restore_from(&draft)?;
        // What tables were given, CHECK must find in the store.
        if draft.begins_lineage() {
            draft.commit()?;
        }
        Ok(restoration)
    }

    fn restore_from(&mut self, leases: &View) -> Result<Restoration, Error> {
        let projection = self.project(leases)?;
        let mut restoration = restoration(&projection);
        let ill = projection.tables.iter().filter(|table| !table.differences.is_empty());
        let tables: Vec<(&Table, &[Forwarding])> =
            ill.clone().map(|table| (&table.table, &*table.forwardings)).collect();
        self.node.nat.rebuild_all(&tables)?;
        // After the guard is in place, not before.
        for link in projection.closed_links.into_keys() {
            match host::enable_route_localnet(&link) {
                Ok(()) => restoration.links.push(link),
                Err(error) => restoration.errors.push(error.into()),
            }
        }
        for chain in projection.closed_chains {
            match self.node.nat.accept(&chain) {
                Ok(()) => restoration.opened.push(chain),
                Err(error) => restoration.errors.push(error.into()),
            }
        }
        // Flows that began meanwhile lead to the host itself, and would go on so.
        log_forgotten(self.node.flows.forget_others(ill.flat_map(|table| &table.forwardings)));
        for folder in projection.folders {
            match folder {
                ComparedFolder::Faulty(faulty) => {
                    let publication = &faulty.publication;
                    match publication.write(&self.node.run_dir) {
                        Ok(()) => restoration.published.push(publication.folder().to_owned()),
                        Err(error) => restoration.errors.push(error.into()),
                    }
                }
                ComparedFolder::Foreign(folder) => {
                    match publish::clear(&self.node.run_dir, &folder) {
                        Ok(()) => restoration.withdrawn.push(folder),
                        Err(error) => restoration.errors.push(error.into()),
                    }
                }
            }
        }
        Ok(restoration)
    }
}

/// The tables, and what is to be said of all of it.
fn restoration(projection: &Projection) -> Restoration {
    let tables = projection.tables.iter().map(|table| RestoredTable {
        name: table.table.name().to_owned(),
        network: table.network.clone(),
        leases: table.forwardings.iter().map(|held| held.leases.len()).sum(),
        is_written: !table.differences.is_empty(),
    });
    Restoration { tables: tables.collect(), notes: projection.notes(), ..Restoration::default() }
}
