//! ADD: take ports, forward them, publish them, hand the previous result on.
//!
//! ```text
//! parse → route → LOCK → plan ⇄ probe → (nft: what goes) → commit → nft → sysctl → publish
//!       → UNLOCK → conntrack → reply
//! ```
//!
//! Everything is validated before the first effect. If a step after the commit
//! fails, exactly what was done is taken back and the first error is returned.
//!
//! The node's other calls wait for what is done under its lock, so only that is which
//! must be:
//!
//! | step | why |
//! |---|---|
//! | plan, probe | what is free must be so until it is committed; 13 µs for each port in use |
//! | commit, nft | store and kernel agree when the lock is given back |
//! | sysctl | behind the guard, which `reset` removes; 0.1 ms |
//! | publish | the files of a pod are its last call's, and a failure is taken back; 0.3 ms |
//!
//! Flows are forgotten without it: the kernel walks a table that is all the machine's, for
//! each UDP port, 10 ms with 50,000 flows in it. A failure there is not one of the ADD;
//! killed before, the ADD is not acknowledged, and is repeated or undone. Should the ports
//! be somebody else's by then, what is forgotten of theirs is made anew by its next packet.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{
    Call, Error, Node, asked, attachment, log_forgotten, module, options,
    plan::{self, Pools, Wanted},
    release::{self, Context},
};
use crate::{
    cni::{Config, config::Settings},
    host,
    lease::{Attachment, Claim, ClaimKey, ContainerAddresses, Forwarding, HostPort, InterfaceName},
    nat::{self, Element, Table, elements},
    publish,
    request::{Asked, Request},
    store::{Draft, Lock, StoreError, View},
};

pub(super) fn add(call: &Call, config: &Config, node: &mut Node) -> Result<String, Error> {
    call.environment.require_netns()?;
    let attachment = attachment(call, &config.network)?;
    let settings = config.settings()?;
    config.logging()?;
    for key in config.unknown_keys() {
        log::warn!("key {key:?} of network {} is not known and has no effect", config.network);
    }
    let options = options(&settings)?;
    let result = config.prev_result()?;
    let Asked { requests, health } = asked(call, config, &settings)?;
    if requests.is_empty() {
        release_without_ports(call, config, node, &attachment, settings.lock_timeout)?;
    } else {
        let container = result.container_addresses(&attachment.interface);
        refuse_unreachable(&requests, &container, &attachment.interface)?;
        let link = link_to(&container)?;
        let pod = call.environment.pod();
        let wanted = Wanted { attachment, pod, container, requests, link, health };
        take(call, node, &settings, options, &wanted)?;
    }
    Ok(result.to_json(config.version))
}

/// A container without ports, as most are: nobody is waited for and nothing written,
/// unless it had some before or there is something to put right.
fn release_without_ports(
    call: &Call,
    config: &Config,
    node: &mut Node,
    attachment: &Attachment,
    lock_timeout: Duration,
) -> Result<(), Error> {
    let context = Context::of(call, config);
    let store = node.store.clone();
    let has_work = store.look(|leases| {
        let is_held = leases.forwarding(attachment)?.is_some();
        Ok::<_, StoreError>(is_held || !release::ill_tables(context, node, leases)?.is_empty())
    });
    match has_work.flatten() {
        // As in DEL: leases that cannot be read are nobody's, and STATUS says so.
        Err(error @ StoreError::Damaged { .. }) => {
            log::error!("nothing is looked for that {attachment} held before: {error}");
            return Ok(());
        }
        Ok(false) => return Ok(()),
        has_work => drop(has_work?),
    }
    let mut lock = node.lock(lock_timeout)?;
    let draft = lock.begin()?;
    let held = draft.forwarding(attachment)?;
    release::release(context, node, draft, held.as_slice())
}

fn refuse_unreachable(
    requests: &[Request],
    container: &ContainerAddresses,
    interface: &InterfaceName,
) -> Result<(), Error> {
    let Some(request) = requests.iter().find(|request| !request.reaches(container)) else {
        return Ok(());
    };
    let family = match (request.address.has_v4(), request.address.has_v6()) {
        (true, true) => "IPv4 or IPv6",
        (true, false) => "IPv4",
        _ => "IPv6",
    };
    let interface = interface.to_string();
    if container.iter().next().is_none() {
        return Err(Error::NoAddress { interface });
    }
    Err(Error::Unreachable { address: request.address, family, interface })
}

/// The host's link towards the container. Without a route (a network that is not
/// attached to the host) nothing can be forwarded from the host itself, but the
/// rules still hold for what others route there.
fn link_to(container: &ContainerAddresses) -> Result<Option<InterfaceName>, Error> {
    for address in container.iter() {
        if let Some(link) = host::link_to(address)? {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

fn take(
    call: &Call,
    node: &mut Node,
    settings: &Settings,
    mut options: nat::Options,
    wanted: &Wanted,
) -> Result<(), Error> {
    let pools = Pools::new(settings, &wanted.requests)?;
    let sandbox = host::sandbox(call.environment.netns());
    let mut lock = node.lock(settings.lock_timeout)?;
    let mut draft = lock.begin()?;
    options.lineage = draft.lineage();
    let table = Table::new(&wanted.attachment.network, &options);
    draft.expire_claims(call.moment().unix)?;
    let previous = previous(&draft, wanted)?;
    let (plan, previous) = plan::plan(call, settings, &pools, wanted, previous, &draft)?;
    let before = Before::of(&draft, previous, &plan.claims)?;
    let after = Forwarding {
        attachment: wanted.attachment.clone(),
        pod: wanted.pod.clone(),
        container: wanted.container,
        link: wanted.link.clone(),
        sandbox,
        health: wanted.health.clone(),
        since: call.moment().unix,
        leases: plan.leases,
    };
    // Ports that are not kept cool down like those of any other release.
    for forwarding in &before.forwardings {
        draft.remove(&forwarding.attachment, call.moment())?;
    }
    for claim in &plan.claims {
        draft.reserve(claim)?;
    }
    draft.insert(&after)?;
    draft.forget_rested(call.since_boot)?;
    module::heal(node, &draft);
    let change = Change::compute(node, &table, &draft, &before.forwardings, &after)?;
    let committed = match node.nat.change(&table, &change.remove, &[]) {
        Ok(()) => draft.commit().map_err(Error::from),
        Err(error) => {
            drop(draft);
            Err(error.into())
        }
    };
    if let Err(error) = committed {
        put_back(node, &table, &before.forwardings);
        return Err(error);
    }
    let done = carry_out(node, settings, &table, &change, &after);
    if let Err(error) = done {
        if let Err(undo) = take_back(call, node, &table, &mut lock, &before, &after) {
            log::error!("cannot take back what ADD has done: {}", undo.with_causes());
        }
        drop(lock);
        // Nobody's DEL will know of those that have begun meanwhile.
        log_forgotten(node.flows.forget_own([&after]));
        return Err(error);
    }
    withdraw_files_of_others(node, &before.forwardings, &after);
    drop(lock);
    // As DEL does: nothing will ask for these ports again.
    log_forgotten(node.flows.forget_own(&change.given_up));
    // Without this, a client that sent before the port was forwarded would not
    // reach the container until it paused; with an error, the same.
    log_forgotten(node.flows.forget_others([&after]));
    count_new(node, &before.forwardings, &after);
    Ok(())
}

/// What an ADD takes the place of: what the attachment held itself, and what
/// earlier sandboxes of its pod hold.
///
/// A pod has one sandbox: on the interface of the new one, no earlier one is
/// alive, although a kubelet may send its DEL only after this ADD. The UID tells
/// the same pod from the next one of that name.
fn previous(leases: &View, wanted: &Wanted) -> Result<Vec<Forwarding>, StoreError> {
    let owner = &wanted.attachment;
    let mut previous: Vec<_> = leases.forwarding(owner)?.into_iter().collect();
    if let Some(pod) = wanted.pod.as_ref().filter(|pod| pod.uid.is_some()) {
        let mut earlier = leases.of_pod(pod)?;
        earlier.retain(|other| {
            let at = &other.attachment;
            at.container != owner.container
                && (&at.network, &at.interface) == (&owner.network, &owner.interface)
                && other.pod.as_ref() == Some(pod)
        });
        previous.append(&mut earlier);
    }
    Ok(previous)
}

/// What there was before an ADD, and goes with it.
struct Before {
    /// What was held.
    forwardings: Vec<Forwarding>,
    /// The claims that these used and that the ADD uses, as they were; none where
    /// there was no such claim.
    claims: BTreeMap<ClaimKey, Option<Claim>>,
}

impl Before {
    fn of(leases: &View, forwardings: Vec<Forwarding>, used: &[Claim]) -> Result<Self, StoreError> {
        let mut claims = BTreeMap::new();
        for forwarding in &forwardings {
            let used = leases.claims_held_by(&forwarding.attachment)?;
            claims.extend(used.into_iter().map(|claim| (claim.key.clone(), Some(claim))));
        }
        for claim in used {
            claims.insert(claim.key.clone(), leases.claim(&claim.key)?);
        }
        Ok(Self { forwardings, claims })
    }
}

/// Removes the files of what is gone and was of other pods or containers. They are
/// in nobody's way: where that fails, it is worth a line.
fn withdraw_files_of_others(node: &mut Node, gone: &[Forwarding], after: &Forwarding) {
    let own = publish::folder(&node.run_dir, after);
    for gone in gone.iter().filter(|gone| publish::folder(&node.run_dir, gone) != own) {
        let withdrawn = node.store.read().and_then(|leases| release::project(node, &leases, gone));
        if let Err(error) = withdrawn.map_err(Error::from).and_then(|done| Ok(done?)) {
            log::warn!("{}", error.with_causes());
        }
    }
}

/// What must become of the network's table.
struct Change {
    /// What the attachment had and no longer has. Leaves the kernel before the
    /// store forgets whose it was.
    remove: Vec<Element>,
    /// What it is to have.
    add: Vec<Element>,
    /// Whoever had ports that are not kept, with these.
    given_up: Vec<Forwarding>,
    /// All of the network's forwardings, where the table is not as it was left
    /// (flushed, an older version's, another configuration's, or a call was killed
    /// half-way): all of it is made anew.
    anew: Option<Vec<Forwarding>>,
}

impl Change {
    fn compute(
        node: &mut Node,
        table: &Table,
        draft: &Draft<'_>,
        before: &[Forwarding],
        after: &Forwarding,
    ) -> Result<Self, Error> {
        let owner = &after.attachment;
        let add = elements(after);
        let remove = without(release::unshared_of(draft, before)?, &add);
        // Another attachment's elements are looked at too: a map that was
        // flushed leaves all rules in place.
        let other = draft.any_of_network(&owner.network, owner, fastrand::u32(..))?;
        let other = other.as_ref().map(elements).unwrap_or_default();
        let is_intact = node.nat.is_intact(table)? && node.nat.compare(table, &other)?.is_empty();
        let anew = if is_intact { None } else { Some(draft.of_network(&owner.network)?) };
        Ok(Self { remove, add, given_up: given_up(before, after), anew })
    }
}

/// What is held no longer, as it was held before.
fn given_up(before: &[Forwarding], after: &Forwarding) -> Vec<Forwarding> {
    let kept: HashSet<&HostPort> = after.leases.iter().map(|lease| &lease.host).collect();
    let mut gone = before.to_vec();
    for forwarding in &mut gone {
        forwarding.leases.retain(|lease| !kept.contains(&lease.host));
    }
    gone.retain(|forwarding| !forwarding.leases.is_empty());
    gone
}

fn without(mut elements: Vec<Element>, kept: &[Element]) -> Vec<Element> {
    let kept: HashSet<&Element> = kept.iter().collect();
    elements.retain(|element| !kept.contains(element));
    elements
}

/// Counts the ports that nothing of this held before.
fn count_new(node: &mut Node, before: &[Forwarding], after: &Forwarding) {
    let had: HashSet<&HostPort> =
        before.iter().flat_map(|held| &held.leases).map(|lease| &lease.host).collect();
    for lease in after.leases.iter().filter(|lease| !had.contains(&lease.host)) {
        node.tally.port(lease.group.as_ref(), lease.host.protocol);
    }
}

/// The steps after the commit that must succeed, in order.
fn carry_out(
    node: &mut Node,
    settings: &Settings,
    table: &Table,
    change: &Change,
    forwarding: &Forwarding,
) -> Result<(), Error> {
    match &change.anew {
        Some(forwardings) => {
            rebuild(node, table, forwardings)?;
            // Whoever has flushed the table may have flushed others too.
            accept_in_chains_of_others(node, settings);
        }
        None => match node.nat.change(table, &[], &change.add) {
            // A reload of the host's firewall came in between.
            Err(_) if !node.nat.is_intact(table)? => {
                let all = node.store.read()?.of_network(&forwarding.attachment.network)?;
                rebuild(node, table, &all)?;
            }
            changed => changed?,
        },
    }
    // After the guard against 127.0.0.0/8 from outside is in place, not before.
    if let (true, Some(_), Some(link)) = (settings.snat, forwarding.container.v4, &forwarding.link)
    {
        host::enable_route_localnet(link)?;
    }
    publish::publish(&node.run_dir, forwarding)?;
    Ok(())
}

fn rebuild(node: &mut Node, table: &Table, forwardings: &[Forwarding]) -> Result<(), Error> {
    log::info!("making table {} anew", table.name());
    node.nat.rebuild(table, forwardings)?;
    // The first of a network has found none, and nothing was lost.
    node.tally.tables(u64::from(forwardings.len() > 1));
    Ok(())
}

/// What cannot be done there does not keep a container from starting: `restore` and
/// `doctor` tell of it.
fn accept_in_chains_of_others(node: &mut Node, settings: &Settings) {
    for chain in &settings.accept_in {
        let accepted = match node.nat.accepts(chain) {
            Ok(Some(false)) => node.nat.accept(chain),
            Ok(Some(true)) => Ok(()),
            Ok(None) => {
                log::warn!("chain {chain}, which acceptIn names, is not there");
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = accepted {
            log::warn!("{}", Error::from(error).with_causes());
        }
    }
}

/// Puts back what was there before, in the order of a DEL and an ADD.
fn take_back(
    call: &Call,
    node: &mut Node,
    table: &Table,
    lock: &mut Lock,
    before: &Before,
    after: &Forwarding,
) -> Result<(), Error> {
    let mut draft = lock.begin()?;
    draft.remove(&after.attachment, call.moment())?;
    for (key, claim) in &before.claims {
        match claim {
            Some(claim) => draft.reserve(claim)?,
            None => draft.unreserve(key)?,
        };
    }
    for forwarding in &before.forwardings {
        draft.insert(forwarding)?;
    }
    let kept: Vec<Element> = before.forwardings.iter().flat_map(elements).collect();
    node.nat.change(table, &without(release::unshared(&draft, after)?, &kept), &[])?;
    let files = release::project(node, &draft, after)?;
    draft.commit()?;
    node.nat.change(table, &[], &kept)?;
    Ok(files?)
}

/// Forwards again what has already left the kernel and is still in the store.
fn put_back(node: &mut Node, table: &Table, before: &[Forwarding]) {
    for forwarding in before {
        if let Err(error) = node.nat.change(table, &[], &elements(forwarding)) {
            let error = Error::from(error).with_causes();
            log::error!("{} is no longer forwarded to: {error}", forwarding.attachment);
        }
    }
}
