//! The plan: which host port each request gets. Pure: who holds what is asked of
//! a [`Ledger`], chance comes from the generator passed in.
//!
//! A plan is all or nothing. It takes nothing by itself; whoever carries it out
//! must hold the lock under which the ledger was read.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    lease::{Attachment, HostPort, Lease, Port, PortSet, Protocol},
    request::Request,
};

/// What a plan needs to know of the leases there are.
pub trait Ledger {
    /// Why it cannot answer.
    type Error;

    /// Everything held on this port of this protocol, on whatever address.
    fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Attachment)>, Self::Error>;

    /// When the port was last given back, in time since boot.
    fn released(&self, protocol: Protocol, port: Port) -> Result<Option<Duration>, Self::Error>;
}

/// The pool that dynamic requests are served from.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// The group's name.
    pub group: &'a str,
    /// The ports that may be given, after exclusions.
    pub ports: &'a PortSet,
    /// How long a port rests after its release, while others are free.
    pub cooldown: Duration,
}

/// What surrounds a plan.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// For whom it is made: what it holds already is free for it.
    pub attachment: &'a Attachment,
    /// What it holds already; kept where it can be.
    pub previous: &'a [Lease],
    /// Ports that processes of the host were seen to use.
    pub in_use: &'a BTreeSet<HostPort>,
    /// The time since boot.
    pub now: Duration,
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
        holder: Attachment,
    },
    /// No port of the group is left.
    #[error("group {group:?} has no free {protocol} port: {leased} of {size} leased")]
    Exhausted {
        /// The group.
        group: String,
        /// The protocol.
        protocol: Protocol,
        /// How many of its ports are held by somebody.
        leased: u32,
        /// How many ports it has, exclusions taken off.
        size: u32,
    },
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(E),
}

/// Gives each request its host port, in the order of the requests.
///
/// Static ports first, so that no dynamic one takes them. A dynamic request gets
/// the port that it had before, else one drawn uniformly from those that are
/// free, past their cool-down and not used by the host; when none is left but ports
/// that are cooling down, the one released longest ago.
pub fn plan<L: Ledger>(
    requests: &[Request],
    pool: Pool<'_>,
    situation: Situation<'_>,
    ledger: &L,
    rng: &mut fastrand::Rng,
) -> Result<Vec<Lease>, PlanError<L::Error>> {
    let mut plan = Plan { pool, situation, ledger, taken: Vec::with_capacity(requests.len()) };
    for wanted in requests.iter().filter_map(Request::static_port) {
        if let Some(holder) = plan.holder(wanted)? {
            return Err(PlanError::Held { wanted, holder });
        }
        plan.taken.push(wanted);
    }
    let mut kept = plan.keep(requests)?;
    let mut leases = Vec::with_capacity(requests.len());
    for (request, kept) in requests.iter().zip(&mut kept) {
        let (host, group) = match (request.static_port(), kept.take()) {
            (Some(host), _) => (host, None),
            (None, Some(host)) => (host, Some(pool.group.to_owned())),
            (None, None) => (plan.draw(request, rng)?, Some(pool.group.to_owned())),
        };
        leases.push(Lease { host, container_port: request.container_port, group });
    }
    Ok(leases)
}

struct Plan<'a, L> {
    pool: Pool<'a>,
    situation: Situation<'a>,
    ledger: &'a L,
    taken: Vec<HostPort>,
}

impl<L: Ledger> Plan<'_, L> {
    /// Another owner that stands in the way of `wanted`.
    fn holder(&self, wanted: HostPort) -> Result<Option<Attachment>, PlanError<L::Error>> {
        let holders = self.ledger.holders(wanted.protocol, wanted.port);
        let holders = holders.map_err(PlanError::Ledger)?.into_iter();
        let mut others = holders.filter(|(_, owner)| owner != self.situation.attachment);
        Ok(others.find(|(host, _)| host.conflicts_with(&wanted)).map(|(_, owner)| owner))
    }

    fn is_free(&self, host: HostPort) -> Result<bool, PlanError<L::Error>> {
        let is_taken = self.taken.iter().any(|taken| taken.conflicts_with(&host));
        let is_free = !is_taken && !self.situation.in_use.contains(&host);
        Ok(is_free && self.holder(host)?.is_none())
    }

    /// When the port was given back, if it is still cooling down.
    fn cooling_since(&self, host: HostPort) -> Result<Option<Duration>, PlanError<L::Error>> {
        let released = self.ledger.released(host.protocol, host.port).map_err(PlanError::Ledger)?;
        let end = |released: Duration| released.saturating_add(self.pool.cooldown);
        Ok(released.filter(|released| end(*released) > self.situation.now))
    }

    /// Takes for each dynamic request the port it had before, where it is still
    /// to be had.
    fn keep(&mut self, requests: &[Request]) -> Result<Vec<Option<HostPort>>, PlanError<L::Error>> {
        let mut previous: Vec<&Lease> = self.situation.previous.iter().collect();
        let mut kept = vec![None; requests.len()];
        for (request, kept) in requests.iter().zip(&mut kept) {
            let same = |lease: &&Lease| {
                lease.group.as_deref() == Some(self.pool.group)
                    && lease.container_port == request.container_port
                    && lease.host == request.on(lease.host.port)
                    && self.pool.ports.contains(lease.host.port)
            };
            if request.host_port.is_some() {
                continue;
            }
            let Some(at) = previous.iter().position(same) else { continue };
            let host = previous.swap_remove(at).host;
            if self.is_free(host)? {
                self.taken.push(host);
                *kept = Some(host);
            }
        }
        Ok(kept)
    }

    fn draw(
        &mut self,
        request: &Request,
        rng: &mut fastrand::Rng,
    ) -> Result<HostPort, PlanError<L::Error>> {
        /// Tries before all ports are looked at: enough to find one in a pool
        /// that is up to nine tenths full nineteen times of twenty.
        const TRIES: usize = 28;
        let size = self.pool.ports.len();
        // A port drawn from all of them, and again while it is not free, is
        // drawn uniformly from the free ones.
        for _ in 0..if size == 0 { 0 } else { TRIES } {
            let port = self.pool.ports.nth(rng.u32(..size)).expect("the index is below the size");
            let host = request.on(port);
            if self.is_free(host)? && self.cooling_since(host)?.is_none() {
                self.taken.push(host);
                return Ok(host);
            }
        }
        let mut rested = Vec::new();
        let mut cooling = None;
        for port in self.pool.ports.iter() {
            let host = request.on(port);
            if !self.is_free(host)? {
                continue;
            }
            match self.cooling_since(host)? {
                None => rested.push(host),
                Some(since) => cooling = cooling.into_iter().chain([(since, host)]).min(),
            }
        }
        let found = rng.choice(rested).or(cooling.map(|(_, host)| host));
        let Some(host) = found else { return Err(self.exhausted(request)?) };
        self.taken.push(host);
        Ok(host)
    }

    fn exhausted(&self, request: &Request) -> Result<PlanError<L::Error>, PlanError<L::Error>> {
        let mut leased = 0;
        for port in self.pool.ports.iter() {
            let host = request.on(port);
            let is_taken = self.taken.iter().any(|taken| taken.conflicts_with(&host));
            leased += u32::from(is_taken || self.holder(host)?.is_some());
        }
        Ok(PlanError::Exhausted {
            group: self.pool.group.to_owned(),
            protocol: request.protocol,
            leased,
            size: self.pool.ports.len(),
        })
    }
}

#[cfg(test)]
mod tests;
