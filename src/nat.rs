//! Forwarding by nftables: what the kernel should hold, and making it so.
//!
//! [`ruleset`] and [`condition`] are pure: they say what a network's table is
//! made of. [`Nat`] is the effect: it compares by netlink and changes by one
//! transaction of `nft`. Neither reads nor touches a table that is not ours, but for
//! the one rule in a chain that the operator has named ([`Nat::accept`]).

mod apply;
mod audit;
pub mod condition;
mod element;
mod foreign;
mod kernel;
mod program;
pub mod ruleset;

pub use apply::{Difference, Nat, NatError, Rules};
pub use audit::Chain;
pub use condition::{Condition, ParseConditionError};
pub use element::{Element, elements, elements_held_only_by};
pub use ruleset::{Options, Table, network_of};
