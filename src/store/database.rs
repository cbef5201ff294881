//! sled, as far as the store uses it: opened in a private directory, closed for good.

use std::{
    any::Any,
    fs::{self, OpenOptions},
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    StoreError,
    error::At,
    journal::{Changes, Journal, Position},
    lock::lock_within,
    port_index::PortIndex,
    record,
    tree::Tree,
};

/// Small segments keep the copy small; the size is fixed once a file is written. Pages
/// that are larger than a quarter of one are files of their own.
const SEGMENT_SIZE: usize = 64 * 1024;
/// In bytes; more than the trees of thousands of leases take.
const CACHE_CAPACITY: u64 = 8 * 1024 * 1024;
/// How long sled's threads may take to let go of the file.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Trees of earlier schemas: of the first, about releases of the boot, and of the first
/// two, which led to what the keys of attachments say themselves now.
const FORMER_TREES: [&str; 3] = ["released", "released-at", "network"];
/// The key of the schema in `Tree::Meta`.
const SCHEMA_KEY: &[u8] = b"schema";
/// The key of the `Place` in `Tree::Meta`.
const PLACE_KEY: &[u8] = b"place";
/// The newest schema of the trees together, and the one that is written. It changes
/// with every tree and kind of record that another version must not pass over: one
/// that knows only an older schema refuses the database. In schema 1 there may be
/// neither claims nor bitmaps; in schema 1 and 2 each entry of an index is a value.
pub(super) const SCHEMA: u32 = 3;

/// What a closed database says about itself, for who opens it where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Up to where it holds what is in the journal.
    pub(super) position: Position,
    /// The bytes of all keys and values.
    pub(super) live: u64,
}

/// An open database in a private directory.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    db: sled::Db,
    trees: Vec<sled::Tree>,
    /// The bytes of all keys and values.
    live: u64,
    position: Option<Position>,
    lineage: u64,
    /// Whether its trees are as of an earlier version.
    is_former: bool,
    /// What was changed since it was opened, or its journal gone through.
    changes: Changes,
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
        let opened = without_panic(path, || {
            with_priority(|| {
                let db = config.open()?;
                let trees = Tree::ALL.iter().map(|tree| db.open_tree(tree.name()));
                let trees = trees.collect::<sled::Result<Vec<_>>>()?;
                Ok::<_, sled::Error>((db, trees))
            })
        })?;
        let (db, trees) = opened.at("open", path)?;
        let mut database = Self {
            path: path.to_owned(),
            db,
            trees,
            live,
            position: None,
            lineage,
            is_former: false,
            changes: Changes::default(),
        };
        match database.schema()? {
            Some(schema) => database.is_former = schema < SCHEMA,
            None if database.db.was_recovered() => {
                return Err(record::damaged(Tree::Meta, SCHEMA_KEY));
            }
            None => database.put_schema()?,
        }
        if let Some(place) = database.place()? {
            database.position = Some(place.position);
        }
        Ok(database)
    }

    /// Opens the database that somebody closed in this directory, if it is of this version.
    pub(super) fn open_working(path: &Path, lineage: u64) -> Result<Option<Self>, StoreError> {
        let mut database = Self::open(path, 0, lineage)?;
        let Some(place) = database.place()?.filter(|_| !database.is_former) else {
            return Ok(None);
        };
        database.live = place.live;
        Ok(Some(database))
    }

    /// Up to where it held what is in a journal when it was closed; none once it was gone
    /// on from there.
    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    /// Does again what is in the journal of the generation that this was copied from.
    pub(super) fn replay(&mut self, journal: &Journal) -> Result<(), StoreError> {
        for change in journal.changes() {
            let change = change?;
            let tree = Tree::ALL.into_iter().find(|tree| tree.name() == change.tree);
            // Those who make other trees make another schema.
            let tree = tree.ok_or_else(|| record::damaged(Tree::Meta, change.tree.as_bytes()))?;
            match change.value {
                Some(value) => self.put(tree, change.key, value)?,
                None => self.delete(tree, change.key)?,
            }
        }
        self.changes.clear();
        self.position = None;
        self.schema().map(drop)
    }

    /// The schema, which is not newer than what is known here.
    fn schema(&self) -> Result<Option<u32>, StoreError> {
        let stamp = self.get(Tree::Meta, SCHEMA_KEY)?;
        let Some(stamp) = stamp else { return Ok(None) };
        match record::read_schema(Tree::Meta, SCHEMA_KEY, &stamp)? {
            found if found > SCHEMA => {
                let what = "the database".to_owned();
                Err(StoreError::Schema { what, found, supported: SCHEMA })
            }
            0 => Err(record::damaged(Tree::Meta, SCHEMA_KEY)),
            schema => Ok(Some(schema)),
        }
    }

    fn place(&self) -> Result<Option<Place>, StoreError> {
        let place = self.get(Tree::Meta, PLACE_KEY)?;
        place.map(|place| record::read_place(Tree::Meta, PLACE_KEY, &place)).transpose()
    }

    /// Whether an earlier version wrote it: `migrate` comes before anything else.
    pub(super) fn is_former(&self) -> bool {
        self.is_former
    }

    /// Makes what an earlier version wrote what this one reads: in this copy, so that
    /// readers see it too, and the next commit keeps it. All indexes are made anew from
    /// the records. Releases are forgotten: those of schema 1 lack what is needed, and
    /// most ports rest for a minute only.
    pub(super) fn migrate(&mut self) -> Result<(), StoreError> {
        let attachments = self.all(Tree::Attachment, record::read_forwarding)?;
        self.tree(Tree::Attachment).clear().at("write", &self.path)?;
        let claims = self.all(Tree::Claim, record::read_claim)?;
        let modules = self.all(Tree::Module, record::read_module_lease)?;
        let of_releases = [Tree::Release, Tree::Rested];
        let indexes = Tree::ALL.into_iter().filter(|tree| tree.is_index());
        for tree in indexes.chain(of_releases) {
            self.tree(tree).clear().at("write", &self.path)?;
        }
        for name in FORMER_TREES {
            self.db.drop_tree(name).at("write", &self.path)?;
        }
        for forwarding in &attachments {
            self.put_attachment(forwarding)?;
        }
        for claim in &claims {
            let value = record::claim_of_port(&claim.key);
            claim.ports().try_for_each(|port| self.put_port(PortIndex::Claims, &port, &value))?;
        }
        for lease in &modules {
            let value = record::module_of_port(&lease.module);
            lease.ports().try_for_each(|port| self.put_port(PortIndex::Modules, &port, &value))?;
        }
        self.put_schema()?;
        self.live = self.count_live()?;
        Ok(())
    }

    /// All records of a tree.
    fn all<T>(
        &self,
        tree: Tree,
        read: fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let entry = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = entry.at("read", &self.path)?;
            read(&key, &value)
        };
        self.tree(tree).iter().map(entry).collect()
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

    /// The value under a key.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.tree(tree).get(key).at("read", &self.path)
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

    /// What was changed.
    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Whether its files are larger than they should be. sled's never shrink, and it looks
    /// at each segment as it opens them. A fresh one is less than twice as large as what
    /// lives in it.
    pub(super) fn is_bloated(&self, size: u64) -> bool {
        const SLACK: u64 = 1024 * 1024;
        size > SLACK + self.live * 5 / 2
    }

    /// Puts a value under a key, in place of any that was there.
    pub(super) fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.changes.push(tree.name(), key, Some(value));
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
        self.changes.push(tree.name(), key, None);
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
        fresh.db.flush().at("write", path)?;
        Ok(Self { live: self.live, changes: self.changes.clone(), ..fresh })
    }

    /// Writes everything to the file, and up to where it now holds what is in a journal,
    /// and closes it. Dropping `sled::Db` returns before its threads have let go of the
    /// file, so this waits until sled's own lock on it can be taken.
    pub(super) fn close(self, position: Position) -> Result<(), StoreError> {
        let Self { path, db, trees, live, .. } = self;
        let place = record::place(Place { position, live });
        // sled panics where the file system refuses what it does last.
        let flushed = without_panic(&path, move || {
            trees[Tree::Meta as usize].insert(PLACE_KEY, place)?;
            db.flush().map(drop)
        })?;
        flushed.at("write", &path)?;
        let file = path.join("db");
        let file = OpenOptions::new().read(true).open(&file).at("open", &file)?;
        match lock_within(file, CLOSE_TIMEOUT).at("lock", &path)? {
            Some(_) => Ok(()),
            None => Err(StoreError::Closing { path, timeout: CLOSE_TIMEOUT }),
        }
    }
}

/// Runs what calls sled, which panics on some damage and on some errors. Its files are
/// private, so nothing that is used later can be left half done.
fn without_panic<T>(path: &Path, call: impl FnOnce() -> T) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = message(panic.as_ref());
        StoreError::Panicked { path: path.to_owned(), message }
    })
}

/// The bytes of all files in a directory and below, where sled may be removing some.
pub(super) fn size_of(dir: &Path) -> Result<u64, StoreError> {
    let mut size = 0;
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let path = entry.path();
        size += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&path)?,
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            Err(e) => return Err(e).at("look at", &path),
        };
    }
    Ok(size)
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
