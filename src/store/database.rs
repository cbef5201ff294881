//! sled, as far as the store uses it: opened on a private copy, closed for good.

use std::{
    any::Any,
    fs::OpenOptions,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{StoreError, error::At, lock::lock_within, port_index::PortIndex, record, tree::Tree};

/// Small segments keep the copy small; the size is fixed once a file is written.
const SEGMENT_SIZE: usize = 64 * 1024;
/// In bytes; more than the trees of thousands of leases take.
const CACHE_CAPACITY: u64 = 8 * 1024 * 1024;
/// How long sled's threads may take to let go of the file.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Trees of schema 1, about releases of the boot.
const FORMER_TREES: [&str; 2] = ["released", "released-at"];
/// The key of the schema in `Tree::Meta`.
const SCHEMA_KEY: &[u8] = b"schema";
/// The newest schema of the trees together, and the one that is written. It changes
/// with every tree and kind of record that another version must not pass over: one
/// that knows only an older schema refuses the database. In schema 1 there may be
/// neither claims nor bitmaps.
pub(super) const SCHEMA: u32 = 2;

/// An open database in a private directory.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    db: sled::Db,
    trees: Vec<sled::Tree>,
    /// The bytes of all keys and values.
    live: u64,
    lineage: u64,
}

impl Database {
    /// Opens the database in the directory, or makes a new one there, in which
    /// that many bytes are known to live.
    pub(super) fn open(path: &Path, live: u64, lineage: u64) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_SIZE)
            .cache_capacity(CACHE_CAPACITY)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        // sled panics on some damage that it finds; the copy is private, so
        // nothing that is used later can be left half done.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            with_priority(|| {
                let db = config.open()?;
                let trees = Tree::ALL.iter().map(|tree| db.open_tree(tree.name()));
                let trees = trees.collect::<sled::Result<Vec<_>>>()?;
                Ok::<_, sled::Error>((db, trees))
            })
        }));
        let (db, trees) = match opened {
            Ok(opened) => opened.at("open", path)?,
            Err(panic) => {
                let message = message(panic.as_ref());
                return Err(StoreError::Panicked { path: path.to_owned(), message });
            }
        };
        let mut database = Self { path: path.to_owned(), db, trees, live, lineage };
        let stamp = database.tree(Tree::Meta).get(SCHEMA_KEY).at("read", path)?;
        match stamp.map(|stamp| record::read_schema(Tree::Meta, SCHEMA_KEY, &stamp)).transpose()? {
            Some(SCHEMA) => {}
            Some(1) => database.migrate_from_1()?,
            Some(found) => {
                let what = "the database".to_owned();
                return Err(StoreError::Schema { what, found, supported: SCHEMA });
            }
            None if database.db.was_recovered() => {
                return Err(record::damaged(Tree::Meta, SCHEMA_KEY));
            }
            None => database.put_schema()?,
        }
        Ok(database)
    }

    /// Makes what an earlier version wrote what this one reads: in this copy, so that
    /// readers see it too, and the next commit keeps it. Releases of its own kind are
    /// forgotten: they lack what is needed.
    fn migrate_from_1(&mut self) -> Result<(), StoreError> {
        for name in FORMER_TREES {
            self.db.drop_tree(name).at("write", &self.path)?;
        }
        for index in [PortIndex::Leases, PortIndex::Modules, PortIndex::Claims] {
            self.sum_up(index)?;
        }
        self.put_schema()?;
        self.live = self.count_live()?;
        Ok(())
    }

    fn put_schema(&mut self) -> Result<(), StoreError> {
        self.put(Tree::Meta, SCHEMA_KEY, &record::stamp(SCHEMA, &[]))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tree(&self, tree: Tree) -> &sled::Tree {
        &self.trees[tree as usize]
    }

    /// The bytes of all keys and values.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// What the content descends from: see `View::lineage`.
    pub(super) fn lineage(&self) -> u64 {
        self.lineage
    }

    /// Begins another lineage: the content no longer follows what came before.
    pub(super) fn begin_lineage(&mut self) {
        self.lineage = fastrand::u64(..);
    }

    /// Up to how many bytes of files are as they should be. sled's file never
    /// shrinks, and is copied for each commit. Beyond some slack, one that grew
    /// lease by lease is 6 times as large as what lives in it, a fresh one 3 times.
    pub(super) fn reasonable_size(&self) -> u64 {
        const SLACK: u64 = 1024 * 1024;
        const FACTOR: u64 = 5;
        SLACK + FACTOR * self.live
    }

    /// Puts a value under a key, in place of any that was there.
    pub(super) fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let old = self.tree(tree).insert(key, value).at("write", &self.path)?;
        self.forget(key, old.as_deref());
        self.live += (key.len() + value.len()) as u64;
        Ok(())
    }

    /// Puts down a key that says everything itself.
    pub(super) fn mark(&mut self, tree: Tree, key: &[u8]) -> Result<(), StoreError> {
        self.put(tree, key, &record::stamp(record::SCHEMA, &[]))
    }

    /// Removes a key, if it is there.
    pub(super) fn delete(&mut self, tree: Tree, key: &[u8]) -> Result<(), StoreError> {
        let old = self.tree(tree).remove(key).at("write", &self.path)?;
        self.forget(key, old.as_deref());
        Ok(())
    }

    fn forget(&mut self, key: &[u8], old: Option<&[u8]>) {
        let bytes = old.map_or(0, |old| key.len() + old.len());
        self.live = self.live.saturating_sub(bytes as u64);
    }

    /// Drops what does not outlive a boot. Claims do, but nobody uses them.
    pub(super) fn end_boot(&mut self) -> Result<(), StoreError> {
        self.end_uses()?;
        for tree in Tree::ALL.into_iter().filter(|tree| tree.is_of_boot()) {
            self.tree(tree).clear().at("write", &self.path)?;
        }
        self.live = self.count_live()?;
        Ok(())
    }

    fn count_live(&self) -> Result<u64, StoreError> {
        let mut live = 0;
        for name in self.db.tree_names() {
            let tree = self.db.open_tree(name).at("read", &self.path)?;
            for entry in &tree {
                let (key, value) = entry.at("read", &self.path)?;
                live += (key.len() + value.len()) as u64;
            }
        }
        Ok(live)
    }

    /// The same content in a fresh file: sled's only grows.
    pub(super) fn rebuild(&self, path: &Path) -> Result<Self, StoreError> {
        let fresh = Self::open(path, self.live, self.lineage)?;
        for name in self.db.tree_names() {
            let from = self.db.open_tree(&name).at("read", &self.path)?;
            let to = fresh.db.open_tree(&name).at("write", path)?;
            for entry in &from {
                let (key, value) = entry.at("read", &self.path)?;
                to.insert(key, value).at("write", path)?;
            }
        }
        Ok(Self { live: self.live, ..fresh })
    }

    /// Writes everything to the file and closes it. Dropping `sled::Db` returns
    /// before its threads have let go of the file, so this waits until sled's
    /// own lock on it can be taken.
    pub(super) fn close(self) -> Result<(), StoreError> {
        let Self { path, db, trees, .. } = self;
        db.flush().at("write", &path)?;
        drop(trees);
        drop(db);
        let file = path.join("db");
        let file = OpenOptions::new().read(true).open(&file).at("open", &file)?;
        match lock_within(file, CLOSE_TIMEOUT).at("lock", &path)? {
            Some(_) => Ok(()),
            None => Err(StoreError::Closing { path, timeout: CLOSE_TIMEOUT }),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Runs `open` on a real-time thread, where that is allowed.
///
/// sled's first thread pool is started by one thread while those it starts spin
/// until it is done; with 2 cores they take its place, and opening takes 8 to
/// 10 ms. Under `SCHED_FIFO` it is not displaced (2.5 ms), and the threads it
/// starts do not inherit that. No safe crate wraps `sched_setscheduler`.
fn with_priority<T>(open: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            // Without CAP_SYS_NICE the flag cannot be taken back, but it can stay.
            if !set_policy(libc::SCHED_OTHER, 0) {
                set_policy(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0);
            }
        }
    }
    let _restore = raise_priority().then_some(Restore);
    open()
}

/// Puts the calling thread before all that are not real-time threads. Tells whether it was
/// one of those, and that is allowed.
pub(super) fn raise_priority() -> bool {
    // SAFETY: takes and returns plain integers; 0 is the calling thread.
    #[allow(unsafe_code)]
    let policy = unsafe { libc::sched_getscheduler(0) };
    policy == libc::SCHED_OTHER && set_policy(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)
}

/// Whether the calling thread now has the policy and priority.
fn set_policy(policy: libc::c_int, priority: libc::c_int) -> bool {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` lives through the call and is only read; 0 is the calling thread.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    result == 0
}
