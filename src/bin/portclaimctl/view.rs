//! What there is to see on a node: facts made of what the store and the host say.
//! Nothing here reads or prints, so that every front end shows the same.

pub mod claim;
pub mod explanation;
pub mod group;
pub mod holding;
pub mod kernel;
pub mod lease;
pub mod search;
pub mod time;
