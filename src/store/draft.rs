//! Writing: a private copy of what is committed, changed, and published.

use std::{ops::Deref, time::Duration};

use crate::lease::{Attachment, Forwarding, Owner};

use super::{
    Lock, StoreError, access,
    copy::copy_closed,
    database::Database,
    generation::open_base,
    port_index::PortIndex,
    publish::{self, Plan},
    record,
    scratch::{self, Scratch},
    seal::Seal,
    tree::Tree,
    view::View,
};

/// When something happens, by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time since boot (`CLOCK_BOOTTIME`), for cool-downs.
    pub since_boot: Duration,
    /// Seconds since the Unix epoch: the time for people, and for claims.
    pub unix: u64,
}

/// What is to be committed. Dropped without a commit, it leaves nothing behind;
/// after an error of a change other than `Conflict` and `Claimed`, dropping it is
/// all that should be done with it.
#[derive(Debug)]
pub struct Draft<'lock> {
    lock: &'lock Lock,
    // Dropped in this order: the database, then its directory.
    view: View,
    scratch: Scratch,
    plan: Plan,
}

impl<'lock> Draft<'lock> {
    pub(super) fn begin(lock: &'lock mut Lock) -> Result<Self, StoreError> {
        let store = &lock.store;
        scratch::remove_leftovers(&store.dir)?;
        if let Some(work) = &store.work
            && let Err(e) = scratch::remove_leftovers(work)
        {
            log::warn!("{}", e.with_cause());
        }
        let (mut base, mut scratch) = open_base(store, Scratch::writing)?;
        if base.bloated {
            // Where this fails, the disk may be full, the old file still serves.
            match rebuild(&base.database, &scratch) {
                Ok(rebuilt) => (base.database, scratch) = rebuilt,
                Err(e) => log::warn!("cannot rebuild the database: {}", e.with_cause()),
            }
        }
        if !base.damaged.is_empty() {
            base.database.begin_lineage();
        }
        publish::remove_unlinked(&store.dir, &base.unlinked);
        let plan = Plan {
            number: base.next,
            base: base.number,
            damaged: base.damaged,
            durable: base.durable,
        };
        Ok(Self { lock, view: View { database: Some(base.database) }, scratch, plan })
    }

    /// Puts down what an attachment holds, in place of what it held before. Ports
    /// that it held and now does not have no cool-down: `remove` what was held
    /// first where that matters. A port that another owner holds is refused
    /// (`Conflict`), and so is one that a claim is about, other than the lease's
    /// own (`Claimed`): what is undone is undone claims first.
    pub fn insert(&mut self, forwarding: &Forwarding) -> Result<(), StoreError> {
        self.refuse_conflicts_of(forwarding)?;
        let owner = &forwarding.attachment;
        self.take_out(owner)?;
        let database = self.database_mut();
        let key = record::attachment_key(owner);
        database.put(Tree::Attachment, &key, &record::forwarding(forwarding))?;
        for lease in &forwarding.leases {
            database.put_port(PortIndex::Leases, &lease.host, &record::owner(owner))?;
            database.delete_release(&lease.host)?;
        }
        for (tree, key) in index_keys(forwarding) {
            database.mark(tree, &key)?;
        }
        Ok(())
    }

    fn refuse_conflicts_of(&self, forwarding: &Forwarding) -> Result<(), StoreError> {
        for lease in &forwarding.leases {
            let wanted = &lease.host;
            for (port, holder) in self.holders(wanted.protocol, wanted.port)? {
                let is_own =
                    matches!(&holder, Owner::Attachment(owner) if *owner == forwarding.attachment);
                if !is_own && port.conflicts_with(wanted) {
                    return Err(StoreError::Conflict { port, holder });
                }
            }
            for entry in self.claim_keys_on(wanted.protocol, wanted.port) {
                let (port, claim) = entry?;
                let is_own = lease.claim_key(forwarding.namespace()).as_ref() == Some(&claim);
                if !is_own && port.conflicts_with(wanted) {
                    return Err(StoreError::Claimed { port, claim });
                }
            }
        }
        Ok(())
    }

    /// Gives back all that an attachment holds: its ports begin to rest, as their
    /// leases say, and the claims that it uses become unused.
    pub fn remove(
        &mut self,
        owner: &Attachment,
        moment: Moment,
    ) -> Result<Option<Forwarding>, StoreError> {
        self.end_uses_by(owner, moment.unix)?;
        let Some(forwarding) = self.take_out(owner)? else {
            return Ok(None);
        };
        for lease in &forwarding.leases {
            if let Some(rest) = lease.rest {
                self.database_mut().put_release(&lease.host, rest, moment.since_boot, false)?;
            }
        }
        Ok(Some(forwarding))
    }

    /// Whether it fell back to an older generation, or on nothing, and so begins
    /// another lineage, which only a commit makes last.
    #[must_use]
    pub fn begins_lineage(&self) -> bool {
        self.plan.base.is_none() || !self.plan.damaged.is_empty()
    }

    /// Makes this what the store holds. An error means that it does not, with
    /// one exception: a disk that fails as it is synced, after the link moved, in
    /// the first commit of a boot.
    pub fn commit(mut self) -> Result<(), StoreError> {
        let database = self.view.database.take().expect("a draft has a database until here");
        let (live, lineage) = (database.live(), database.lineage());
        database.close()?;
        let store = &self.lock.store;
        let write = || {
            let new = Scratch::writing(&store.dir)?;
            let files = copy_closed(self.scratch.path(), new.path())?;
            Seal::new(files, &store.boot, live, lineage).write(new.path())?;
            access::open_as(&store.dir, new.path())?;
            if self.plan.durable {
                Seal::sync(new.path())?;
            }
            publish::publish(&store.dir, new.path(), &self.plan)
        };
        match write() {
            Err(e) if e.takes_no_more() && publish::make_room(&store.dir)? => write(),
            written => written,
        }
    }

    /// The commit must survive a power cut.
    pub(super) fn make_durable(&mut self) {
        self.plan.durable = true;
    }

    /// Removes an attachment's record and everything that leads to it.
    fn take_out(&mut self, owner: &Attachment) -> Result<Option<Forwarding>, StoreError> {
        let Some(forwarding) = self.view.forwarding(owner)? else {
            return Ok(None);
        };
        for lease in &forwarding.leases {
            self.database_mut().delete_port(PortIndex::Leases, &lease.host)?;
        }
        for (tree, key) in index_keys(&forwarding) {
            self.database_mut().delete(tree, &key)?;
        }
        self.database_mut().delete(Tree::Attachment, &record::attachment_key(owner))?;
        Ok(Some(forwarding))
    }

    pub(super) fn database(&self) -> &Database {
        self.view.database.as_ref().expect("a draft has a database until it is committed")
    }

    pub(super) fn database_mut(&mut self) -> &mut Database {
        self.view.database.as_mut().expect("a draft has a database until it is committed")
    }
}

impl Deref for Draft<'_> {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

/// The same content in a fresh file, in a directory of its own.
fn rebuild(database: &Database, beside: &Scratch) -> Result<(Database, Scratch), StoreError> {
    let scratch = beside.another()?;
    Ok((database.rebuild(scratch.path())?, scratch))
}

/// The keys under which the indexes name a forwarding's record.
fn index_keys(forwarding: &Forwarding) -> Vec<(Tree, Vec<u8>)> {
    let Attachment { network, container, interface } = &forwarding.attachment;
    let (network, container, interface) =
        (network.as_str(), container.as_str(), interface.as_str());
    let mut keys = vec![(Tree::Network, record::key([network, container, interface]))];
    for address in forwarding.container.iter() {
        let address = address.to_string();
        keys.push((Tree::Address, record::key([network, &address, container, interface])));
    }
    if let Some(pod) = &forwarding.pod {
        let (namespace, name) = (pod.namespace.as_str(), pod.name.as_str());
        let key = record::key([namespace, name, container, interface, network]);
        keys.push((Tree::Pod, key));
    }
    if let Some(link) = &forwarding.link {
        keys.push((Tree::Link, record::key([network, link.as_str(), container, interface])));
    }
    keys
}
