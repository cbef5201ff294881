//! Forwarding by nftables: what the kernel should hold, and making it so.
//!
//! [`ruleset`] and [`condition`] are pure: they say what a network's table is
//! made of, in values that `wire` writes as messages to the kernel and `json` as
//! commands of `nft`. [`Nat`] is the effect: it compares by netlink and changes by one
//! transaction, by the one way or the other. Neither reads nor touches a table that is not ours, but for
//! the one rule in a chain that the operator has named ([`Nat::accept`]).

mod apply;
mod audit;
pub mod condition;
mod difference;
mod element;
mod error;
mod foreign;
mod json;
mod kernel;
mod program;
mod rule;
pub mod ruleset;
mod transaction;
mod wire;

pub use apply::{Nat, Rules};
pub use audit::Chain;
pub use condition::{Condition, ParseConditionError};
pub use difference::Difference;
pub use element::{Element, elements, elements_held_only_by};
pub use error::NatError;
pub use ruleset::{Options, Table, network_of};
