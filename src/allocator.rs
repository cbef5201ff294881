//! The plan: which host port each request gets. Pure: who holds what is asked of
//! a [`Ledger`], chance comes from the generator passed in.
//!
//! A plan is all or nothing. It takes nothing by itself; whoever carries it out
//! must hold the lock under which the ledger was read.
//!
//! Ports are given in this order, so that what is owed comes before what is drawn:
//! static ones, those that claims reserve, those that the container had before,
//! preferred ones, and then those that are drawn, the hardest to place first.
//!
//! Limits. Single ports of one group, of the same protocols and on every address,
//! are found as long as one is left. Where blocks, sets of protocols, overlapping
//! groups or host addresses get into each other's way, the draws are made anew,
//! packed tightly, and up to 1,000 choices are taken back. What needs more than
//! that is refused although it could be placed. Ports that were kept, or taken
//! because they are preferred, are not moved for it.

mod candidate;
mod draw;
mod exhaustion;
mod ledger;
mod pack;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    lease::{
        Attachment, Claim, ClaimKey, Forwarding, GroupName, HostPort, Lease, Namespace, Owner,
        Port, PortSet, Rest,
    },
    request::{Choice, ContainerPort, Request},
};

pub use exhaustion::Exhaustion;
pub use ledger::Ledger;

use candidate::{Bound, Obstacle, Ports, Wish};

/// The pool that is behind a group's name.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The ports that may be given, after exclusions.
    pub ports: PortSet,
    /// How many ports of the group are excluded.
    pub excluded: u32,
    /// How long a port rests after its release, while others are free.
    pub cooldown: Duration,
    /// Whether the time of a release is remembered for as long as the node runs:
    /// the group's strategy is [`crate::lease::Strategy::LeastRecentlyUsed`].
    pub is_remembered: bool,
    /// How long a claim is kept that nobody uses.
    pub claim_ttl: Duration,
}

/// What surrounds a plan.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// For which attachment it is made; none: for a module, to which only what nobody
    /// holds is free, and which has no claims.
    pub attachment: Option<&'a Attachment>,
    /// The namespace of its pod, which its claims belong to.
    pub namespace: Option<&'a Namespace>,
    /// What goes as the plan is carried out: what the attachment holds itself, and
    /// what earlier sandboxes of its pod hold. Free for it, and kept where it can be.
    pub previous: &'a [Forwarding],
    /// The pools by the names of their groups; there is one for each request.
    pub pools: &'a BTreeMap<GroupName, Pool>,
    /// Ports that processes of the host were seen to use. No dynamic port is given
    /// that a packet to one of them could be meant for.
    pub in_use: &'a BTreeSet<HostPort>,
    /// The time since boot. [`Duration::MAX`]: no port rests any more.
    pub now: Duration,
}

/// What each request gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The leases, in the order of the requests, port and protocol.
    pub leases: Vec<Lease>,
    /// The claims as they are to be, held by the attachment, in the order of the
    /// requests and protocol. A claim that moved is among them with its new port.
    pub claims: Vec<Claim>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError<E> {
    /// Another owner holds a port that was asked for by number.
    #[error("host port {wanted} is held by {holder}")]
    Held {
        /// What was asked for.
        wanted: HostPort,
        /// Who holds it, or a part of it.
        holder: Owner,
    },
    /// A port that was asked for by number is reserved, be it by a claim of the
    /// attachment's own.
    #[error("host port {wanted} is reserved by claim {claim}")]
    Reserved {
        /// What was asked for.
        wanted: HostPort,
        /// What it is reserved by.
        claim: ClaimKey,
    },
    /// Two requests ask for one port by number.
    #[error("host port {wanted} is asked for twice")]
    Twice {
        /// What the second asks for.
        wanted: HostPort,
    },
    /// Another attachment uses the claim, and is still there.
    #[error("claim {claim} is held by {holder}")]
    ClaimHeld {
        /// The claim.
        claim: Box<ClaimKey>,
        /// Who uses it.
        holder: Attachment,
    },
    /// The ports of a group that are left do not do.
    #[error("{0}")]
    Exhausted(Box<Exhaustion>),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(E),
}

impl<E> From<E> for PlanError<E> {
    fn from(error: E) -> Self {
        Self::Ledger(error)
    }
}

/// Gives each request its host ports, in the order of the requests.
///
/// Static ports are taken as they are asked for: neither cool-downs, nor exclusions,
/// nor host processes stand in their way. A claim that has a record gets the ports
/// that it reserves, also while they cool down, and new ones only when those no
/// longer do. Ports that a claim reserves, used or not, are given to nobody else.
/// Everything else is kept, preferred or drawn as [`Dynamic`](crate::request::Dynamic)
/// says; a port that still rests is drawn only when no other one is left.
///
/// The same generator in the same state makes the same plan.
pub fn plan<L: Ledger>(
    requests: &[Request],
    situation: Situation<'_>,
    ledger: &L,
    rng: &mut fastrand::Rng,
) -> Result<Plan, PlanError<L::Error>> {
    let mut ports = Ports::new(situation, ledger);
    take_static(requests, &mut ports)?;
    let mut wishes = wishes(requests, situation, ledger)?;
    for wish in &mut wishes {
        let records: Vec<Port> = wish.records.iter().map(|record| record.port).collect();
        ports.take_first_fitting(wish, Bound::Pool, records)?;
    }
    keep(&mut wishes, situation.previous, &mut ports)?;
    for wish in wishes.iter_mut().filter(|wish| wish.first.is_none()) {
        ports.take_first_fitting(wish, Bound::From, wish.dynamic.preferred)?;
    }
    draw(&mut wishes, &mut ports, rng)?;
    Ok(written_down(requests, &wishes, situation))
}

/// Static ports first, so that no dynamic request takes them.
fn take_static<L: Ledger>(
    requests: &[Request],
    ports: &mut Ports<'_, L>,
) -> Result<(), PlanError<L::Error>> {
    for wanted in requests.iter().flat_map(Request::static_ports) {
        if ports.is_taken(wanted) {
            return Err(PlanError::Twice { wanted });
        }
        let found = ports.obstacles(wanted)?.next().cloned();
        match found {
            Some(Obstacle::Holder(holder)) => return Err(PlanError::Held { wanted, holder }),
            Some(Obstacle::Claim(claim)) => return Err(PlanError::Reserved { wanted, claim }),
            None => ports.take([wanted]),
        }
    }
    Ok(())
}

/// The dynamic requests, each with the records of its claim.
fn wishes<'a, L: Ledger>(
    requests: &'a [Request],
    situation: Situation<'a>,
    ledger: &L,
) -> Result<Vec<Wish<'a>>, PlanError<L::Error>> {
    let mut wishes = Vec::with_capacity(requests.len());
    for request in requests {
        let Choice::Dynamic(dynamic) = &request.choice else { continue };
        let pool = situation.pools.get(&dynamic.group).expect("each request's group has a pool");
        let mut wish = Wish { request, dynamic, pool, records: Vec::new(), first: None };
        for key in wish.claim_keys(situation.namespace) {
            let Some(record) = ledger.claim(&key)? else { continue };
            match &record.holder {
                Some(holder) if !situation.is_of_own(holder) => {
                    return Err(PlanError::ClaimHeld {
                        claim: Box::new(key),
                        holder: holder.clone(),
                    });
                }
                _ => wish.records.push(record),
            }
        }
        wishes.push(wish);
    }
    Ok(wishes)
}

/// Takes for each request the ports that it had before, where they are still to be
/// had: those under its name, or, where it has none, those that led to the same
/// container ports. Claims with a record have their own way of staying.
fn keep<L: Ledger>(
    wishes: &mut [Wish<'_>],
    previous: &[Forwarding],
    ports: &mut Ports<'_, L>,
) -> Result<(), L::Error> {
    let mut leases: Vec<&Lease> = previous.iter().flat_map(|held| &held.leases).collect();
    for wish in wishes.iter_mut().filter(|wish| wish.records.is_empty()) {
        let matching: Vec<&Lease> = leases.iter().filter(|it| was(wish, it)).copied().collect();
        for first in matching.iter().map(|lease| lease.host.port) {
            let Some(before) = held_before(wish, first, &matching) else { continue };
            if ports.take_first_fitting(wish, Bound::From, [first])? {
                leases.retain(|lease| !before.iter().any(|used| std::ptr::eq(*used, *lease)));
                break;
            }
        }
    }
    Ok(())
}

/// Whether the lease was held for what the wish asks for, or for a part of it.
fn was(wish: &Wish<'_>, lease: &Lease) -> bool {
    let Wish { request, dynamic, .. } = wish;
    let leads_there = || match request.container {
        ContainerPort::Same => lease.container_port == lease.host.port,
        ContainerPort::Number(lowest) => {
            let above = lease.container_port.number().checked_sub(lowest.number());
            above.is_some_and(|above| above < request.count)
        }
    };
    lease.name == request.name
        && lease.group.as_ref() == Some(&dynamic.group)
        && (request.name.is_some() || leads_there())
}

/// The leases that are what the wish gets when its ports begin at `first`.
fn held_before<'l>(wish: &Wish<'_>, first: Port, leases: &[&'l Lease]) -> Option<Vec<&'l Lease>> {
    let is_named = wish.request.name.is_some();
    let held = wish.request.on(first)?.into_iter();
    held.map(|(host, container)| {
        let mut leases = leases.iter().copied();
        leases.find(|lease| lease.host == host && (is_named || lease.container_port == container))
    })
    .collect()
}

/// Draws ports for the requests that have none yet, those first that are hardest to
/// place: large ones, then those with several protocols, then small pools.
fn draw<'a, L: Ledger>(
    wishes: &mut [Wish<'a>],
    ports: &mut Ports<'a, L>,
    rng: &mut fastrand::Rng,
) -> Result<(), PlanError<L::Error>> {
    let mut open: Vec<&mut Wish<'a>> = wishes.iter_mut().filter(|w| w.first.is_none()).collect();
    open.sort_by_key(|wish| {
        let request = wish.request;
        (Reverse(request.count), Reverse(request.protocols.len()), wish.pool.ports.len())
    });
    let before = ports.mark();
    for at in 0..open.len() {
        if let Some(first) = ports.draw(open[at], rng)? {
            ports.take_wish(open[at], first);
            continue;
        }
        let drawn = ports.put_back(before);
        if let Some(packed) = ports.pack(&open)? {
            for (wish, first) in open.iter_mut().zip(packed) {
                ports.take_wish(wish, first);
            }
            return Ok(());
        }
        ports.take(drawn);
        return Err(PlanError::Exhausted(Box::new(ports.exhaustion(open[at])?)));
    }
    Ok(())
}

/// The plan, once every request has its ports.
fn written_down(requests: &[Request], wishes: &[Wish<'_>], situation: Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut wishes = wishes.iter();
    for request in requests {
        let (first, group, claim, rest) = match &request.choice {
            Choice::Static(first) => (*first, None, None, None),
            Choice::Dynamic(dynamic) => {
                let wish = wishes.next().expect("each dynamic request is a wish");
                let first = wish.first.expect("each wish was served");
                plan.claims.extend(wish.claims(first, situation));
                let cooldown = u64::try_from(wish.pool.cooldown.as_millis()).unwrap_or(u64::MAX);
                let rest = Rest { cooldown, is_remembered: wish.pool.is_remembered };
                (first, Some(&dynamic.group), dynamic.claim.as_ref(), Some(rest))
            }
        };
        let held = request.on(first).expect("only ports that exist are given");
        plan.leases.extend(held.into_iter().map(|(host, container_port)| Lease {
            host,
            container_port,
            name: request.name.clone(),
            group: group.cloned(),
            claim: claim.cloned(),
            rest,
        }));
    }
    plan
}

impl Situation<'_> {
    /// Whether what it holds is free for the plan.
    fn is_own(&self, holder: &Owner) -> bool {
        matches!(holder, Owner::Attachment(holder) if self.is_of_own(holder))
    }

    fn is_of_own(&self, holder: &Attachment) -> bool {
        Some(holder) == self.attachment
            || self.previous.iter().any(|held| held.attachment == *holder)
    }
}

#[cfg(test)]
mod tests;
