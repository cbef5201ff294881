//! DEL: give everything back. Needs nothing but the attachment, and succeeds
//! when there is nothing to do.

use super::{
    Call, Error, Node, attachment,
    release::{self, Context},
};
use crate::{
    cni::{Config, config},
    lease::{Attachment, Forwarding},
    store::{StoreError, View},
};

pub(super) fn del(call: &Call, config: &Config, node: &mut Node) -> Result<(), Error> {
    let attachment = attachment(call, &config.network)?;
    if !node.store.exists()? {
        return Ok(());
    }
    match give_back(call, config, node, &attachment) {
        // Leases that cannot be read are nobody's: the runtime must be able to
        // release the container's address.
        Err(Error::Store(error @ StoreError::Damaged { .. })) => {
            log::error!("nothing is given back for {attachment}: {error}");
            Ok(())
        }
        // On a disk that takes nothing more, containers without ports can go.
        Err(Error::Store(error)) if error.takes_no_more() => {
            let leases = node.store.read()?;
            let held = held(&leases, &attachment)?;
            if held.is_empty() { Ok(()) } else { Err(error.into()) }
        }
        done => done,
    }
}

fn give_back(
    call: &Call,
    config: &Config,
    node: &mut Node,
    attachment: &Attachment,
) -> Result<(), Error> {
    let timeout = config.lock_timeout().unwrap_or(config::DEFAULT_LOCK_TIMEOUT);
    let mut lock = node.store.lock(timeout)?;
    let draft = lock.begin()?;
    let held = held(&draft, attachment)?;
    release::release(Context::of(call, config), node, draft, &held)
}

/// What the attachment holds. When that is nothing, what the container holds on
/// this interface: a network may have been renamed while its pods ran.
fn held(leases: &View, attachment: &Attachment) -> Result<Vec<Forwarding>, StoreError> {
    match leases.forwarding(attachment)? {
        Some(forwarding) => Ok(vec![forwarding]),
        None => leases.of_interface(&attachment.container, &attachment.interface),
    }
}
