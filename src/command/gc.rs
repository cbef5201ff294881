//! GC: remove what this network holds for attachments that are no longer valid.
//!
//! An ADD between the runtime's listing and this call would be undone; the
//! specification has the runtime run GC apart from ADD and DEL.

use super::{
    Call, Error, Node,
    release::{self, Context},
};
use crate::cni::Config;

pub(super) fn gc(call: &Call, config: &Config, node: &mut Node) -> Result<(), Error> {
    let valid = config.valid_attachments()?;
    if !node.store.exists()? {
        return Ok(());
    }
    let mut lock = node.lock(config.lock_timeout()?)?;
    let draft = lock.begin()?;
    let mut stale = draft.of_network(&config.network)?;
    stale.retain(|forwarding| {
        let owner = &forwarding.attachment;
        !valid.contains(&(owner.container.clone(), owner.interface.clone()))
    });
    for forwarding in &stale {
        log::info!("{} is no longer valid", forwarding.attachment);
    }
    release::release(Context::of(call, config), node, draft, &stale)
}
