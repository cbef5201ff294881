//! The seal of a generation: when it was written, and what its files hold.
//!
//! ```text
//! {"schema":2,"boot":"4b5c…","id":…,"live":740,"lineage":…,"files":{"conf":{"length":61,"crc32":…},"db":{…}}}
//! ```
//!
//! A copy is checked against it, so a torn, truncated or overwritten generation
//! is found out before sled opens it: sled takes the end of a torn log for the
//! end of the log, and what came after would be lost without a word.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{StoreError, error::At};

/// The name of the file.
const SEAL: &str = "seal";
/// The newest schema of generations, and the one that is written. In schema 1 there are
/// no journals: what knows only that one would pass over what is in them.
const SCHEMA: u32 = 2;

/// The length and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) length: u64,
    pub(super) crc32: u32,
}

impl Sum {
    /// Reads to the end, handing on what is read.
    pub(super) fn of(
        mut from: impl Read,
        mut to: impl FnMut(&[u8]) -> Result<(), StoreError>,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let mut hasher = crc32fast::Hasher::new();
        let mut length = 0;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                read => read.at("read", path)?,
            };
            if read == 0 {
                return Ok(Self { length, crc32: hasher.finalize() });
            }
            hasher.update(&buffer[..read]);
            length += read as u64;
            to(&buffer[..read])?;
        }
    }
}

/// What a generation says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    schema: u32,
    /// The ID of the boot in which it was written.
    pub(super) boot: String,
    /// A number that no other generation has; its journal begins with it. None in
    /// schema 1, where there was no journal.
    pub(super) id: Option<u64>,
    /// The bytes of the keys and values in its database.
    pub(super) live: u64,
    /// What it descends from: see `View::lineage`.
    pub(super) lineage: u64,
    /// Its files, by their path inside the generation.
    pub(super) files: BTreeMap<PathBuf, Sum>,
}

impl Seal {
    /// The seal of these files, by their path inside the generation.
    pub(super) fn new(
        files: BTreeMap<PathBuf, Sum>,
        boot: &str,
        id: u64,
        live: u64,
        lineage: u64,
    ) -> Self {
        Self { schema: SCHEMA, boot: boot.to_owned(), id: Some(id), live, lineage, files }
    }

    /// Reads and checks the seal of a generation.
    pub(super) fn read(dir: &Path) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let path = dir.join(SEAL);
        let text = match fs::read(&path) {
            // EIO is what a broken disk says.
            Err(e)
                if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                    || e.raw_os_error() == Some(libc::EIO) =>
            {
                return Err(StoreError::Seal { path });
            }
            read => read.at("read", &path)?,
        };
        match serde_json::from_slice::<Schema>(&text) {
            Ok(Schema { schema }) if schema > SCHEMA => {
                let what = path.display().to_string();
                return Err(StoreError::Schema { what, found: schema, supported: SCHEMA });
            }
            _ => {}
        }
        let Ok(seal) = serde_json::from_slice::<Self>(&text) else {
            return Err(StoreError::Seal { path });
        };
        let inside = |path: &PathBuf| path.components().all(|c| matches!(c, Component::Normal(_)));
        if seal.files.keys().all(inside) { Ok(seal) } else { Err(StoreError::Seal { path }) }
    }

    /// Whether the files of a generation are what it says.
    pub(super) fn holds(&self, generation: &Path) -> bool {
        self.files.iter().all(|(name, expected)| {
            let path = generation.join(name);
            let found = File::open(&path).map(|file| Sum::of(file, |_| Ok(()), &path));
            found.is_ok_and(|sum| sum.is_ok_and(|sum| sum == *expected))
        })
    }

    /// The bytes of its files.
    pub(super) fn size(&self) -> u64 {
        self.files.values().map(|sum| sum.length).sum()
    }

    /// Writes the seal; from then on the directory is a generation.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(SEAL);
        let text = serde_json::to_vec(self).expect("paths of sled's files are text");
        let mut file = create(&path)?;
        file.write_all(&text).at("write", &path)
    }

    /// Brings a sealed directory to the disk: every file, then every directory.
    pub(super) fn sync(dir: &Path) -> Result<(), StoreError> {
        for entry in fs::read_dir(dir).at("list", dir)? {
            let path = entry.at("list", dir)?.path();
            if path.is_dir() {
                Self::sync(&path)?;
            } else {
                sync(&path)?;
            }
        }
        sync(dir)
    }
}

/// Brings one file or directory to the disk.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).at("sync", path)
}

/// A new file that only root may read.
pub(super) fn create(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("create", path)
}
