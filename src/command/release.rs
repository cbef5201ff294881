//! Giving leases back, as DEL, GC and a repeated ADD without ports do: kernel,
//! conntrack, files, then the store. And putting right, while at it, a table that
//! somebody flushed.
//!
//! Flows are forgotten under the lock, though that takes a while, and before the store
//! forgets the ports: a call that is killed is made again, and must find whose they are.

use std::collections::{BTreeSet, HashSet};

use super::{Call, Error, Node, log_forgotten, module, options};
use crate::{
    cni::Config,
    lease::{Claim, Forwarding, HostPort, NetworkName},
    nat::{self, Element, Rules, Table, elements_held_only_by},
    publish::{self, PublishError},
    store::{Draft, Moment, StoreError, View},
};

/// What a call knows of its node beside the store.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The networks' configurations, as far as they are known.
    pub(super) configs: &'a [Config],
    pub(super) moment: Moment,
}

impl<'a> Context<'a> {
    pub(super) fn of(call: &Call, config: &'a Config) -> Self {
        Self { configs: std::slice::from_ref(config), moment: call.moment() }
    }
}

/// What an attachment gives back: all that it holds, or some of it.
pub(super) struct Leaving<'f> {
    held: &'f Forwarding,
    /// What it goes on to hold.
    kept: Option<Forwarding>,
}

impl<'f> Leaving<'f> {
    pub(super) fn all_of(held: &'f Forwarding) -> Self {
        Self { held, kept: None }
    }

    /// Only the leases on these ports.
    pub(super) fn some_of(held: &'f Forwarding, ports: &BTreeSet<HostPort>) -> Self {
        let mut kept = held.clone();
        kept.leases.retain(|lease| !ports.contains(&lease.host));
        Self { held, kept: Some(kept).filter(|kept| !kept.leases.is_empty()) }
    }

    /// The part that goes.
    fn gone(&self) -> Forwarding {
        let mut gone = self.held.clone();
        if let Some(kept) = &self.kept {
            gone.leases.retain(|lease| !kept.leases.contains(lease));
        }
        gone
    }
}

/// What came of giving back.
#[derive(Default)]
pub(super) struct GivenBack {
    pub(super) released: Vec<Forwarding>,
    pub(super) errors: Vec<Error>,
    /// Files that could not be made what they should be: no reason to fail.
    pub(super) unpublished: Vec<Error>,
}

/// Releases all of these, goes on after an error and reports every one. What
/// cannot be taken out of the kernel stays in the store, for the next try.
pub(super) fn release(
    context: Context<'_>,
    node: &mut Node,
    draft: Draft<'_>,
    held: &[Forwarding],
) -> Result<(), Error> {
    let leaving: Vec<_> = held.iter().map(Leaving::all_of).collect();
    let given = give_back(context, node, draft, &leaving)?;
    for error in given.unpublished {
        log::warn!("{}", error.with_causes());
    }
    Error::all(given.errors)
}

/// The same, and says of each what came of it.
pub(super) fn give_back(
    context: Context<'_>,
    node: &mut Node,
    mut draft: Draft<'_>,
    leaving: &[Leaving<'_>],
) -> Result<GivenBack, Error> {
    let mut given = GivenBack::default();
    let is_healed = module::heal(node, &draft);
    if leaving.is_empty() {
        // What a table was given, the next call must find in the store.
        if (heal(context, node, &draft) || is_healed)
            && draft.begins_lineage()
            && let Err(error) = draft.commit()
        {
            log::warn!("{}", Error::from(error).with_causes());
        }
        return Ok(given);
    }
    let networks: BTreeSet<&NetworkName> =
        leaving.iter().map(|leaving| &leaving.held.attachment.network).collect();
    let mut released = Vec::with_capacity(leaving.len());
    for network in networks {
        let of_network = leaving.iter().filter(|l| l.held.attachment.network == *network);
        let leaving: Vec<_> = of_network.collect();
        // All in one transaction; if that fails, one by one, so that what
        // stands in the way of one does not keep the others.
        match forget(context, node, &mut draft, &leaving) {
            Ok(()) => released.extend(leaving),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) if leaving.len() == 1 => given.errors.push(error),
            Err(_) => {
                for leaving in leaving {
                    match forget(context, node, &mut draft, &[leaving]) {
                        Ok(()) => released.push(leaving),
                        Err(error @ Error::Store(_)) => return Err(error),
                        Err(error) => given.errors.push(error),
                    }
                }
            }
        }
    }
    given.released = released.iter().map(|leaving| leaving.gone()).collect();
    log_forgotten(node.flows.forget_own(&given.released));
    for forwarding in &given.released {
        if let Err(error) = project(node, &draft, forwarding)? {
            given.unpublished.push(error.into());
        }
    }
    if !released.is_empty() {
        draft.commit()?;
    }
    Ok(given)
}

/// Takes what leaves one network out of the draft and out of the kernel, or,
/// when the kernel does not let it go, out of neither.
fn forget(
    context: Context<'_>,
    node: &mut Node,
    draft: &mut Draft<'_>,
    leaving: &[&Leaving<'_>],
) -> Result<(), Error> {
    let Some(first) = leaving.first() else { return Ok(()) };
    let mut claims = Vec::new();
    for Leaving { held, kept } in leaving {
        let used = draft.claims_held_by(&held.attachment)?;
        draft.remove(&held.attachment, context.moment)?;
        if let Some(kept) = kept {
            draft.insert(kept)?;
            let is_kept = |claim: &&Claim| {
                let mut keys = kept.leases.iter().map(|l| l.claim_key(kept.namespace()));
                keys.any(|key| key.as_ref() == Some(&claim.key))
            };
            for claim in used.iter().filter(is_kept) {
                draft.reserve(claim)?;
            }
        }
        claims.extend(used);
    }
    let gone = unshared_of(draft, leaving.iter().map(|leaving| leaving.held))?;
    let network = &first.held.attachment.network;
    let changed = if let Some(table) = known_table(context, network, draft) {
        match node.nat.is_intact(&table) {
            Ok(true) => node.nat.change(&table, &gone, &[]),
            Ok(false) => {
                let rebuilt = node.nat.rebuild(&table, &draft.of_network(network)?);
                node.tally.tables(rebuilt.is_ok().into());
                rebuilt
            }
            Err(error) => Err(error),
        }
    } else {
        // The elements are known by their keys, whatever the rules are.
        let table = Table::new(network, &nat::Options::default());
        node.nat.change(&table, &gone, &[])
    };
    if let Err(error) = changed {
        for leaving in leaving {
            draft.insert(leaving.held)?;
        }
        for claim in &claims {
            draft.reserve(claim)?;
        }
        return Err(error.into());
    }
    Ok(())
}

/// The network's table, where a configuration is of that network and can be
/// read: DEL goes on where it cannot.
fn known_table(context: Context<'_>, network: &NetworkName, leases: &View) -> Option<Table> {
    let config = context.configs.iter().find(|config| config.network == *network)?;
    let mut options = options(&config.settings().ok()?).ok()?;
    options.lineage = leases.lineage();
    Some(Table::new(network, &options))
}

/// The tables of these networks that are not as they should be: somebody has flushed
/// one, or all rulesets, or it was made for leases that are lost. A network without
/// leases needs no table. What the kernel does not tell is not ill.
pub(super) fn ill_tables<'a>(
    context: Context<'a>,
    node: &mut Node,
    leases: &View,
) -> Result<Vec<(Table, &'a NetworkName)>, StoreError> {
    let mut ill = Vec::new();
    for network in context.configs.iter().map(|config| &config.network) {
        let Some(table) = known_table(context, network, leases) else { continue };
        let is_ill = match node.nat.rules(&table) {
            Ok(Rules::None) => !leases.network_is_empty(network)?,
            Ok(Rules::Other) => true,
            Ok(Rules::Intact) | Err(_) => false,
        };
        if is_ill {
            ill.push((table, network));
        }
    }
    Ok(ill)
}

/// Makes the networks' tables anew that are ill, and tells whether there were any.
/// Whoever calls has something else to do, so that an error is logged.
fn heal(context: Context<'_>, node: &mut Node, leases: &View) -> bool {
    let mut rebuild = || {
        let ill = ill_tables(context, node, leases)?;
        for (table, network) in &ill {
            log::info!("making table {} anew", table.name());
            node.nat.rebuild(table, &leases.of_network(network)?)?;
            node.tally.tables(1);
        }
        Ok::<_, Error>(!ill.is_empty())
    };
    rebuild().unwrap_or_else(|error| {
        log::warn!("cannot put rules back: {}", error.with_causes());
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
    Ok(match latest(&others) {
        Some(latest) => publish::publish(&node.run_dir, latest),
        None => publish::withdraw(&node.run_dir, gone),
    })
}

/// The one whose files are published, of those that share a folder.
pub(super) fn latest<'f>(
    sharing: impl IntoIterator<Item = &'f Forwarding>,
) -> Option<&'f Forwarding> {
    sharing.into_iter().max_by_key(|forwarding| forwarding.since)
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
