//! Writing: what is committed, opened where nobody else does, changed, and committed.
//!
//! A commit is appended to the journal of the current generation. Where that cannot be
//! gone on with (there is none, it is damaged, of another boot or of another version),
//! the commit is a generation of its own. Either way the database is closed then and
//! left to the next writer, and its files become the next generation when the journal
//! has grown long.

use std::{ops::Deref, time::Duration};

use crate::lease::{Attachment, Forwarding, Owner};

use super::{
    Lock, StoreError, access,
    copy::copy_closed,
    database::Database,
    generation::{self, Appendix, open_base},
    journal::{self, Journal, Position, Start},
    publish::{self, Plan},
    scratch::{self, Scratch},
    seal::Seal,
    view::View,
    working,
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
    // Dropped in this order: the database, then its directory. There from the beginning
    // to the commit.
    view: View,
    scratch: Option<Scratch>,
    /// How a generation of its own would be published.
    plan: Plan,
    /// What the commit may be appended to.
    journal: Option<Appendix>,
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
        let (mut base, mut scratch) = open_base(store, Scratch::writing, true)?;
        let mut is_rebuilt = false;
        if base.bloated {
            // Where this fails, the disk may be full, the old file still serves.
            match rebuild(&base.database, &scratch) {
                Ok(rebuilt) => {
                    (base.database, scratch) = rebuilt;
                    is_rebuilt = true;
                }
                Err(e) => log::warn!("cannot rebuild the database: {}", e.with_cause()),
            }
        }
        if !base.damaged.is_empty() {
            base.database.begin_lineage();
        }
        publish::remove_unlinked(&store.dir, &base.unlinked);
        if let Some(journal) = &mut base.journal {
            let generation = generation::path(&store.dir, journal.generation);
            journal.is_last |= is_rebuilt || !access::is_open_as(&store.dir, &generation)?;
        }
        let plan = Plan {
            number: base.next,
            base: base.number,
            damaged: base.damaged,
            durable: base.durable,
        };
        let view = View { database: Some(base.database) };
        Ok(Self { lock, view, scratch: Some(scratch), plan, journal: base.journal })
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
        database.put_attachment(forwarding)?;
        forwarding
            .leases
            .iter()
            .try_for_each(|lease| database.delete_release(&lease.host).map(drop))
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
            for (port, claim) in self.claim_keys_on(wanted.protocol, wanted.port)? {
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

    /// Makes this what the store holds. An error means that it does not.
    pub fn commit(mut self) -> Result<(), StoreError> {
        let database = self.view.database.take().expect("a draft has a database until here");
        let scratch = self.scratch.take().expect("a draft has a directory until here");
        if let Some(journal) = self.journal {
            return self.append(journal, database, scratch);
        }
        let start = Start::new(None);
        let content = Content::of(&database);
        database.close(start.position())?;
        match self.publish(start, content, &scratch) {
            Err(e) if e.takes_no_more() && publish::make_room(&self.lock.store.dir)? => {
                self.publish(start, content, &scratch)?;
            }
            published => published?,
        }
        self.leave(scratch);
        Ok(())
    }

    /// Commits by the journal. What fails after that costs time, and nothing else.
    fn append(
        &mut self,
        journal: Appendix,
        database: Database,
        scratch: Scratch,
    ) -> Result<(), StoreError> {
        let store = &self.lock.store;
        let generation = generation::path(&store.dir, journal.generation);
        if self.plan.durable && !journal.is_durable {
            publish::make_durable(&store.dir, journal.generation)?;
        }
        let changes = database.changes();
        let append = || journal::append(&generation, journal.end, changes, self.plan.durable);
        let end = match append() {
            Err(e) if e.takes_no_more() && publish::make_room(&store.dir)? => append()?,
            appended => appended?,
        };
        let content = Content::of(&database);
        if let Err(e) = database.close(end) {
            log::warn!("the next call has to copy the database: {}", e.with_cause());
            return Ok(());
        }
        if journal.is_last || is_long(end, content.live) {
            // Nothing is lost in a power cut that is not in the journal as well.
            self.plan.durable = false;
            if let Err(e) = self.publish(Start::new(Some(end)), content, &scratch) {
                log::warn!("the journal goes on: {}", e.with_cause());
            }
        }
        self.leave(scratch);
        Ok(())
    }

    /// Makes a generation of the closed database.
    fn publish(&self, start: Start, content: Content, scratch: &Scratch) -> Result<(), StoreError> {
        let Content { live, lineage } = content;
        let store = &self.lock.store;
        let new = Scratch::writing(&store.dir)?;
        let files = copy_closed(scratch.path(), new.path())?;
        Journal::create(new.path(), start)?;
        Seal::new(files, &store.boot, start.id, live, lineage).write(new.path())?;
        access::open_as(&store.dir, new.path())?;
        if self.plan.durable {
            Seal::sync(new.path())?;
        }
        publish::publish(&store.dir, new.path(), &self.plan)
    }

    /// Leaves the closed database to the next writer.
    fn leave(&self, closed: Scratch) {
        if let Some(work) = self.lock.store.work.as_deref().filter(|work| closed.is_in(work)) {
            working::give_back(work, &self.lock.store.dir, closed);
        }
    }

    /// The commit must survive a power cut.
    pub(super) fn make_durable(&mut self) {
        self.plan.durable = true;
    }

    /// Whether it must.
    #[cfg(test)]
    pub(super) fn is_durable(&self) -> bool {
        self.plan.durable
    }

    /// Removes an attachment's record and everything that leads to it.
    fn take_out(&mut self, owner: &Attachment) -> Result<Option<Forwarding>, StoreError> {
        let Some(forwarding) = self.view.forwarding(owner)? else {
            return Ok(None);
        };
        self.database_mut().delete_attachment(&forwarding)?;
        Ok(Some(forwarding))
    }

    pub(super) fn database(&self) -> &Database {
        self.view.database.as_ref().expect("a draft has a database until it is committed")
    }

    pub(super) fn database_mut(&mut self) -> &mut Database {
        self.view.database.as_mut().expect("a draft has a database until it is committed")
    }
}

/// What nobody changed goes to the next writer as it is.
impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let Some((database, scratch)) = self.view.database.take().zip(self.scratch.take()) else {
            return;
        };
        // A working copy beside a damaged journal is all there is.
        let end = self.journal.map(|journal| journal.end).or(database.position());
        let Some(end) = end.filter(|_| database.changes().is_empty()) else { return };
        match database.close(end) {
            Ok(()) => self.leave(scratch),
            Err(e) => log::warn!("the next call has to copy the database: {}", e.with_cause()),
        }
    }
}

impl Deref for Draft<'_> {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

/// What is known of a database when it is closed.
#[derive(Clone, Copy)]
struct Content {
    live: u64,
    lineage: u64,
}

impl Content {
    fn of(database: &Database) -> Self {
        Self { live: database.live(), lineage: database.lineage() }
    }
}

/// Whether a journal takes about as long to go through as it takes to copy the database,
/// of which so many bytes live.
fn is_long(end: Position, live: u64) -> bool {
    const SHORT: u64 = 64 * 1024;
    const LIVE_SHARE: u64 = 16;
    end.length > SHORT + live / LIVE_SHARE
}

/// The same content in a fresh file, in a directory of its own.
fn rebuild(database: &Database, beside: &Scratch) -> Result<(Database, Scratch), StoreError> {
    let scratch = beside.another()?;
    Ok((database.rebuild(scratch.path())?, scratch))
}
