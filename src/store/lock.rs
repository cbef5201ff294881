//! The node's lock: flock(2) with a deadline.
//!
//! Invariant: whoever changes the kernel on behalf of the store holds the lock,
//! and so does its child. Once locked, the descriptor is inheritable, so when
//! the plugin is killed while its `nft` still runs, the child's copy of the
//! descriptor keeps the lock until the transaction is over. It follows that
//! nothing long-lived may be spawned under the lock, and that it is given back
//! by closing the descriptor and never by `LOCK_UN`, which would take it from
//! the child as well.
//!
//! Waiters sleep in flock(2), which has no deadline, each on a thread of its own. Since
//! 5.0 the kernel keeps them in a line, in the order in which they came, and wakes the
//! first when the lock is given back. Until that one runs, whoever comes may take the
//! lock; then it is last again, and all behind it are woken one by one to line up anew,
//! while still others come. So that it runs at once, it waits under `SCHED_FIFO`: of 300
//! ADDs at once on 2 cores, the one that had to let most later ones go first let 8, not
//! 153, and hardly any was woken twice. Where that policy is not allowed, and beside an
//! older version of the plugin, order suffers and nothing else. Nothing is written
//! down, so that nobody who is killed leaves a gap in the line.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fs2::FileExt;
use rustix::io::FdFlags;

use super::{Draft, Store, StoreError, database::raise_priority, error::At};

/// The name of the lock file.
const LOCK: &str = "lock";

/// The node's lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    pub(super) store: Store,
    _file: File,
}

impl Lock {
    pub(super) fn acquire(store: Store, timeout: Duration) -> Result<Self, StoreError> {
        let path = store.dir.join(LOCK);
        let deadline = Instant::now() + timeout;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                // Neither a link nor a pipe is our lock.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .at("create", &path)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(file) = lock_within(file, left).at("lock", &path)? else {
                return Err(StoreError::Locked { path, timeout });
            };
            // Someone may have removed the directory meanwhile; then others lock a new file.
            let ours = file.metadata().at("look at", &path)?;
            let is_still_there = match path.symlink_metadata() {
                Ok(now) => (now.dev(), now.ino()) == (ours.dev(), ours.ino()),
                Err(e) if e.kind() == ErrorKind::NotFound => false,
                Err(e) => return Err(e).at("look at", &path),
            };
            if !is_still_there {
                if Instant::now() >= deadline {
                    return Err(StoreError::Locked { path, timeout });
                }
                super::create_dir(&store.dir)?;
                continue;
            }
            rustix::io::fcntl_setfd(&file, FdFlags::empty())
                .map_err(io::Error::from)
                .at("hand on", &path)?;
            return Ok(Self { store, _file: file });
        }
    }

    /// A private copy of what is committed, to be changed and committed. One at
    /// a time: two would each undo what the other did.
    pub fn begin(&mut self) -> Result<Draft<'_>, StoreError> {
        Draft::begin(self)
    }
}

/// Locks the file exclusively; none when the time is over.
pub(super) fn lock_within(file: File, timeout: Duration) -> io::Result<Option<File>> {
    match file.try_lock_exclusive() {
        Ok(()) => return Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::WouldBlock && timeout.is_zero() => return Ok(None),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
        Err(e) => return Err(e),
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().name("lock".to_owned()).spawn(move || {
        raise_priority();
        let locked = loop {
            match file.lock_exclusive() {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => break result.map(|()| file),
            }
        };
        // Too late: nobody listens, the file comes back in the error and is closed.
        drop(sender.send(locked));
    })?;
    match receiver.recv_timeout(timeout) {
        Ok(locked) => locked.map(Some),
        Err(_) => Ok(None),
    }
}
