//! Private directories of writers and readers, and what killed ones left behind.

use std::{
    fs::{self, DirBuilder, File, FileTimes},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fs2::FileExt;

use super::{StoreError, database::size_of, error::At};

const WRITING: &str = "writing.";
const READING: &str = "reading.";

/// A private directory, removed with all that is in it when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Locked, so that a writer can tell a reader that lives from one that was
    /// killed: a process ID may be used again, or be of another PID namespace.
    alive: File,
    /// Whether it is no longer private.
    is_left: bool,
}

impl Scratch {
    /// A directory for a writer, who holds the lock of its store.
    pub(super) fn writing(dir: &Path) -> Result<Self, StoreError> {
        Self::create(dir, WRITING)
    }

    /// A directory for a reader, who holds no lock.
    pub(super) fn reading(dir: &Path) -> Result<Self, StoreError> {
        Self::create(dir, READING)
    }

    /// Makes a directory a writer's own, which others know under another name; none
    /// where it is not there, or not as it was left.
    pub(super) fn adopt(dir: &Path, known: &Path) -> Result<Option<Self>, StoreError> {
        let alive = match File::open(known) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.at("open", known)?,
        };
        // Before it has a name by which it could be taken for a leftover.
        alive.try_lock_exclusive().at("lock", known)?;
        let path = unused(dir, WRITING);
        fs::rename(known, &path).at("rename", known)?;
        let left = alive.metadata().and_then(|left| left.modified()).at("look at", &path)?;
        let scratch = Self { path, alive, is_left: false };
        Ok(Some(scratch).filter(|scratch| scratch.time().is_ok_and(|time| time == left)))
    }

    /// Leaves the directory to others, under this name.
    pub(super) fn leave(mut self, known: &Path) -> Result<(), StoreError> {
        let times = FileTimes::new().set_modified(self.time()?);
        self.alive.set_times(times).at("mark", &self.path)?;
        fs::rename(&self.path, known).at("rename", &self.path)?;
        self.is_left = true;
        Ok(())
    }

    /// What its time of change is set to when it is left: one that says how many bytes
    /// are in it. sled makes nothing of a file that is missing, and anything that comes
    /// or goes right below the directory sets another time.
    fn time(&self) -> Result<SystemTime, StoreError> {
        Ok(UNIX_EPOCH + Duration::from_secs(size_of(&self.path)?))
    }

    fn create(dir: &Path, prefix: &str) -> Result<Self, StoreError> {
        loop {
            let path = unused(dir, prefix);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                created => created.at("create", &path)?,
            }
            // A writer may take it for a leftover until it is locked.
            let alive = match File::open(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                opened => opened.at("open", &path)?,
            };
            match alive.try_lock_exclusive() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                locked => locked.at("lock", &path)?,
            }
            if path.exists() {
                return Ok(Self { path, alive, is_left: false });
            }
        }
    }

    /// Another one for a writer, beside this.
    pub(super) fn another(&self) -> Result<Self, StoreError> {
        Self::writing(self.path.parent().expect("it was made inside a directory"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was made in this directory.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        self.path.parent() == Some(dir)
    }

    /// Removes what is in it, to start over.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.path).at("list", &self.path)? {
            let path = entry.at("list", &self.path)?.path();
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.at("remove", &path)?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                log::warn!("cannot remove {}: {e}", self.path.display());
            }
            _ => {}
        }
    }
}

/// A name that no other directory of this process has or had.
fn unused(dir: &Path, prefix: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{prefix}{}.{count}", process::id()))
}

/// Removes what killed writers and readers left; nothing where there is no such
/// directory. Those that live have locked their own.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.at("list", dir)?,
    };
    for entry in entries {
        let path = entry.at("list", dir)?.path();
        if !is_scratch(&path) {
            continue;
        }
        // Held until it is gone, so that whoever has just created it notices.
        if let Some(_dead) = lock_dead(&path)
            && let Err(e) = fs::remove_dir_all(&path)
            && e.kind() != ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {e}", path.display());
        }
    }
    Ok(())
}

fn is_scratch(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(WRITING) || name.starts_with(READING)
}

/// Whether it is such a directory, and its process is no more.
pub(super) fn is_leftover(path: &Path) -> bool {
    is_scratch(path) && lock_dead(path).is_some()
}

/// The lock of a directory whose process is no more.
fn lock_dead(path: &Path) -> Option<File> {
    let dir = File::open(path).ok()?;
    dir.try_lock_exclusive().ok()?;
    Some(dir)
}
