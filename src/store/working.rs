//! The working copy: the database as the last writer closed it. The next one opens it
//! where it is, and copies nothing.
//!
//! ```text
//! <work>/working.<n>/    sled's files; n stands for the store's directory
//! ```
//!
//! Who takes it gives it another name, so that nobody finds it who comes after one that
//! was killed, and gives it back once it is closed. It is only worth its cost in time:
//! without it, a generation is copied and its journal gone through. What it holds it
//! says itself, as a place in a journal, and if that is not where the journal ends, it
//! is not used. Only who holds the lock of the store touches it.

use std::path::{Path, PathBuf};

use super::{StoreError, scratch::Scratch};

const WORKING: &str = "working.";

/// Where a store has its working copy.
fn path(work: &Path, store: &Path) -> PathBuf {
    let number = crc32fast::hash(store.as_os_str().as_encoded_bytes());
    work.join(format!("{WORKING}{number:08x}"))
}

/// Takes the working copy of a store, if there is one.
pub(super) fn take(work: &Path, store: &Path) -> Result<Option<Scratch>, StoreError> {
    Scratch::adopt(work, &path(work, store))
}

/// Gives back what was taken, closed; it may have been taken elsewhere. Where that fails,
/// the next one has to copy.
pub(super) fn give_back(work: &Path, store: &Path, closed: Scratch) {
    // One that was of no use may be there still.
    if let Err(e) = take(work, store).and_then(|_| closed.leave(&path(work, store))) {
        log::warn!("{}", e.with_cause());
    }
}
