//! Private directories of writers and readers, and what killed ones left behind.

use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use fs2::FileExt;

use super::{StoreError, error::At};

const WRITING: &str = "writing.";
const READING: &str = "reading.";

/// A private directory, removed with all that is in it when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Locked, so that a writer can tell a reader that lives from one that was
    /// killed: a process ID may be used again, or be of another PID namespace.
    _alive: File,
}

impl Scratch {
    /// A directory for a writer, who holds the node's lock.
    pub(super) fn writing(dir: &Path) -> Result<Self, StoreError> {
        Self::create(dir, WRITING)
    }

    /// A directory for a reader, who holds no lock.
    pub(super) fn reading(dir: &Path) -> Result<Self, StoreError> {
        Self::create(dir, READING)
    }

    fn create(dir: &Path, prefix: &str) -> Result<Self, StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{prefix}{}.{count}", process::id()));
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
                return Ok(Self { path, _alive: alive });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                log::warn!("cannot remove {}: {e}", self.path.display());
            }
            _ => {}
        }
    }
}

/// Removes what killed writers and readers left. The caller holds the node's
/// lock, so there is no other writer; a reader that lives has locked its own.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        // Held until the directory is gone: one that a reader has just made and
        // not yet locked must not become its own under our hands.
        let _held = match lock_dead(&path) {
            _ if name.starts_with(WRITING) => None,
            Some(held) if name.starts_with(READING) => Some(held),
            _ => continue,
        };
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                log::warn!("cannot remove {}: {e}", path.display());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Locks a directory that nobody who lives has locked.
fn lock_dead(dir: &Path) -> Option<File> {
    File::open(dir).ok().filter(|dir| dir.try_lock_exclusive().is_ok())
}
