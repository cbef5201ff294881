//! What can go wrong in the store. The caller maps variants to CNI error codes.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::lease::{ClaimKey, HostPort, Owner};

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process kept the lock for all of the time there was.
    #[error("cannot lock {} within {timeout:?}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        timeout: Duration,
    },
    /// The file system refused; the disk may be full.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was attempted: "copy", "create", …
        verb: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// sled failed on a private copy; what is published is untouched.
    #[error("cannot {verb} the database in {}", path.display())]
    Database {
        /// What was attempted: "open", "read", "write".
        verb: &'static str,
        /// The directory of the copy.
        path: PathBuf,
        /// The cause.
        source: sled::Error,
    },
    /// sled panicked over a private copy; what is published is untouched.
    #[error("cannot use the database in {}: sled panicked: {message}", path.display())]
    Panicked {
        /// The directory of the copy.
        path: PathBuf,
        /// What the panic said.
        message: String,
    },
    /// sled did not let go of its file in time.
    #[error("the database in {} is not closed within {timeout:?}", path.display())]
    Closing {
        /// The directory of the copy.
        path: PathBuf,
        /// How long was waited.
        timeout: Duration,
    },
    /// A file of a generation is not what its seal says it is.
    #[error("{} does not match its seal", path.display())]
    Seal {
        /// The file, or the seal itself where that cannot be understood.
        path: PathBuf,
    },
    /// A record cannot be understood.
    #[error("record {key:?} of {tree} is damaged")]
    Record {
        /// The tree that it is in.
        tree: &'static str,
        /// Its key, as far as that is text.
        key: String,
    },
    /// A link names no generation.
    #[error("{} does not lead to a generation", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A generation that should be of the running boot is of another.
    #[error("{} was written in another boot", path.display())]
    Boot {
        /// The generation.
        path: PathBuf,
    },
    /// No generation that may be used can be read. Nothing was changed.
    #[error("the store in {} is damaged: {}", dir.display(), tried(causes))]
    Damaged {
        /// The store's directory.
        dir: PathBuf,
        /// What was tried, the newest first.
        causes: Vec<StoreError>,
    },
    /// A newer portclaim wrote this.
    #[error("{what} has schema {found}, and {supported} is the newest that is known here")]
    Schema {
        /// What carries the schema.
        what: String,
        /// The schema that it has.
        found: u32,
        /// The newest schema that this program knows.
        supported: u32,
    },
    /// Two owners of one port, which the caller should have ruled out.
    #[error("host port {port} is held by {holder}")]
    Conflict {
        /// What is held already.
        port: HostPort,
        /// By whom.
        holder: Owner,
    },
    /// A port that a claim is about and that something else is to have, which the
    /// caller should have ruled out.
    #[error("host port {port} is reserved by claim {claim}")]
    Claimed {
        /// What is reserved.
        port: HostPort,
        /// By which claim.
        claim: ClaimKey,
    },
}

impl StoreError {
    /// Whether the disk is full or may not be written to.
    #[must_use]
    pub fn takes_no_more(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let full = [QuotaExceeded, ReadOnlyFilesystem, StorageFull];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }

    /// The error and what caused it, for the log.
    pub(super) fn with_cause(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// Whether it is the generation that is at fault, and an older one may do.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Seal { .. }
            | Self::Record { .. }
            | Self::Link { .. }
            | Self::Boot { .. }
            | Self::Panicked { .. }
            | Self::Database {
                source:
                    sled::Error::Corruption { .. }
                    | sled::Error::Unsupported(_)
                    | sled::Error::ReportableBug(_),
                ..
            } => true,
            Self::Locked { .. }
            | Self::Io { .. }
            | Self::Database { .. }
            | Self::Closing { .. }
            | Self::Damaged { .. }
            | Self::Schema { .. }
            | Self::Conflict { .. }
            | Self::Claimed { .. } => false,
        }
    }
}

/// The causes in one line, each with what caused it.
fn tried(causes: &[StoreError]) -> String {
    causes.iter().map(StoreError::with_cause).collect::<Vec<_>>().join("; ")
}

/// Says what was attempted, and on what.
pub(super) trait At<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { verb, path: path.to_owned(), source })
    }
}

impl<T> At<T> for sled::Result<T> {
    /// An I/O error of sled's is one of ours: only then does its path show.
    fn at(self, verb: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| match source {
            sled::Error::Io(source) => StoreError::Io { verb, path: path.to_owned(), source },
            source => StoreError::Database { verb, path: path.to_owned(), source },
        })
    }
}
