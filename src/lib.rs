//! portclaim: a chained CNI plugin that gives containers host ports on demand.
//!
//! Data flows one way, and imports point down only (a test keeps that true):
//!
//! ```text
//! 4 edges    bin/portclaim, bin/portclaimctl
//! 3 verbs    command                                      joins effects, parses nothing
//! 2 effects  store · nat (apply) · host · publish · tally · logger    one kind of effect each
//! 1 pure     allocator
//!            request · module
//!            cni · nat (ruleset and what it is made of and written as)
//! 0 nouns    lease · netlink                              messages, and the socket for effects
//! ```
//!
//! The store is the truth; kernel rules and published files are projections of it.

pub mod allocator;
pub mod cni;
pub mod command;
pub mod host;
#[cfg(test)]
mod layers;
pub mod lease;
pub mod logger;
pub mod module;
pub mod nat;
pub mod netlink;
pub mod publish;
pub mod request;
pub mod store;
pub mod tally;
