//! The CNI protocol as seen by a chained plugin (CNI SPEC 1.1.0): environment,
//! configuration, versions, results and errors. Turns bytes into types that
//! cannot be wrong, and types into bytes. No I/O.

pub mod config;
pub mod conflist;
pub mod environment;
mod error;
pub mod json;
pub mod result;
mod version;

pub use config::{Config, ConfigError};
pub use conflist::{Conflist, ConflistFault};
pub use environment::{Environment, EnvironmentError, Verb};
pub use error::ErrorReply;
pub use json::JsonError;
pub use result::{PrevResult, ResultError};
pub use version::CniVersion;

/// The most bytes that are read from stdin: 1 MiB. A conflist entry with the
/// results of all plugins before it stays far below.
pub const STDIN_LIMIT: usize = 1 << 20;
