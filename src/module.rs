//! Services of the host: what they ask for, and what they may have. No I/O.
//!
//! ```text
//! options of the command line ─┐
//! action, JSON                 ┴→ action ─→ policy ─→ (command: plan, commit, …)
//! modules file, JSON ────────────────────────┘
//! ```

mod action;
mod policy;

pub use action::{Action, ActionError, Allocation, Deallocation};
pub use policy::{Caller, Policy, PolicyError, Refusal};
