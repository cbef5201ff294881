//! Giving leases back, as DEL, GC and a repeated ADD without ports do: kernel,
//! conntrack, files, then the store.

use std::{collections::BTreeSet, time::Duration};

use super::{Call, Error, Node};
use crate::{
    host,
    lease::{Attachment, Forwarding, NetworkName},
    nat::{self, Element, Table, elements_held_only_by},
    publish,
    store::{Draft, StoreError, View},
};

/// Releases what the attachment holds, if it holds anything.
pub(super) fn release_if_held(
    call: &Call,
    node: &mut Node,
    attachment: &Attachment,
    lock_timeout: Duration,
) -> Result<(), Error> {
    if node.store.read()?.forwarding(attachment)?.is_none() {
        return Ok(());
    }
    let mut lock = node.store.lock(lock_timeout)?;
    let draft = lock.begin()?;
    let held = draft.forwarding(attachment)?;
    release(call, node, draft, held.as_slice())
}

/// Releases all of these, goes on after an error and reports every one. What
/// cannot be taken out of the kernel stays in the store, for the next try.
pub(super) fn release(
    call: &Call,
    node: &mut Node,
    mut draft: Draft<'_>,
    held: &[Forwarding],
) -> Result<(), Error> {
    if held.is_empty() {
        return Ok(());
    }
    let networks: BTreeSet<&NetworkName> = held.iter().map(|f| &f.attachment.network).collect();
    let mut errors = Vec::new();
    let mut released = Vec::with_capacity(held.len());
    for network in networks {
        let held: Vec<_> = held.iter().filter(|f| f.attachment.network == *network).collect();
        // All in one transaction; if that fails, one by one, so that what
        // stands in the way of one does not keep the others.
        match forget(call, node, &mut draft, &held) {
            Ok(()) => released.extend(held),
            Err(error) if held.len() == 1 => errors.push(error),
            Err(_) => {
                for forwarding in held {
                    match forget(call, node, &mut draft, &[forwarding]) {
                        Ok(()) => released.push(forwarding),
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
    }
    for forwarding in &released {
        let owner = &forwarding.attachment;
        if let Err(error) = host::forget_own(forwarding) {
            log::warn!("cannot forget UDP flows to {owner}: {error}");
        }
        if let Err(error) = publish::withdraw(&node.run_dir, forwarding) {
            log::warn!("{error}");
        }
    }
    if !released.is_empty() {
        draft.commit()?;
    }
    Error::all(errors)
}

/// Takes forwardings of one network out of the draft and out of the kernel, or,
/// when the kernel does not let them go, out of neither.
fn forget(
    call: &Call,
    node: &mut Node,
    draft: &mut Draft<'_>,
    held: &[&Forwarding],
) -> Result<(), Error> {
    for forwarding in held {
        draft.remove(&forwarding.attachment, call.since_boot)?;
    }
    let mut gone: Vec<Element> = Vec::new();
    for forwarding in held {
        for element in unshared(draft, forwarding)? {
            if !gone.contains(&element) {
                gone.push(element);
            }
        }
    }
    let Some(first) = held.first() else { return Ok(()) };
    // The elements decide which rules are of use, so any options will do.
    let table = Table::new(&first.attachment.network, &nat::Options::default());
    if let Err(error) = node.nat.change(&table, &gone, &[]) {
        for forwarding in held {
            draft.insert(forwarding)?;
        }
        return Err(error.into());
    }
    Ok(())
}

/// The elements of a forwarding that nobody else in its network needs. `leases`
/// must no longer hold the forwarding, or hold what has taken its place.
pub(super) fn unshared(leases: &View, forwarding: &Forwarding) -> Result<Vec<Element>, StoreError> {
    let network = &forwarding.attachment.network;
    let mut others = Vec::new();
    for address in forwarding.container.iter() {
        others.extend(leases.of_address(network, address)?);
    }
    let mut found = elements_held_only_by(forwarding, &others);
    if let Some(link) = &forwarding.link
        && leases.link_users(network, link)? > 0
    {
        found.retain(|element| !element.is_link());
    }
    Ok(found)
}
