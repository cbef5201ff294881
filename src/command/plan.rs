//! What an ADD gets: the pools of the node, the plan, and the host's part in it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Call, Error, Exclusion};
use crate::{
    allocator::{self, Plan, PlanError, Pool, Situation},
    cni::config::{HostListeners, Settings},
    host::{self, Namespaces, Presence},
    lease::{
        Attachment, Claim, ContainerAddresses, Forwarding, GroupName, HealthCheck, InterfaceName,
        Lease, Namespace, Owner, Pod, Strategy,
    },
    request::{self, Choice, Request, RequestError},
    store::{StoreError, View},
};

/// What one ADD asks for, validated.
pub(super) struct Wanted {
    pub(super) attachment: Attachment,
    pub(super) pod: Option<Pod>,
    pub(super) container: ContainerAddresses,
    pub(super) requests: Vec<Request>,
    pub(super) link: Option<InterfaceName>,
    pub(super) health: Option<HealthCheck>,
}

/// The groups that an ADD asks for ports of, and what may be given of them.
pub(super) struct Pools(pub(super) BTreeMap<GroupName, Pool>);

impl Pools {
    pub(super) fn new(settings: &Settings, requests: &[Request]) -> Result<Self, Error> {
        let dynamic = requests.iter().filter_map(|request| match &request.choice {
            Choice::Dynamic(dynamic) => Some(&dynamic.group),
            Choice::Static(_) => None,
        });
        let used: BTreeSet<&GroupName> = dynamic.collect();
        if used.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let exclude = Exclusion::read(settings)?.ports();
        let pool = |name: &&GroupName| {
            let group = &settings.groups[*name];
            let ports = group.ports.without(&exclude);
            let pool = Pool {
                excluded: group.ports.len() - ports.len(),
                ports,
                cooldown: group.cooldown,
                claim_ttl: group.claim_ttl,
                is_remembered: group.strategy == Strategy::LeastRecentlyUsed,
            };
            ((*name).clone(), pool)
        };
        let pools = Self(used.iter().map(pool).collect());
        pools.warn_of_ephemeral_ports()?;
        Ok(pools)
    }

    /// The bind probe sees a socket that is there. One that the kernel gives such a
    /// port later gets no packets.
    fn warn_of_ephemeral_ports(&self) -> Result<(), Error> {
        let ephemeral = host::ephemeral_ports()?;
        for (name, pool) in &self.0 {
            let both = pool.ports.without(&pool.ports.without(&ephemeral));
            if !both.is_empty() {
                log::warn!(
                    "the host gives ports {both} of group {name:?} to its own connections too \
                     (net.ipv4.ip_local_port_range): use other ports, or narrow that range",
                    name = name.as_str(),
                );
            }
        }
        Ok(())
    }
}

/// Plans until the host uses no port of the plan itself, and nobody who is gone is
/// in the way. Each round finds at least one more port that the host uses, or one
/// more such holder, so there are at most as many rounds as ports and holders.
/// Returns the plan, and everything that it takes the place of.
pub(super) fn plan(
    call: &Call,
    settings: &Settings,
    pools: &Pools,
    wanted: &Wanted,
    mut previous: Vec<Forwarding>,
    leases: &View,
) -> Result<(Plan, Vec<Forwarding>), Error> {
    let mut in_use = BTreeSet::new();
    let mut rng = fastrand::Rng::new();
    let namespace = wanted.pod.as_ref().map(|pod| &pod.namespace);
    loop {
        let situation = Situation {
            attachment: Some(&wanted.attachment),
            namespace,
            previous: &previous,
            pools: &pools.0,
            in_use: &in_use,
            now: call.since_boot,
        };
        let plan = allocator::plan(&wanted.requests, situation, leases, &mut rng);
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                let Some(gone) = gone_holder(leases, &wanted.attachment, &error)? else {
                    return Err(refusal(leases, error));
                };
                log::warn!("{} is gone without a DEL: its ports are given back", gone.attachment);
                previous.push(gone);
                continue;
            }
        };
        let known = in_use.len();
        for lease in &plan.leases {
            match (&lease.group, settings.host_listeners) {
                (Some(_), _) if is_out_of_reach(lease, namespace, &previous, leases)? => {
                    in_use.insert(lease.host);
                }
                (None, HostListeners::Refuse) if host::is_listening(&lease.host)? => {
                    return Err(Error::Listening(lease.host));
                }
                _ => {}
            }
        }
        if in_use.len() == known {
            refuse_more_than_a_quota(settings, namespace, &previous, &plan, leases)?;
            warn_of_moves(leases, &plan.claims)?;
            return Ok((plan, previous));
        }
    }
}

/// Who stands in the way of a plan, if its sandbox is gone: containerd calls no GC,
/// and a runtime that lost its state sends no DEL, so the pod would wait for ever.
/// Only of the same network, whose table this ADD changes.
fn gone_holder(
    leases: &View,
    owner: &Attachment,
    error: &PlanError<StoreError>,
) -> Result<Option<Forwarding>, Error> {
    let (PlanError::Held { holder: Owner::Attachment(holder), .. }
    | PlanError::ClaimHeld { holder, .. }) = error
    else {
        return Ok(None);
    };
    let held = leases.forwarding(holder)?.filter(|_| holder.network == owner.network);
    let Some(held) = held else { return Ok(None) };
    let Some(sandbox) = &held.sandbox else { return Ok(None) };
    let presence = Namespaces::look()?.presence(sandbox, &held.container);
    Ok((presence == Presence::Gone).then_some(held))
}

/// Whether the host uses a port that is not asked for by number. Of one that is
/// kept it may be the near end of a connection of the host's: that takes no harm,
/// and a claim must not move for it.
fn is_out_of_reach(
    lease: &Lease,
    namespace: Option<&Namespace>,
    previous: &[Forwarding],
    leases: &View,
) -> Result<bool, Error> {
    if !host::is_in_use(&lease.host)? {
        return Ok(false);
    }
    let is_held = previous.iter().flat_map(|held| &held.leases).any(|it| it.host == lease.host);
    let is_kept = is_held || is_reserved(lease, namespace, leases)?;
    Ok(!is_kept || host::is_listening(&lease.host)?)
}

/// Whether the claim of a lease reserves its port already.
fn is_reserved(
    lease: &Lease,
    namespace: Option<&Namespace>,
    leases: &View,
) -> Result<bool, StoreError> {
    let Some(key) = lease.claim_key(namespace) else { return Ok(false) };
    let claim = leases.claim(&key)?;
    Ok(claim.is_some_and(|claim| claim.ports().any(|port| port.port == lease.host.port)))
}

/// Refuses what would give a namespace more of a group than it may have. What its
/// claims keep for it counts as well, or they would be a way around the limit.
fn refuse_more_than_a_quota(
    settings: &Settings,
    namespace: Option<&Namespace>,
    previous: &[Forwarding],
    plan: &Plan,
    leases: &View,
) -> Result<(), Error> {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut others = None;
    for (name, group) in &settings.groups {
        let of_group = |lease: &&Lease| lease.group.as_ref() == Some(name);
        let wanted = plan.leases.iter().filter(of_group).count();
        if wanted == 0 || group.max_per_namespace.is_none() {
            continue;
        }
        let (held, unused) = match &others {
            Some(others) => others,
            None => others.insert(others_of(namespace, previous, &plan.claims, leases)?),
        };
        let taken = held.iter().flat_map(|held| &held.leases).filter(of_group).count();
        let reserved = unused.iter().filter(|claim| claim.group == *name);
        let reserved: u32 = reserved.map(|claim| u32::from(claim.count)).sum();
        let held = count(taken).saturating_add(reserved);
        request::namespace_quota(name, group, held, count(wanted), namespace)
            .map_err(RequestError::from)?;
    }
    Ok(())
}

/// What a namespace has beside what goes and comes with an ADD: what is held, and
/// the claims that nobody uses, or nobody will: those that what goes has used.
fn others_of(
    namespace: Option<&Namespace>,
    previous: &[Forwarding],
    claims: &[Claim],
    leases: &View,
) -> Result<(Vec<Forwarding>, Vec<Claim>), StoreError> {
    let goes = |owner: &Attachment| previous.iter().any(|gone| gone.attachment == *owner);
    let mut held = match namespace {
        Some(namespace) => leases.of_namespace(namespace)?,
        None => leases.forwardings()?,
    };
    held.retain(|other| other.namespace() == namespace && !goes(&other.attachment));
    let mut unused = leases.claims_of(namespace)?;
    unused.retain(|claim| {
        claim.holder.as_ref().is_none_or(goes) && claims.iter().all(|used| used.key != claim.key)
    });
    Ok((held, unused))
}

/// A claim that does not give the same port again is worth a line.
fn warn_of_moves(leases: &View, claims: &[Claim]) -> Result<(), Error> {
    for claim in claims {
        if let Some(before) = leases.claim(&claim.key)?
            && before.port != claim.port
        {
            let (key, from, to) = (&claim.key, before.port, claim.port);
            log::warn!("claim {key} moves from port {from} to {to}: the old one cannot be had");
        }
    }
    Ok(())
}

/// What a plan is refused for, as the one who asks reads it.
pub(super) fn refusal(leases: &View, error: PlanError<StoreError>) -> Error {
    describe(leases, error).unwrap_or_else(Error::from)
}

/// The error with what the store says of those it names.
fn describe(leases: &View, error: PlanError<StoreError>) -> Result<Error, StoreError> {
    Ok(match error {
        PlanError::Held { wanted, holder } => {
            Error::Held { wanted, holder: described(leases, &holder)? }
        }
        PlanError::Reserved { wanted, claim } => Error::Reserved { wanted, claim },
        PlanError::Twice { wanted } => Error::Twice(wanted),
        PlanError::ClaimHeld { claim, holder } => {
            Error::ClaimHeld { claim: *claim, holder: described(leases, &holder.into())? }
        }
        PlanError::Exhausted(exhaustion) => {
            let most = most(leases, &exhaustion.holders)?;
            let most = most.map(|(who, count)| format!("; {who} has most, {count}"));
            Error::Exhausted(format!("{exhaustion}{}", most.unwrap_or_default()))
        }
        PlanError::Ledger(error) => return Err(error),
    })
}

/// A module, or an attachment and the pod behind it.
fn described(leases: &View, holder: &Owner) -> Result<String, StoreError> {
    let pod = pod_of(leases, holder)?;
    Ok(format!("{holder}{}", pod.map(|pod| format!(" ({pod})")).unwrap_or_default()))
}

fn pod_of(leases: &View, holder: &Owner) -> Result<Option<Pod>, StoreError> {
    match holder {
        Owner::Attachment(holder) => Ok(leases.forwarding(holder)?.and_then(|held| held.pod)),
        Owner::Module(_) => Ok(None),
    }
}

/// Who has most of a group's ports: a namespace, or a module or container without one.
fn most(leases: &View, holders: &[(Owner, u32)]) -> Result<Option<(String, u32)>, StoreError> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for (holder, count) in holders {
        let who = match pod_of(leases, holder)? {
            Some(pod) => format!("namespace \"{}\"", pod.namespace),
            None => holder.to_string(),
        };
        *counts.entry(who).or_default() += count;
    }
    Ok(counts.into_iter().max_by_key(|(_, count)| *count))
}
