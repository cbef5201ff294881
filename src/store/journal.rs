//! The journal of a generation: what was committed after the generation was written.
//!
//! ```text
//! <generation>/journal   the generation's ID (8), what it was made of: ID (8), length (8)
//!                        and CRC-32 (4) of a journal; then a commit after the other
//! commit                 length (4), CRC-32 (4), changes
//! change                 0: removed, 1: put; then the tree's name, the key, the value
//!                        if there is one, each with its length (4) before it
//! ```
//!
//! Numbers are big-endian. Each CRC-32 goes on from the one before, and the first from
//! that of the head, so that it vouches for all that came before it.
//!
//! A generation that holds what the one before it and its journal hold says so: then
//! that one and both journals stand in for it, should it be damaged. One that was made
//! in another way has zeros there.
//!
//! A commit that was appended whole holds, whether its writer lived to say so or not.
//! One that is shorter than it says was never acknowledged: its writer was killed, or
//! the disk was full. Only a power cut, or a broken disk, leaves one that is as long as
//! it says and not what it says: after a power cut it was never synced, and what comes
//! before it holds; in the boot that wrote it, it is damage.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    error::At,
    part::{NUMBER_BYTES, number, push_part, split_number, split_part},
    seal::create,
};

/// The name of the file.
pub const JOURNAL: &str = "journal";

/// The IDs, the length and the CRC-32 before the first commit.
const START_BYTES: usize = 28;
/// The length and the CRC-32 before the changes of a commit.
const HEAD_BYTES: usize = 2 * NUMBER_BYTES;

/// How far a journal goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The ID of the generation.
    pub(super) id: u64,
    /// The bytes of the journal up to here.
    pub(super) length: u64,
    /// The CRC-32 up to here.
    pub(super) crc32: u32,
}

impl Position {
    fn after(self, changes: &[u8]) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.crc32);
        hasher.update(changes);
        let length = self.length + (HEAD_BYTES + changes.len()) as u64;
        Self { length, crc32: hasher.finalize(), ..self }
    }
}

/// What a journal begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The ID of the generation.
    pub(super) id: u64,
    /// What the generation holds: all up to here. None where that is no longer anywhere.
    pub(super) base: Option<Position>,
}

impl Start {
    /// The start of a new generation's journal.
    pub(super) fn new(base: Option<Position>) -> Self {
        Self { id: fastrand::u64(1..), base }
    }

    /// The position behind it.
    pub(super) fn position(self) -> Position {
        let length = START_BYTES as u64;
        Position { id: self.id, length, crc32: crc32fast::hash(&self.bytes()) }
    }

    fn bytes(self) -> Vec<u8> {
        let base = self.base.unwrap_or_default();
        let (id, of) = (self.id.to_be_bytes(), base.id.to_be_bytes());
        [&id[..], &of, &base.length.to_be_bytes(), &base.crc32.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (of, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (crc32, _) = rest.split_first_chunk()?;
        let base = Position {
            id: u64::from_be_bytes(*of),
            length: u64::from_be_bytes(*length),
            crc32: u32::from_be_bytes(*crc32),
        };
        let base = Some(base).filter(|base| *base != Position::default());
        Some(Self { id: u64::from_be_bytes(*id), base })
    }
}

/// What one commit changes, as it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Vec<u8>);

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Notes that a value is put under a key, or, without one, what was there removed.
    pub(super) fn push(&mut self, tree: &str, key: &[u8], value: Option<&[u8]>) {
        self.0.push(value.is_some().into());
        for part in [Some(tree.as_bytes()), Some(key), value].into_iter().flatten() {
            push_part(&mut self.0, part);
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change<'c> {
    pub(super) tree: &'c str,
    pub(super) key: &'c [u8],
    /// None: what was there is removed.
    pub(super) value: Option<&'c [u8]>,
}

/// The journal of a generation, as it was read.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    pub(super) start: Start,
    /// The start and all whole commits.
    content: Vec<u8>,
    /// Where the last of them ends.
    pub(super) end: Position,
    /// The bytes of the file, with what comes then.
    pub(super) length: u64,
    /// Whether what comes then was acknowledged once.
    is_damaged: bool,
}

impl Journal {
    /// Makes the journal of a generation that is being written.
    pub(super) fn create(generation: &Path, start: Start) -> Result<(), StoreError> {
        let path = generation.join(JOURNAL);
        create(&path)?.write_all(&start.bytes()).at("write", &path)
    }

    /// Reads the journal of a generation as far as it is whole.
    pub(super) fn read(generation: &Path) -> Result<Self, StoreError> {
        let journal = Self::read_once(generation)?;
        // A writer may have taken an unfinished commit away meanwhile, and put its own
        // in the place of it.
        if journal.is_damaged { Self::read_once(generation) } else { Ok(journal) }
    }

    fn read_once(generation: &Path) -> Result<Self, StoreError> {
        let path = generation.join(JOURNAL);
        let mut content = match fs::read(&path) {
            Err(e)
                if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                    || matches!(e.raw_os_error(), Some(libc::EIO | libc::EISDIR)) =>
            {
                return Err(StoreError::Seal { path });
            }
            read => read.at("read", &path)?,
        };
        let Some(start) = Start::read(&content) else { return Err(StoreError::Seal { path }) };
        let mut end = start.position();
        let mut rest = &content[START_BYTES..];
        let mut is_damaged = false;
        while let Some((crc32, changes, after)) = split_commit(rest) {
            let next = end.after(changes);
            if next.crc32 != crc32 {
                is_damaged = true;
                break;
            }
            (end, rest) = (next, after);
        }
        let (length, whole) = (content.len() as u64, content.len() - rest.len());
        content.truncate(whole);
        Ok(Self { path, start, content, end, length, is_damaged })
    }

    /// Whether it is that of the generation with this ID, and all is there that was ever
    /// acknowledged.
    pub(super) fn is_whole(&self, id: u64) -> bool {
        self.start.id == id && !self.is_damaged
    }

    /// What is wrong with it, if anything is.
    pub(super) fn damage(&self) -> StoreError {
        StoreError::Seal { path: self.path.clone() }
    }

    /// All changes, the earliest first.
    pub(super) fn changes(&self) -> impl Iterator<Item = Result<Change<'_>, StoreError>> {
        let mut commits = &self.content[START_BYTES..];
        let mut changes: &[u8] = &[];
        std::iter::from_fn(move || {
            while changes.is_empty() {
                (_, changes, commits) = split_commit(commits)?;
            }
            let change = split_change(&mut changes);
            Some(change.ok_or_else(|| self.damage()))
        })
    }
}

/// Appends a commit to the journal that ends there, in place of what a killed writer
/// may have left behind that; returns where it ends then. After an error it ends where
/// it did.
pub(super) fn append(
    generation: &Path,
    end: Position,
    changes: &Changes,
    durably: bool,
) -> Result<Position, StoreError> {
    let path = generation.join(JOURNAL);
    let after = end.after(&changes.0);
    let mut commit = Vec::with_capacity(HEAD_BYTES + changes.0.len());
    commit.extend(number(changes.0.len()));
    commit.extend(after.crc32.to_be_bytes());
    commit.extend(&changes.0);
    let file = OpenOptions::new().write(true).open(&path).at("open", &path)?;
    let write = || -> io::Result<()> {
        if file.metadata()?.len() != end.length {
            file.set_len(end.length)?;
        }
        file.write_all_at(&commit, end.length)?;
        if durably { file.sync_data() } else { Ok(()) }
    };
    if let Err(e) = write() {
        if let Err(e) = file.set_len(end.length) {
            log::error!("cannot take back what was written to {}: {e}", path.display());
        }
        return Err(e).at("write", &path);
    }
    Ok(after)
}

/// The CRC-32 and the changes of the first commit, and what comes after it; none where
/// there is no whole one.
fn split_commit(mut bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let length = split_number(&mut bytes)?;
    let crc32 = split_number(&mut bytes)?;
    let (changes, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    Some((crc32, changes, rest))
}

fn split_change<'c>(bytes: &mut &'c [u8]) -> Option<Change<'c>> {
    let (&kind, rest) = bytes.split_first()?;
    *bytes = rest;
    let tree = std::str::from_utf8(split_part(bytes)?).ok()?;
    let key = split_part(bytes)?;
    let value = match kind {
        0 => None,
        1 => Some(split_part(bytes)?),
        _ => return None,
    };
    Some(Change { tree, key, value })
}
