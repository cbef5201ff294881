//! What a plan must do, on a node whose leases and claims are kept in maps:
//!
//! - `choice`: which of the free ports it is.
//! - `room`: blocks, protocols, addresses, and when nothing is left.
//! - `stay`: claims, and what is kept.
//! - `model`: random coming and going agrees with a naive search.

mod choice;
mod model;
mod room;
mod stay;

use std::{cell::RefCell, convert::Infallible};

use super::*;
use crate::{
    lease::{
        ContainerAddresses, HostAddress, ModuleId, PortMap, Protocol, Protocols, Release, Strategy,
    },
    request::Dynamic,
};

const COOLDOWN: Duration = Duration::from_mins(1);

/// A node: the simplest thing that can be asked who holds what.
#[derive(Clone, Debug, Default)]
struct Node {
    forwardings: BTreeMap<Attachment, Forwarding>,
    claims: BTreeMap<ClaimKey, Claim>,
    /// What modules hold.
    modules: Vec<(HostPort, ModuleId)>,
    releases: BTreeMap<(Protocol, Port), Release>,
    pools: BTreeMap<GroupName, Pool>,
    in_use: BTreeSet<HostPort>,
    now: Duration,
    /// The maps and lists that were asked for.
    asked: RefCell<Vec<(&'static str, Protocol)>>,
}

impl Ledger for Node {
    type Error = Infallible;

    fn holders(
        &self,
        protocol: Protocol,
        port: Port,
    ) -> Result<Vec<(HostPort, Owner)>, Infallible> {
        let held =
            self.holdings().filter(|(host, _)| host.protocol == protocol && host.port == port);
        Ok(held.collect())
    }

    fn claims_on(&self, protocol: Protocol, port: Port) -> Result<Vec<Claim>, Infallible> {
        let is_on = |claim: &&Claim| {
            claim.ports().any(|host| host.protocol == protocol && host.port == port)
        };
        Ok(self.claims.values().filter(is_on).cloned().collect())
    }

    fn claim(&self, key: &ClaimKey) -> Result<Option<Claim>, Infallible> {
        Ok(self.claims.get(key).cloned())
    }

    fn held(&self, protocol: Protocol) -> Result<PortMap, Infallible> {
        self.asked.borrow_mut().push(("held", protocol));
        let held = self.holdings().map(|(host, _)| host);
        Ok(held.filter(|host| host.protocol == protocol).map(|host| host.port).collect())
    }

    fn claimed(&self, protocol: Protocol) -> Result<PortMap, Infallible> {
        self.asked.borrow_mut().push(("claimed", protocol));
        let claimed = self.claims.values().flat_map(Claim::ports);
        Ok(claimed.filter(|host| host.protocol == protocol).map(|host| host.port).collect())
    }

    fn release_of(&self, protocol: Protocol, port: Port) -> Result<Option<Release>, Infallible> {
        Ok(self.releases.get(&(protocol, port)).copied())
    }

    fn releases(&self, protocol: Protocol) -> Result<Vec<(Port, Release)>, Infallible> {
        self.asked.borrow_mut().push(("releases", protocol));
        let releases = self.releases.iter().filter(|((of, _), _)| *of == protocol);
        Ok(releases.map(|((_, port), release)| (*port, *release)).collect())
    }
}

type Planned = Result<Plan, PlanError<Infallible>>;

impl Node {
    /// A node an hour after its boot, with groups by these names and ports.
    fn new<const N: usize>(groups: [(&str, &str); N]) -> Self {
        let pool = |ports: &str| Pool {
            ports: ports.parse().unwrap(),
            excluded: 0,
            cooldown: COOLDOWN,
            is_remembered: false,
            claim_ttl: Duration::from_hours(720),
        };
        let pools = groups.map(|(name, ports)| (name.parse().unwrap(), pool(ports)));
        Self { pools: pools.into(), now: Duration::from_hours(1), ..Self::default() }
    }

    fn holdings(&self) -> impl Iterator<Item = (HostPort, Owner)> {
        let held = self.forwardings.values();
        let held = held.flat_map(|it| {
            it.leases.iter().map(|lease| (lease.host, it.attachment.clone().into()))
        });
        held.chain(self.modules.iter().map(|(host, by)| (*host, Owner::Module(by.clone()))))
    }

    fn plan(&self, owner: &str, requests: &[Request], seed: u64) -> Planned {
        self.plan_instead_of(&[], owner, requests, seed)
    }

    /// Plans for a new sandbox of the pod that these ones are of.
    fn plan_instead_of(&self, old: &[&str], owner: &str, asked: &[Request], seed: u64) -> Planned {
        let previous: Vec<Forwarding> = old
            .iter()
            .chain([&owner])
            .filter_map(|container| self.forwardings.get(&attachment(container)).cloned())
            .collect();
        let namespace = "shop".parse().unwrap();
        let situation = Situation {
            attachment: Some(&attachment(owner)),
            namespace: Some(&namespace),
            previous: &previous,
            pools: &self.pools,
            in_use: &self.in_use,
            now: self.now,
        };
        plan(asked, situation, self, &mut fastrand::Rng::with_seed(seed))
    }

    /// Plans and carries it out.
    fn add(&mut self, owner: &str, requests: &[Request], seed: u64) -> Planned {
        self.add_instead_of(&[], owner, requests, seed)
    }

    fn add_instead_of(
        &mut self,
        old: &[&str],
        owner: &str,
        requests: &[Request],
        seed: u64,
    ) -> Planned {
        let plan = self.plan_instead_of(old, owner, requests, seed)?;
        for container in old {
            self.del(container);
        }
        self.del(owner);
        for claim in &plan.claims {
            self.claims.insert(claim.key.clone(), claim.clone());
        }
        let forwarding = Forwarding {
            attachment: attachment(owner),
            pod: None,
            container: ContainerAddresses::default(),
            link: None,
            sandbox: None,
            health: None,
            since: 0,
            leases: plan.leases.clone(),
        };
        self.forwardings.insert(attachment(owner), forwarding);
        Ok(plan)
    }

    fn del(&mut self, owner: &str) {
        let owner = attachment(owner);
        let Some(forwarding) = self.forwardings.remove(&owner) else { return };
        for claim in self.claims.values_mut().filter(|it| it.holder.as_ref() == Some(&owner)) {
            claim.holder = None;
        }
        for lease in forwarding.leases {
            let Some(rest) = lease.rest else { continue };
            self.release(lease.host, 0, Duration::from_millis(rest.cooldown));
        }
    }

    /// The port was given back so many seconds ago.
    fn release(&mut self, host: HostPort, ago: u64, cooldown: Duration) {
        let at = self.now.checked_sub(Duration::from_secs(ago)).unwrap();
        let release = Release { at, rested: at + cooldown, by_module: false };
        self.releases.insert((host.protocol, host.port), release);
    }

    /// Somebody holds these ports for tcp.
    fn fill(&mut self, ports: &str) {
        let ports: PortSet = ports.parse().unwrap();
        let requests: Vec<Request> = ports.iter().map(|port| fixed(port.number())).collect();
        self.add("filler", &requests, 0).unwrap();
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        network: "net".parse().unwrap(),
        container: container.parse().unwrap(),
        interface: "eth0".parse().unwrap(),
    }
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn tcp(number: u16) -> HostPort {
    HostPort { protocol: Protocol::Tcp, port: port(number), address: HostAddress::Any }
}

/// One tcp port of the group, at random.
fn from_group(group: &str) -> Request {
    Request {
        name: None,
        container: ContainerPort::Number(port(80)),
        protocols: Protocol::Tcp.into(),
        address: HostAddress::Any,
        count: 1,
        choice: Choice::Dynamic(Dynamic {
            group: group.parse().unwrap(),
            strategy: Strategy::Random,
            from: None,
            preferred: None,
            claim: None,
        }),
    }
}

/// One tcp port of group `g`, at random.
fn one() -> Request {
    from_group("g")
}

fn fixed(host_port: u16) -> Request {
    Request { choice: Choice::Static(port(host_port)), ..one() }
}

/// Requests are put together from what sets them apart.
trait Asking: Sized {
    fn named(self, name: &str) -> Self;
    fn to(self, container: u16) -> Self;
    fn of(self, protocols: impl Into<Protocols>) -> Self;
    fn at(self, address: &str) -> Self;
    fn block(self, count: u16) -> Self;
    fn dynamic(self, change: impl FnOnce(&mut Dynamic)) -> Self;
    fn by(self, strategy: Strategy) -> Self;
    fn from(self, lowest: u16) -> Self;
    fn preferring(self, first: u16) -> Self;
    fn under(self, claim: &str) -> Self;
}

impl Asking for Request {
    fn named(mut self, name: &str) -> Self {
        self.name = Some(name.parse().unwrap());
        self
    }

    fn to(mut self, container: u16) -> Self {
        self.container = ContainerPort::Number(port(container));
        self
    }

    fn of(mut self, protocols: impl Into<Protocols>) -> Self {
        self.protocols = protocols.into();
        self
    }

    fn at(mut self, address: &str) -> Self {
        self.address = address.parse().unwrap();
        self
    }

    fn block(mut self, count: u16) -> Self {
        self.count = count;
        self
    }

    fn dynamic(mut self, change: impl FnOnce(&mut Dynamic)) -> Self {
        let Choice::Dynamic(dynamic) = &mut self.choice else { panic!("a static request") };
        change(dynamic);
        self
    }

    fn by(self, strategy: Strategy) -> Self {
        self.dynamic(|dynamic| dynamic.strategy = strategy)
    }

    fn from(self, lowest: u16) -> Self {
        self.dynamic(|dynamic| dynamic.from = Some(port(lowest)))
    }

    fn preferring(self, first: u16) -> Self {
        self.dynamic(|dynamic| dynamic.preferred = Some(port(first)))
    }

    fn under(self, claim: &str) -> Self {
        self.dynamic(|dynamic| dynamic.claim = Some(claim.parse().unwrap()))
    }
}

/// The host ports in the order of the leases.
fn numbers(plan: &Plan) -> Vec<u16> {
    plan.leases.iter().map(|lease| lease.host.port.number()).collect()
}

/// The same, lowest first.
fn sorted(plan: &Plan) -> Vec<u16> {
    let mut numbers = numbers(plan);
    numbers.sort_unstable();
    numbers
}
