//! Why a configuration is refused.

use crate::{
    cni::{CniVersion, JsonError, ResultError, STDIN_LIMIT, Verb},
    lease::{Excerpt, ParseNameError},
};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("the network configuration on stdin is not a JSON object")]
    Json(#[from] JsonError),
    /// More than [`STDIN_LIMIT`].
    #[error("the network configuration on stdin is larger than {STDIN_LIMIT} bytes")]
    TooLarge,
    /// A version that is not spoken.
    #[error("cniVersion {found} is not supported: {}", CniVersion::ALL.map(CniVersion::as_str).join(", "))]
    Version {
        /// What the configuration says, in quotation marks.
        found: Excerpt,
    },
    /// The verb came with a later version than the configuration's.
    #[error("{verb} needs cniVersion {since} or later, the configuration has {version}")]
    VerbVersion {
        /// The verb.
        verb: Verb,
        /// The first version that has it.
        since: CniVersion,
        /// The configuration's version.
        version: CniVersion,
    },
    /// A key that must be there is not.
    #[error("{key} is missing in the network configuration")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The network's name has not the form it must have.
    #[error("name is not usable")]
    Name(#[source] ParseNameError),
    /// A key has a value that it cannot have.
    #[error("{key} is {value}: {allowed}")]
    Value {
        /// The key with the keys it stands under.
        key: String,
        /// The value, as JSON.
        value: Excerpt,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The same, where the reader of the value has a reason.
    #[error("{key} is {value}: {reason}")]
    Reason {
        /// The key with the keys it stands under.
        key: String,
        /// The value, as JSON.
        value: Excerpt,
        /// Why it is refused.
        reason: String,
    },
    /// A key means something to portmap that only iptables has.
    #[error("{key} is {value}: it has no meaning on nftables, {instead}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// The value, as JSON.
        value: Excerpt,
        /// What to do instead.
        instead: &'static str,
    },
    /// `prevResult` cannot be used.
    #[error(transparent)]
    Result(#[from] ResultError),
}
