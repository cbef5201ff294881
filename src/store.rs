//! What the node holds: leases and their owners, on disk, one writer at a time.
//!
//! sled 0.34 opened by short-lived processes is left corrupt for good by
//! SIGKILL, and runtimes do kill plugins that take too long. So nothing that a process
//! opens with sled is what another relies on:
//!
//! ```text
//! <dir>/lock                      flock, held until store and kernel agree
//! <dir>/current → generation.42   a symbolic link, replaced by rename(2)
//! <dir>/durable → generation.40   the newest generation that was fsynced whole
//! <dir>/generation.42/            sled's files, and `seal`; never written again
//! <dir>/generation.42/journal     what was committed since, commit by commit
//! <dir>/generation.41/            the one before, kept to fall back on
//! <dir>/damaged.39/               set aside by a writer that fell back
//! <dir>/removed-<time>/           all of that, set aside by the operator
//! <dir>/writing.<pid>.<n>/        what a writer wrote, before it is a generation
//! <work>/working.<n>/             the database as the last writer closed it
//! <work>/writing.<pid>.<n>/       what a writer works on, flocked while it is in use
//! <work>/reading.<pid>.<n>/       a reader's copy, likewise
//! ```
//!
//! A writer takes the working copy, changes it, appends its changes to the journal, which
//! is the commit, closes the copy and leaves it to the next. Where there is none, as
//! after a writer was killed, it copies the generation and goes through the journal. Long
//! journals end with a new generation, made of the closed copy. A reader copies and goes
//! through the journal without the lock. So a commit takes about as long however much is
//! stored, and what sled wrote is only ever opened again after it was closed.
//!
//! `work` should be in memory: sled syncs its files, three times from opening to
//! closing, which on a disk is much of what a call takes and of no use for copies.
//! Where there is no room, `dir` will do.
//!
//! A `seal` holds the boot in which the generation was written, and the length and
//! CRC-32 of each of its files, so that damage shows when a generation is copied
//! and not when sled happens upon it. A journal has a CRC-32 for each commit.
//!
//! Leases of attachments die with the power, so most commits are not synced. Those that
//! change a claim, or what a module holds, are; the generation that their journal
//! belongs to is `durable` then. So is the first of every boot: it starts from `durable`
//! and drops what belonged to attachments.
//!
//! Limits: every reader copies the whole database, and sled goes through its table of
//! pages as it opens; it is meant for thousands of leases and not for millions. The file system must have flock and symbolic
//! links. The kernel and the published files are none of the store's business.

mod access;
mod aside;
mod attachment;
mod bucket;
mod claim;
mod copy;
mod database;
mod draft;
mod error;
mod generation;
mod inventory;
mod journal;
mod ledger;
mod lock;
mod module;
mod part;
mod port_index;
mod publish;
mod reader;
mod record;
mod release;
mod scratch;
mod seal;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod working;

use std::{
    fs::{self, DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

pub use draft::{Draft, Moment};
pub use error::StoreError;
pub use generation::CURRENT;
pub use inventory::{Generation, Inventory};
pub use journal::JOURNAL;
pub use lock::Lock;
pub use reader::Reader;
pub use view::View;

use error::At;

/// A directory that keeps what the node holds, seen from the running boot.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    boot: String,
    /// Where copies are opened, if not beside the generations.
    work: Option<PathBuf>,
}

impl Store {
    /// The store in `dir` (`dataDir`), while the machine runs the boot with this
    /// ID (`/proc/sys/kernel/random/boot_id`). Touches nothing.
    #[must_use]
    pub fn new(dir: PathBuf, boot_id: String) -> Self {
        Self { dir, boot: boot_id, work: None }
    }

    /// The same store, with copies opened below this directory, which is created
    /// (0700) where it is missing and should be on a file system in memory. Other
    /// stores may use it as well.
    #[must_use]
    pub fn working_in(self, work: PathBuf) -> Self {
        Self { work: Some(work), ..self }
    }

    /// The same store, with copies opened beside the generations: where a commit
    /// would need room.
    #[must_use]
    pub fn on_disk(&self) -> Self {
        Self { work: None, ..self.clone() }
    }

    /// Whether anything was ever committed here. DEL on a node that never held
    /// anything asks this first, and then creates nothing.
    pub fn exists(&self) -> Result<bool, StoreError> {
        for link in [CURRENT, generation::DURABLE] {
            let path = self.dir.join(link);
            match fs::symlink_metadata(&path) {
                Ok(_) => return Ok(true),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e).at("look for", &path),
            }
        }
        // Without links, the first generation is one that was never finished.
        Ok(generation::numbers(&self.dir)?.iter().any(|number| *number != 1))
    }

    /// Takes the node's lock, waiting for `timeout` at most; creates the
    /// directory (0700) and the lock file (0600) where they are missing.
    pub fn lock(&self, timeout: Duration) -> Result<Lock, StoreError> {
        create_dir(&self.dir)?;
        Lock::acquire(self.clone(), timeout)
    }

    /// Looks at what the store holds now: where nobody else is at work, at the working
    /// copy, under the lock; else as `read` does.
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> Result<T, StoreError> {
        if self.exists()?
            && let Ok(mut lock) = self.lock(Duration::ZERO)
            // What is wrong is found by a reader as well.
            && let Ok(draft) = lock.begin()
        {
            return Ok(look(&draft));
        }
        Ok(look(&*self.read()?))
    }

    /// What the store holds now, without the lock. A later commit does not
    /// change what has been read; a store that never was reads as empty.
    pub fn read(&self) -> Result<Reader, StoreError> {
        Reader::open(self)
    }
}

/// Creates the directory for root only, and the ones above it as usual. One that
/// is there is closed to all but root and those of its group that may read.
fn create_dir(dir: &Path) -> Result<(), StoreError> {
    const OTHERS: u32 = 0o027;
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        created => return created.at("create", dir),
    }
    let mode = fs::metadata(dir).at("look at", dir)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        let closed = mode & !OTHERS;
        log::warn!("{} was open to others: its mode is now {closed:o}", dir.display());
        fs::set_permissions(dir, Permissions::from_mode(closed)).at("close", dir)?;
    }
    Ok(())
}
