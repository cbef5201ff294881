//! ADD: take ports, forward them, publish them, hand the previous result on.
//!
//! ```text
//! parse → route → LOCK → plan ⇄ probe → (nft: what goes) → commit → nft → sysctl, conntrack
//!       → publish → reply
//! ```
//!
//! Everything is validated before the first effect. If a step after the commit
//! fails, exactly what was done is taken back and the first error is returned.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, UNIX_EPOCH},
};

use super::{
    Call, Error, Node, attachment, log_forgotten, options, refuse_other_sources, release, requests,
};
use crate::{
    allocator::{self, Ledger, PlanError, Pool, Situation},
    cni::{Config, config::HostListeners, config::Settings},
    host,
    lease::{
        Attachment, ContainerAddresses, Forwarding, HostPort, InterfaceName, Lease, Port, PortSet,
        Protocol,
    },
    nat::{self, Element, Table, elements},
    publish,
    request::Request,
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
    refuse_other_sources(config)?;
    let requests = requests(config)?;
    if requests.is_empty() {
        release_without_ports(call, config, node, &attachment, settings.lock_timeout)?;
    } else {
        let container = result.container_addresses(&attachment.interface);
        refuse_unreachable(&requests, &container, &attachment.interface)?;
        let wanted = Wanted { attachment, container, requests, link: link_to(&container)? };
        take(call, node, &settings, options, &wanted)?;
    }
    Ok(result.to_json(config.version))
}

/// A container without ports, as most are: nothing is locked and nothing written,
/// unless it had some before or there is something to put right.
fn release_without_ports(
    call: &Call,
    config: &Config,
    node: &mut Node,
    attachment: &Attachment,
    lock_timeout: Duration,
) -> Result<(), Error> {
    let leases = match node.store.read() {
        // As in DEL: leases that cannot be read are nobody's, and STATUS says so.
        Err(error @ StoreError::Damaged { .. }) => {
            log::error!("nothing is looked for that {attachment} held before: {error}");
            return Ok(());
        }
        read => read?,
    };
    let has_work = leases.forwarding(attachment)?.is_some();
    if !has_work && release::ill_table(config, node, &leases)?.is_none() {
        return Ok(());
    }
    let mut lock = node.store.lock(lock_timeout)?;
    let draft = lock.begin()?;
    let held = draft.forwarding(attachment)?;
    release::release(call, config, node, draft, held.as_slice())
}

/// What one ADD asks for, validated.
struct Wanted {
    attachment: Attachment,
    container: ContainerAddresses,
    requests: Vec<Request>,
    link: Option<InterfaceName>,
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
    let pool_ports = pool_ports(settings)?;
    let group = &settings.groups[&settings.default_group];
    let mut lock = node.store.lock(settings.lock_timeout)?;
    let mut draft = lock.begin()?;
    options.lineage = draft.lineage();
    let table = Table::new(&wanted.attachment.network, &options);
    let previous = draft.forwarding(&wanted.attachment)?;
    let pool =
        Pool { group: &settings.default_group, ports: &pool_ports, cooldown: group.cooldown };
    let leases = plan(call, settings, pool, wanted, previous.as_ref(), &draft)?;
    let forwarding = Forwarding {
        attachment: wanted.attachment.clone(),
        pod: call.environment.pod(),
        container: wanted.container,
        link: wanted.link.clone(),
        since: call.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        leases,
    };
    // Ports that are not kept cool down like those of any other release.
    draft.remove(&forwarding.attachment, call.since_boot)?;
    draft.insert(&forwarding)?;
    let longest = settings.groups.values().map(|group| group.cooldown).max().unwrap_or_default();
    draft.forget_released_before(call.since_boot.saturating_sub(longest))?;
    let change = Change::compute(node, &table, &draft, previous.as_ref(), &forwarding)?;
    let committed = match node.nat.change(&table, &change.remove, &[]) {
        Ok(()) => draft.commit().map_err(Error::from),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = committed {
        if let Some(previous) = &previous {
            put_back(node, &table, previous);
        }
        return Err(error);
    }
    let done = carry_out(node, settings, &table, &change, &forwarding);
    if let Err(error) = done {
        if let Err(undo) = take_back(call, node, &table, &mut lock, previous.as_ref(), &forwarding)
        {
            log::error!("cannot take back what ADD has done: {}", undo.with_causes());
        }
        return Err(error);
    }
    Ok(())
}

/// The ports of the default group that may be given out.
fn pool_ports(settings: &Settings) -> Result<PortSet, Error> {
    /// Kubernetes' default `--service-node-port-range`.
    const NODE_PORTS: &str = "30000-32767";
    let ports = &settings.groups[&settings.default_group].ports;
    if let Some(exclude) = &settings.exclude {
        return Ok(ports.without(exclude));
    }
    let node_ports = NODE_PORTS.parse().expect("the range is a set of ports");
    Ok(ports.without(&host::local_reserved_ports()?.union(&node_ports)))
}

/// Plans until the host uses no port of the plan itself. Each round finds at least
/// one more port that it uses, so there are at most as many rounds as ports.
fn plan(
    call: &Call,
    settings: &Settings,
    pool: Pool<'_>,
    wanted: &Wanted,
    previous: Option<&Forwarding>,
    draft: &View,
) -> Result<Vec<Lease>, Error> {
    let mut in_use = BTreeSet::new();
    let mut rng = fastrand::Rng::new();
    loop {
        let situation = Situation {
            attachment: &wanted.attachment,
            previous: previous.map_or(&[], |previous| &previous.leases),
            in_use: &in_use,
            now: call.since_boot,
        };
        let plan = allocator::plan(&wanted.requests, pool, situation, &Leases(draft), &mut rng);
        let leases = plan.map_err(|error| refusal(draft, error))?;
        let known = in_use.len();
        for lease in &leases {
            match (&lease.group, settings.host_listeners) {
                (Some(_), _) if host::is_in_use(&lease.host)? => _ = in_use.insert(lease.host),
                (None, HostListeners::Refuse) if host::is_listening(&lease.host)? => {
                    return Err(Error::Listening(lease.host));
                }
                _ => {}
            }
        }
        if in_use.len() == known {
            return Ok(leases);
        }
    }
}

/// The leases of a store, for the allocator.
struct Leases<'a>(&'a View);

impl Ledger for Leases<'_> {
    type Error = StoreError;

    fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Attachment)>, StoreError> {
        self.0.holders(protocol, port)
    }

    fn released(&self, protocol: Protocol, port: Port) -> Result<Option<Duration>, StoreError> {
        self.0.released(protocol, port)
    }
}

fn refusal(leases: &View, error: PlanError<StoreError>) -> Error {
    match error {
        PlanError::Held { wanted, holder } => match leases.forwarding(&holder) {
            Ok(held) => {
                let pod = held.and_then(|held| held.pod).map(|pod| format!(" ({pod})"));
                let holder = format!("{holder}{}", pod.unwrap_or_default());
                Error::Held { wanted, holder }
            }
            Err(error) => error.into(),
        },
        PlanError::Exhausted { .. } => Error::Exhausted(error.to_string()),
        PlanError::Ledger(error) => error.into(),
    }
}

/// What must become of the network's table.
struct Change {
    /// What the attachment had and no longer has. Leaves the kernel before the
    /// store forgets whose it was.
    remove: Vec<Element>,
    /// What it is to have.
    add: Vec<Element>,
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
        previous: Option<&Forwarding>,
        forwarding: &Forwarding,
    ) -> Result<Self, Error> {
        let owner = &forwarding.attachment;
        let add = elements(forwarding);
        let remove = match previous {
            Some(previous) => without(release::unshared(draft, previous)?, &add),
            None => Vec::new(),
        };
        // Another attachment's elements are looked at too: a map that was
        // flushed leaves all rules in place.
        let other = draft.any_of_network(&owner.network, owner, fastrand::u32(..))?;
        let other = other.as_ref().map(elements).unwrap_or_default();
        let is_intact = node.nat.is_intact(table)? && node.nat.compare(table, &other)?.is_empty();
        let anew = if is_intact { None } else { Some(draft.of_network(&owner.network)?) };
        Ok(Self { remove, add, anew })
    }
}

fn without(mut elements: Vec<Element>, kept: &[Element]) -> Vec<Element> {
    let kept: HashSet<&Element> = kept.iter().collect();
    elements.retain(|element| !kept.contains(element));
    elements
}

/// The steps after the commit, in order.
fn carry_out(
    node: &mut Node,
    settings: &Settings,
    table: &Table,
    change: &Change,
    forwarding: &Forwarding,
) -> Result<(), Error> {
    match &change.anew {
        Some(forwardings) => rebuild(node, table, forwardings)?,
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
    // Without this, a client that sent before the port was forwarded would not
    // reach the container until it paused; with an error, the same.
    log_forgotten(&forwarding.attachment, host::forget_others(forwarding));
    publish::publish(&node.run_dir, forwarding)?;
    Ok(())
}

fn rebuild(node: &mut Node, table: &Table, forwardings: &[Forwarding]) -> Result<(), Error> {
    log::info!("making table {} anew", table.name());
    Ok(node.nat.rebuild(table, forwardings)?)
}

/// Puts back what was there before, in the order of a DEL and an ADD.
fn take_back(
    call: &Call,
    node: &mut Node,
    table: &Table,
    lock: &mut Lock,
    previous: Option<&Forwarding>,
    forwarding: &Forwarding,
) -> Result<(), Error> {
    let mut draft = lock.begin()?;
    draft.remove(&forwarding.attachment, call.since_boot)?;
    if let Some(previous) = previous {
        draft.insert(previous)?;
    }
    let kept = previous.map(elements).unwrap_or_default();
    node.nat.change(table, &without(release::unshared(&draft, forwarding)?, &kept), &[])?;
    let files = release::project(node, &draft, forwarding)?;
    draft.commit()?;
    node.nat.change(table, &[], &kept)?;
    Ok(files?)
}

/// Forwards again what has already left the kernel and is still in the store.
fn put_back(node: &mut Node, table: &Table, previous: &Forwarding) {
    if let Err(error) = node.nat.change(table, &[], &elements(previous)) {
        let error = Error::from(error).with_causes();
        log::error!("{} is no longer forwarded to: {error}", previous.attachment);
    }
}
