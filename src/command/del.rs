//! DEL: give everything back. Needs nothing but the attachment, and succeeds
//! when there is nothing to do.
//!
//! A container that is older than portclaim on this node has its ports from
//! `portmap`, and some runtimes (containerd) call whoever is in the conflist now:
//! where it says `"formerly": "portmap"`, that DEL is passed on.

use super::{
    Call, Error, Node, attachment,
    release::{self, Context},
};
use crate::{
    cni::{Config, config},
    host,
    lease::{Attachment, Forwarding},
    store::{StoreError, View},
};

pub(super) fn del(call: &Call, config: &Config, node: &mut Node) -> Result<(), Error> {
    let attachment = attachment(call, &config.network)?;
    let had_ports = node.store.exists()? && try_to_give_back(call, config, node, &attachment)?;
    if had_ports { Ok(()) } else { pass_on(call, config) }
}

/// Whether the attachment held anything.
fn try_to_give_back(
    call: &Call,
    config: &Config,
    node: &mut Node,
    attachment: &Attachment,
) -> Result<bool, Error> {
    match give_back(call, config, node, attachment) {
        // Leases that cannot be read are nobody's: the runtime must be able to
        // release the container's address.
        Err(Error::Store(error @ StoreError::Damaged { .. })) => {
            log::error!("nothing is given back for {attachment}: {error}");
            Ok(false)
        }
        // On a disk that takes nothing more, containers without ports can go.
        Err(Error::Store(error)) if error.takes_no_more() => {
            let leases = node.store.read()?;
            let held = held(&leases, attachment)?;
            if held.is_empty() { Ok(false) } else { Err(error.into()) }
        }
        done => done,
    }
}

fn give_back(
    call: &Call,
    config: &Config,
    node: &mut Node,
    attachment: &Attachment,
) -> Result<bool, Error> {
    let timeout = config.lock_timeout().unwrap_or(config::DEFAULT_LOCK_TIMEOUT);
    let mut lock = node.lock(timeout)?;
    let draft = lock.begin()?;
    let held = held(&draft, attachment)?;
    release::release(Context::of(call, config), node, draft, &held)?;
    Ok(!held.is_empty())
}

/// Only `portmap` takes back what it has given.
fn pass_on(call: &Call, config: &Config) -> Result<(), Error> {
    let has_mappings = config.runtime_config("portMappings").is_ok_and(|found| found.is_some());
    // A wrong value is refused by ADD.
    if !has_mappings || !config.is_in_place_of_portmap().unwrap_or(false) {
        return Ok(());
    }
    let path = call.environment.path();
    if !host::delegate(config::PORTMAP, path, &config.for_portmap())? {
        log::warn!("there is no plugin portmap in CNI_PATH={path} to pass DEL on to");
    }
    Ok(())
}

/// What the attachment holds. When that is nothing, what the container holds on
/// this interface: a network may have been renamed while its pods ran.
fn held(leases: &View, attachment: &Attachment) -> Result<Vec<Forwarding>, StoreError> {
    match leases.forwarding(attachment)? {
        Some(forwarding) => Ok(vec![forwarding]),
        None => leases.of_interface(&attachment.container, &attachment.interface),
    }
}
