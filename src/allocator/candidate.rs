//! What is free: the ports that a request may get, and what stands in the way of
//! the others.
//!
//! For requests on every address a port with any holder or claim is out, so bitmaps
//! decide. For narrower ones they only say which ports must be asked about: one by
//! one as they are drawn, or, once that took long, all of them ([`Ports::settle`]).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Ledger, Pool, Situation};
use crate::{
    lease::{
        Claim, ClaimKey, GroupName, HostAddress, HostPort, Namespace, Owner, Port, PortMap,
        Protocol, Release,
    },
    request::{Dynamic, Request},
};

/// A dynamic request with what it is served from.
#[derive(Clone, Debug)]
pub(super) struct Wish<'a> {
    pub(super) request: &'a Request,
    pub(super) dynamic: &'a Dynamic,
    pub(super) pool: &'a Pool,
    /// What its claim reserves already, in the order of protocols. Free for it.
    pub(super) records: Vec<Claim>,
    /// The lowest port that it gets, once that is known.
    pub(super) first: Option<Port>,
}

impl Wish<'_> {
    /// What its claim is known by, one key for each protocol; none without a claim.
    pub(super) fn claim_keys(&self, namespace: Option<&Namespace>) -> Vec<ClaimKey> {
        let Some(claim) = &self.dynamic.claim else { return Vec::new() };
        let name = self.request.name.as_ref().expect("a request with a claim has a name");
        let key = |protocol| ClaimKey {
            namespace: namespace.cloned(),
            claim: claim.clone(),
            name: name.clone(),
            protocol,
        };
        self.request.protocols.iter().map(key).collect()
    }

    /// Its claim as it is to be when its ports begin at `first`.
    pub(super) fn claims(&self, first: Port, situation: Situation<'_>) -> Vec<Claim> {
        let keys = self.claim_keys(situation.namespace).into_iter();
        let claim = |key| Claim {
            key,
            port: first,
            count: self.request.count,
            address: self.request.address,
            group: self.dynamic.group.clone(),
            ttl: self.pool.claim_ttl.as_secs(),
            holder: situation.attachment.cloned(),
            expires: None,
        };
        keys.map(claim).collect()
    }

    pub(super) fn owns(&self, claim: &ClaimKey) -> bool {
        self.records.iter().any(|record| record.key == *claim)
    }
}

/// How low the ports may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Anywhere in the pool.
    Pool,
    /// In the pool, from [`Dynamic::from`] up.
    From,
}

/// What stands in the way of a port that is not the attachment's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Another owner holds it.
    Holder(Owner),
    /// It is reserved.
    Claim(ClaimKey),
}

/// What the ledger says about the ports of one protocol.
struct Occupied {
    /// The ports that others hold.
    held: PortMap,
    /// The ports that a claim is about.
    claimed: PortMap,
    /// Both.
    either: PortMap,
}

/// When the ports of one protocol were given back.
pub(super) struct Released {
    /// The ports whose release is remembered.
    pub(super) all: PortMap,
    /// Those of them that still rest.
    pub(super) resting: PortMap,
    /// The time of each release, the oldest first.
    by_age: Vec<(Duration, Port)>,
    /// The same, of those ports only that others do not hold. Nodes that are nearly
    /// full have far fewer of these.
    by_age_unheld: Vec<(Duration, Port)>,
}

/// The ports of the node as a plan sees them. What was asked of the ledger once is
/// not asked again.
pub(super) struct Ports<'a, L> {
    pub(super) situation: Situation<'a>,
    ledger: &'a L,
    /// What the plan has given so far, in order.
    pub(super) taken: Vec<HostPort>,
    pools: BTreeMap<&'a GroupName, PortMap>,
    occupied: BTreeMap<Protocol, Occupied>,
    released: BTreeMap<Protocol, Released>,
    obstacles: HashMap<(Protocol, Port), Vec<(HostAddress, Obstacle)>>,
    /// The ports of a group with an obstacle on an address, where all were asked
    /// about.
    settled: BTreeMap<(&'a GroupName, Protocol, HostAddress), PortMap>,
}

impl<'a, L: Ledger> Ports<'a, L> {
    pub(super) fn new(situation: Situation<'a>, ledger: &'a L) -> Self {
        Self {
            situation,
            ledger,
            taken: Vec::new(),
            pools: BTreeMap::new(),
            occupied: BTreeMap::new(),
            released: BTreeMap::new(),
            obstacles: HashMap::new(),
            settled: BTreeMap::new(),
        }
    }

    pub(super) fn take(&mut self, ports: impl IntoIterator<Item = HostPort>) {
        self.taken.extend(ports);
    }

    /// Gives the wish its ports.
    pub(super) fn take_wish(&mut self, wish: &mut Wish<'_>, first: Port) {
        self.take_from(wish, first);
        wish.first = Some(first);
    }

    /// Takes what the wish would get.
    pub(super) fn take_from(&mut self, wish: &Wish<'_>, first: Port) {
        let held = wish.request.on(first).expect("only ports that exist are given");
        self.take(held.into_iter().map(|(host, _)| host));
    }

    /// The moment to which [`Ports::put_back`] goes back.
    pub(super) fn mark(&self) -> usize {
        self.taken.len()
    }

    /// Undoes what was taken since, and returns it.
    pub(super) fn put_back(&mut self, mark: usize) -> Vec<HostPort> {
        self.taken.split_off(mark)
    }

    pub(super) fn is_taken(&self, host: HostPort) -> bool {
        self.taken.iter().any(|taken| taken.conflicts_with(&host))
    }

    fn is_in_use(&self, host: HostPort) -> bool {
        self.situation.in_use.iter().any(|used| used.conflicts_with(&host))
    }

    /// Gives the wish the first of these ports from which on all that it asks for
    /// is to be had; whether there is one. Cool-downs do not matter.
    pub(super) fn take_first_fitting(
        &mut self,
        wish: &mut Wish<'_>,
        bound: Bound,
        candidates: impl IntoIterator<Item = Port>,
    ) -> Result<bool, L::Error> {
        for first in candidates {
            let is_low = bound == Bound::From && wish.dynamic.from.is_some_and(|from| first < from);
            if !is_low && self.fits(wish, first)? {
                self.take_wish(wish, first);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fits(&mut self, wish: &Wish<'_>, first: Port) -> Result<bool, L::Error> {
        let Some(held) = wish.request.on(first) else { return Ok(false) };
        for (host, _) in held {
            if !wish.pool.ports.contains(host.port) || !self.is_free(wish, host)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_free(&mut self, wish: &Wish<'_>, host: HostPort) -> Result<bool, L::Error> {
        if self.is_taken(host) || self.is_in_use(host) {
            return Ok(false);
        }
        let mut obstacles = self.obstacles(host)?;
        Ok(obstacles.all(|it| matches!(it, Obstacle::Claim(claim) if wish.owns(claim))))
    }

    /// What stands in the way of a port on its address, holders first, claims of the
    /// attachment's own among it.
    pub(super) fn obstacles(
        &mut self,
        host: HostPort,
    ) -> Result<impl Iterator<Item = &Obstacle>, L::Error> {
        let HostPort { protocol, port, address } = host;
        let (mut may_be_held, mut may_be_claimed) = (true, true);
        if let Some(occupied) = self.occupied.get(&protocol) {
            may_be_held = occupied.held.contains(port);
            may_be_claimed = occupied.claimed.contains(port);
        }
        let is_known = self.obstacles.contains_key(&(protocol, port));
        if !is_known && (may_be_held || may_be_claimed) {
            let mut found = Vec::new();
            if may_be_held {
                let holders = self.ledger.holders(protocol, port)?.into_iter();
                let others = holders.filter(|(_, holder)| !self.situation.is_own(holder));
                found.extend(others.map(|(held, by)| (held.address, Obstacle::Holder(by))));
            }
            if may_be_claimed {
                let claims = self.ledger.claims_on(protocol, port)?.into_iter();
                found.extend(claims.map(|claim| (claim.address, Obstacle::Claim(claim.key))));
            }
            self.obstacles.insert((protocol, port), found);
        }
        let found = self.obstacles.get(&(protocol, port)).into_iter().flatten();
        Ok(found.filter(move |(on, _)| on.overlaps(&address)).map(|(_, obstacle)| obstacle))
    }

    /// The ports of the wish's pool, from its lower bound up, that are free for all
    /// of its protocols. On a narrower address than every one some of them may not
    /// be ([`Ports::blocked`]), until that is settled.
    pub(super) fn free(&mut self, wish: &Wish<'a>) -> Result<PortMap, L::Error> {
        let pool = self.pools.entry(&wish.dynamic.group);
        let mut free = pool.or_insert_with(|| PortMap::from(&wish.pool.ports)).clone();
        if let Some(from) = wish.dynamic.from {
            free.remove_below(from);
        }
        let address = wish.request.address;
        for protocol in wish.request.protocols.iter() {
            self.read_occupied(protocol)?;
            let mut blocked = if address.is_any() {
                self.occupied[&protocol].either.clone()
            } else {
                let settled = self.settled.get(&(&wish.dynamic.group, protocol, address));
                settled.cloned().unwrap_or_default()
            };
            for host in self.taken.iter().chain(self.situation.in_use) {
                if host.protocol == protocol && host.address.overlaps(&address) {
                    blocked.insert(host.port);
                }
            }
            let records = wish.records.iter().filter(|record| record.key.protocol == protocol);
            for reserved in records.flat_map(Claim::ports) {
                if self.is_free(wish, HostPort { address, ..reserved })? {
                    blocked.remove(reserved.port);
                }
            }
            free.subtract(&blocked);
        }
        Ok(free)
    }

    /// The highest port that stands in the way when the wish's ports begin at
    /// `first`, which is among the runs of what [`Ports::free`] found.
    pub(super) fn blocked(
        &mut self,
        wish: &Wish<'a>,
        first: Port,
    ) -> Result<Option<Port>, L::Error> {
        let mut protocols = wish.request.protocols.iter();
        if protocols.all(|protocol| self.is_settled(wish, protocol)) {
            return Ok(None);
        }
        let held = wish.request.on(first).expect("runs lie within the ports there are");
        for (host, _) in held.into_iter().rev() {
            if !self.is_free(wish, host)? {
                return Ok(Some(host.port));
            }
        }
        Ok(None)
    }

    fn is_settled(&self, wish: &Wish<'a>, protocol: Protocol) -> bool {
        let (group, address) = (&wish.dynamic.group, wish.request.address);
        address.is_any() || self.settled.contains_key(&(group, protocol, address))
    }

    /// Asks about each port of the wish's pool that may not be free on its address.
    pub(super) fn settle(&mut self, wish: &Wish<'a>) -> Result<(), L::Error> {
        let (group, address) = (&wish.dynamic.group, wish.request.address);
        for protocol in wish.request.protocols.iter() {
            if self.is_settled(wish, protocol) {
                continue;
            }
            self.read_occupied(protocol)?;
            let mut blocked = PortMap::default();
            for port in wish.pool.ports.iter() {
                if self.obstacles(HostPort { protocol, port, address })?.next().is_some() {
                    blocked.insert(port);
                }
            }
            self.settled.insert((group, protocol, address), blocked);
        }
        Ok(())
    }

    fn read_occupied(&mut self, protocol: Protocol) -> Result<(), L::Error> {
        if self.occupied.contains_key(&protocol) {
            return Ok(());
        }
        let mut held = self.ledger.held(protocol)?;
        let own = self.situation.previous.iter().flat_map(|held| &held.leases);
        for lease in own.filter(|lease| lease.host.protocol == protocol) {
            let holders = self.ledger.holders(protocol, lease.host.port)?;
            if holders.iter().all(|(_, holder)| self.situation.is_own(holder)) {
                held.remove(lease.host.port);
            }
        }
        let claimed = self.ledger.claimed(protocol)?;
        let mut either = held.clone();
        either.include(&claimed);
        self.occupied.insert(protocol, Occupied { held, claimed, either });
        Ok(())
    }

    /// Whether a port rests, by its own release: all are not asked for.
    pub(super) fn rests(&self, protocol: Protocol, port: Port) -> Result<bool, L::Error> {
        if let Some(released) = self.released.get(&protocol) {
            return Ok(released.resting.contains(port));
        }
        let release = self.ledger.release_of(protocol, port)?;
        Ok(release.is_some_and(|release| self.rests_after(&release)))
    }

    /// Whether a port rests after this release. What one service gave back, another may
    /// have at once: the operator says who uses it next.
    fn rests_after(&self, release: &Release) -> bool {
        let is_module = self.situation.attachment.is_none();
        release.rested > self.situation.now && !(is_module && release.by_module)
    }

    /// What is known of the releases of a protocol whose free ports were asked for.
    pub(super) fn released(&mut self, protocol: Protocol) -> Result<&Released, L::Error> {
        if !self.released.contains_key(&protocol) {
            let list = self.ledger.releases(protocol)?;
            let resting = list.iter().filter(|(_, release)| self.rests_after(release));
            let mut by_age: Vec<_> = list.iter().map(|(port, it)| (it.at, *port)).collect();
            by_age.sort_unstable();
            let held = &self.occupied[&protocol].held;
            let unheld = by_age.iter().filter(|(_, port)| !held.contains(*port));
            let released = Released {
                all: list.iter().map(|(port, _)| *port).collect(),
                resting: resting.map(|(port, _)| *port).collect(),
                by_age_unheld: unheld.copied().collect(),
                by_age,
            };
            self.released.insert(protocol, released);
        }
        Ok(&self.released[&protocol])
    }

    /// The releases of a protocol from the oldest on, once they were asked for, of
    /// all the ports that may be free on this address.
    pub(super) fn by_age(&self, address: HostAddress, protocol: Protocol) -> &[(Duration, Port)] {
        let released = &self.released[&protocol];
        if address.is_any() { &released.by_age_unheld } else { &released.by_age }
    }
}
