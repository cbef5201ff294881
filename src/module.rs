//! Services of the host: what they ask for, and what they may have. No I/O.
//!
//! ```text
//! options of the command line ─┐
//! action, JSON                 ┴→ action ───→ policy ─→ (command: plan, commit, …)
//! claims of templates, JSON ────→ declaration ──┤
//! modules file, JSON ───────────────────────────┘
//! ```

mod action;
mod declaration;
mod policy;
mod transfer;

pub use action::{Action, ActionError, Allocation, Deallocation};
pub use declaration::{Declaration, DeclarationError};
pub use policy::{Caller, Policy, PolicyError, Refusal};
pub use transfer::{BlockEntry, ClaimEntry, Transfer, TransferError};
