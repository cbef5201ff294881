//! Giving leases back, as DEL, GC and a repeated ADD without ports do: kernel,
//! conntrack, files, then the store. And putting right, while at it, a table that
//! somebody flushed.

use std::collections::{BTreeSet, HashSet};

use super::{Call, Error, Node, log_forgotten, options};
use crate::{
    cni::Config,
    host,
    lease::{Forwarding, NetworkName},
    nat::{self, Element, Rules, Table, elements_held_only_by},
    publish::{self, PublishError},
    store::{Draft, StoreError, View},
};

/// Releases all of these, goes on after an error and reports every one. What
/// cannot be taken out of the kernel stays in the store, for the next try.
pub(super) fn release(
    call: &Call,
    config: &Config,
    node: &mut Node,
    mut draft: Draft<'_>,
    held: &[Forwarding],
) -> Result<(), Error> {
    if held.is_empty() {
        // What the table was given, CHECK must find in the store.
        if heal(config, node, &draft)
            && draft.begins_lineage()
            && let Err(error) = draft.commit()
        {
            log::warn!("{}", Error::from(error).with_causes());
        }
        return Ok(());
    }
    let networks: BTreeSet<&NetworkName> = held.iter().map(|f| &f.attachment.network).collect();
    let mut errors = Vec::new();
    let mut released = Vec::with_capacity(held.len());
    for network in networks {
        let held: Vec<_> = held.iter().filter(|f| f.attachment.network == *network).collect();
        // All in one transaction; if that fails, one by one, so that what
        // stands in the way of one does not keep the others.
        match forget(call, config, node, &mut draft, &held) {
            Ok(()) => released.extend(held),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) if held.len() == 1 => errors.push(error),
            Err(_) => {
                for forwarding in held {
                    match forget(call, config, node, &mut draft, &[forwarding]) {
                        Ok(()) => released.push(forwarding),
                        Err(error @ Error::Store(_)) => return Err(error),
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
    }
    for forwarding in &released {
        log_forgotten(&forwarding.attachment, host::forget_own(forwarding));
        if let Err(error) = project(node, &draft, forwarding)? {
            log::warn!("{}", Error::from(error).with_causes());
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
    config: &Config,
    node: &mut Node,
    draft: &mut Draft<'_>,
    held: &[&Forwarding],
) -> Result<(), Error> {
    let Some(first) = held.first() else { return Ok(()) };
    let mut claims = Vec::new();
    for forwarding in held {
        claims.extend(draft.claims_held_by(&forwarding.attachment)?);
        draft.remove(&forwarding.attachment, call.moment())?;
    }
    let gone = unshared_of(draft, held.iter().copied())?;
    let network = &first.attachment.network;
    let changed = if let Some(table) = known_table(config, network, draft) {
        match node.nat.is_intact(&table) {
            Ok(true) => node.nat.change(&table, &gone, &[]),
            Ok(false) => node.nat.rebuild(&table, &draft.of_network(network)?),
            Err(error) => Err(error),
        }
    } else {
        // The elements are known by their keys, whatever the rules are.
        let table = Table::new(network, &nat::Options::default());
        node.nat.change(&table, &gone, &[])
    };
    if let Err(error) = changed {
        for forwarding in held {
            draft.insert(forwarding)?;
        }
        for claim in &claims {
            draft.reserve(claim)?;
        }
        return Err(error.into());
    }
    Ok(())
}

/// The network's table, where the configuration is of that network and can be
/// read: DEL goes on where it cannot.
fn known_table(config: &Config, network: &NetworkName, leases: &View) -> Option<Table> {
    if config.network != *network {
        return None;
    }
    let mut options = options(&config.settings().ok()?).ok()?;
    options.lineage = leases.lineage();
    Some(Table::new(network, &options))
}

/// The network's table, if it is not as it should be: somebody has flushed it, or
/// all rulesets, or it was made for leases that are lost. A network without
/// leases needs no table. What the kernel does not tell is not ill.
pub(super) fn ill_table(
    config: &Config,
    node: &mut Node,
    leases: &View,
) -> Result<Option<Table>, StoreError> {
    let Some(table) = known_table(config, &config.network, leases) else { return Ok(None) };
    let is_ill = match node.nat.rules(&table) {
        Ok(Rules::None) => !leases.network_is_empty(&config.network)?,
        Ok(Rules::Other) => true,
        Ok(Rules::Intact) | Err(_) => false,
    };
    Ok(Some(table).filter(|_| is_ill))
}

/// Makes the network's table anew if it is ill, and tells whether it did.
/// Whoever calls has something else to do, so that an error is logged.
fn heal(config: &Config, node: &mut Node, leases: &View) -> bool {
    let mut rebuild = || {
        let Some(table) = ill_table(config, node, leases)? else { return Ok(false) };
        log::info!("making table {} anew", table.name());
        node.nat.rebuild(&table, &leases.of_network(&config.network)?)?;
        Ok::<_, Error>(true)
    };
    rebuild().unwrap_or_else(|error| {
        let (network, error) = (&config.network, error.with_causes());
        log::warn!("cannot put the rules of network {network} back: {error}");
        false
    })
}

/// Makes the files of a container or pod what the store says once this
/// forwarding is gone: those of another attachment, or none.
pub(super) fn project(
    node: &Node,
    leases: &View,
    gone: &Forwarding,
) -> Result<Result<(), PublishError>, StoreError> {
    let mut others = match &gone.pod {
        Some(pod) => leases.of_pod(pod)?,
        None => leases.of_container(&gone.attachment.container)?,
    };
    others.retain(|other| other.pod.is_some() == gone.pod.is_some());
    Ok(match others.iter().max_by_key(|other| other.since) {
        Some(latest) => publish::publish(&node.run_dir, latest),
        None => publish::withdraw(&node.run_dir, gone),
    })
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
        && leases.link_is_used(network, link)?
    {
        found.retain(|element| !element.is_link());
    }
    Ok(found)
}

/// The same of several forwardings, each element once.
pub(super) fn unshared_of<'a>(
    leases: &View,
    forwardings: impl IntoIterator<Item = &'a Forwarding>,
) -> Result<Vec<Element>, StoreError> {
    let mut found: HashSet<Element> = HashSet::new();
    for forwarding in forwardings {
        found.extend(unshared(leases, forwarding)?);
    }
    Ok(found.into_iter().collect())
}
