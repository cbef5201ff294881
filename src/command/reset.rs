//! What the operator's `reset` does: takes everything of portclaim off the node, also
//! where the store cannot be read. It is the way out of error 105.
//!
//! ```text
//! LOCK → sysctl → nft: all tables → chains of others, conntrack → files → store set aside
//! ```
//!
//! Killed at any moment, it leaves a store that has moved or has not, and the next
//! call does the rest; so does `restore`, if that is what is wanted instead.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use super::{Error, log_forgotten, module, operate::Operator};
use crate::{
    host,
    lease::{ForeignChain, Forwarding, InterfaceName, ModuleLease},
    publish,
    store::{Lock, StoreError},
    tally,
};

/// What there is of portclaim on the node.
#[derive(Debug, Default)]
pub struct Inhabitants {
    /// The tables, by their names in the family `inet`.
    pub tables: Vec<String>,
    /// The chains of others that have a rule of ours.
    pub chains: Vec<ForeignChain>,
    /// What is held; none where the store cannot be read.
    pub forwardings: Option<Vec<Forwarding>>,
    /// What modules hold.
    pub modules: Vec<ModuleLease>,
    /// How many claims there are.
    pub claims: usize,
    /// The folders with published files.
    pub folders: Vec<PathBuf>,
}

/// What `reset` has done.
#[derive(Debug, Default)]
pub struct Reset {
    /// The tables that are gone.
    pub tables: Vec<String>,
    /// The chains of others that have no rule of ours any more.
    pub chains: Vec<ForeignChain>,
    /// How many leases were given back; none where the store could not be read.
    pub leases: Option<usize>,
    /// How many claims are kept.
    pub kept_claims: usize,
    /// The folders whose files are gone.
    pub folders: Vec<PathBuf>,
    /// The links whose `route_localnet` is off again.
    pub links: Vec<InterfaceName>,
    /// Links whose `route_localnet` is on, and nobody knows for whom.
    pub open_links: Vec<InterfaceName>,
    /// Where the store is now.
    pub set_aside: Option<PathBuf>,
    /// What could not be removed; the rest was.
    pub errors: Vec<Error>,
}

impl Operator<'_> {
    /// What [`Operator::reset`] would remove, and the claims and modules, which it may
    /// keep. Takes no lock.
    pub fn inhabitants(&mut self, keeps_claims: bool) -> Result<Inhabitants, Error> {
        let read = self.node.store.read().and_then(|leases| {
            let (forwardings, modules) = (leases.forwardings()?, leases.module_leases()?);
            Ok((Some(forwardings), modules, leases.claims()?.len()))
        });
        let (forwardings, modules, claims) = match read {
            Err(error) if is_unreadable(&error) => (None, Vec::new(), 0),
            read => read?,
        };
        let (mut tables, mut folders) = (self.tables()?, publish::folders(&self.node.run_dir)?);
        if keeps_claims {
            let table_of_modules = module::table(0);
            tables.retain(|table| table != table_of_modules.name());
            let kept = modules.iter().map(|lease| &lease.module);
            let kept: BTreeSet<_> =
                kept.map(|module| publish::module_folder(&self.node.run_dir, module)).collect();
            folders.retain(|folder| !kept.contains(folder));
        }
        let mut chains = Vec::new();
        // Configurations that are wrong must not keep anybody from this.
        for chain in self.accept_in().unwrap_or_default() {
            if self.node.nat.accepts(&chain)? == Some(true) {
                chains.push(chain);
            }
        }
        Ok(Inhabitants { tables, chains, forwardings, modules, claims, folders })
    }

    /// Removes everything, but for the claims and what modules hold, where those are to
    /// be kept. Fails when
    /// the lock cannot be had, the kernel not be changed, or the store not be set
    /// aside; goes on after all else.
    pub fn reset(&mut self, keeps_claims: bool) -> Result<Reset, Error> {
        // Nothing is created on a node that never held anything.
        let mut lock = match self.data_dir.try_exists() {
            Ok(false) => None,
            _ => Some(self.node.store.lock(self.lock_timeout)?),
        };
        if keeps_claims {
            // Before anything is changed: where they cannot be read, they cannot be kept.
            self.node.store.read()?.claims()?;
        }
        let Inhabitants { tables, chains, forwardings, modules, folders, .. } =
            self.inhabitants(keeps_claims)?;
        let mut reset = Reset {
            leases: forwardings.as_ref().map(|all| all.iter().map(|held| held.leases.len()).sum()),
            ..Reset::default()
        };
        let forwardings = forwardings.unwrap_or_default();
        let mut links: BTreeSet<_> =
            forwardings.iter().filter_map(|held| held.link.clone()).collect();
        // Modules' ports never have it turned on.
        let of_modules = module::table(0);
        for table in tables.iter().filter(|table| *table != of_modules.name()) {
            links.extend(self.node.nat.links(table)?);
        }
        // Before the guard is gone, not after.
        for link in links {
            match host::has_route_localnet(&link) {
                Ok(Some(true)) => match host::forget_route_localnet(&link) {
                    Ok(()) => reset.links.push(link),
                    Err(error) => reset.errors.push(error.into()),
                },
                Ok(_) => {}
                Err(error) => reset.errors.push(error.into()),
            }
        }
        self.node.nat.delete(&tables)?;
        reset.tables = tables;
        for chain in chains {
            match self.node.nat.accept_no_more(&chain) {
                Ok(()) => reset.chains.push(chain),
                Err(error) => reset.errors.push(error.into()),
            }
        }
        log_forgotten(self.node.flows.forget_own(&forwardings));
        if !keeps_claims {
            let forwarded: Vec<_> = modules.iter().filter_map(ModuleLease::forwarding).collect();
            log_forgotten(self.node.flows.forget_own(&forwarded));
        }
        for folder in folders {
            match publish::clear(&self.node.run_dir, &folder) {
                Ok(()) => reset.folders.push(folder),
                Err(error) => reset.errors.push(error.into()),
            }
        }
        if !keeps_claims && let Err(error) = tally::clear(&self.node.run_dir) {
            log::warn!("cannot remove what calls have left to be counted: {error}");
        }
        match host::links_with_route_localnet() {
            Ok(links) => reset.open_links = links,
            Err(error) => reset.errors.push(error.into()),
        }
        if let Some(lock) = &mut lock {
            if keeps_claims {
                reset.kept_claims = self.forget_leases(lock, &forwardings)?;
            } else {
                reset.set_aside = lock.set_aside(&self.stamp())?;
            }
        }
        Ok(reset)
    }

    /// Leaves claims and modules only. Nothing in the tables that are gone
    /// was of these, so the lineage may go on.
    fn forget_leases(&self, lock: &mut Lock, forwardings: &[Forwarding]) -> Result<usize, Error> {
        let mut draft = lock.begin()?;
        for forwarding in forwardings {
            draft.remove(&forwarding.attachment, self.moment)?;
        }
        let claims = draft.claims()?.len();
        draft.commit()?;
        Ok(claims)
    }

    /// The time in a name: `20261121T101500Z`.
    fn stamp(&self) -> String {
        let time = UNIX_EPOCH + Duration::from_secs(self.moment.unix);
        humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
    }
}

/// Whether nothing but setting it aside helps.
fn is_unreadable(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged { .. } | StoreError::Schema { .. } | StoreError::Record { .. }
    )
}
