//! What can go wrong with nftables.

use std::{io, path::PathBuf, process::ExitStatus};

/// nftables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program is not installed.
    #[error("cannot find nft in PATH, /usr/sbin, /sbin or /usr/local/sbin")]
    NftNotFound,
    /// The program could not be run.
    #[error("cannot run {}", program.display())]
    NftNotRun {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// nft or the kernel refused.
    #[error("cannot {what}: nft: {message} ({status})")]
    NftFailed {
        /// What was to be done.
        what: String,
        /// The first lines of what it printed.
        message: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The program is not installed.
    #[error("cannot find {0} in PATH, /usr/sbin, /sbin or /usr/local/sbin")]
    IptablesNotFound(&'static str),
    /// iptables or the kernel refused.
    #[error("{program}: {message} ({status})")]
    IptablesFailed {
        /// Its name.
        program: &'static str,
        /// The first lines of what it printed.
        message: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The kernel could not be asked.
    #[error("cannot {what} by netlink")]
    Netlink {
        /// What was to be read or done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel was asked to change something, and what came of it was not received.
    #[error("asked the kernel to {what}: it is not known whether it has done it")]
    Unanswered {
        /// What was to be done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {what}: the kernel refuses {object}")]
    Refused {
        /// What was to be done.
        what: String,
        /// The part of it that is in the way.
        object: String,
        /// Why.
        source: io::Error,
    },
}
