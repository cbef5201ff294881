//! Ports for services of the host: take, give back, forward, publish.
//!
//! ```text
//! permit → LOCK → (take out what is replaced) → plan ⇄ probe → limit
//!        → (nft: what goes) → commit, durable → (nft: what comes) → publish
//! ```
//!
//! All or nothing: what is replaced leaves the draft and not the store, so that a
//! refusal changes nothing, and what fails after the commit is taken back.

mod claims;
mod forward;
mod import;

use std::{collections::BTreeSet, ffi::OsStr, path::PathBuf, slice, time::Duration};

use fastrand::Rng;

use super::{
    Error, Node,
    plan::{Pools, refusal},
};
use crate::{
    allocator::{self, Situation},
    cni::config::Settings,
    host::{self, Flows},
    lease::{
        ClaimName, Endpoint, GroupName, HostAddress, HostPort, ModuleId, ModuleLease, Port,
        Protocol, Rest, Strategy,
    },
    module::{Action, Allocation, Caller, Policy, Refusal},
    nat::Nat,
    publish,
    request::{Choice, ContainerPort, Dynamic, Request},
    store::{Draft, Lock, Moment, Store, View},
    tally::Tally,
};
use forward::Change;
pub(super) use forward::heal;

pub use claims::{Claimed, Wanted};
pub use forward::{forwardings, table};
pub use import::Imported;

/// The ports of the node's modules.
pub struct Modules {
    node: Node,
    settings: Settings,
    policy: Policy,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The block that was taken, or those that were given back, lowest first.
    pub changed: Vec<ModuleLease>,
    /// All that the module holds now.
    pub held: Vec<ModuleLease>,
}

impl Modules {
    /// The modules of a node with these settings, whose files are published below
    /// `run_dir`. `path` is the `PATH` to find nft in.
    #[must_use]
    pub fn new(
        store: Store,
        run_dir: PathBuf,
        path: Option<&OsStr>,
        settings: Settings,
        policy: Policy,
    ) -> Self {
        let nat = Nat::new(settings.backend, path);
        let (flows, tally) = (Flows::default(), Tally::default());
        Self { node: Node { store, nat, flows, run_dir, tally }, settings, policy }
    }

    /// What may be asked for, and by whom.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Does what is asked for, at this moment, if the caller may.
    pub fn carry_out(
        &mut self,
        caller: &Caller,
        action: &Action,
        moment: Moment,
    ) -> Result<Outcome, Error> {
        let module = self.policy.permit(caller, action)?;
        match action {
            Action::Allocate(wanted) => self.allocate(caller, &module, wanted, moment),
            Action::Deallocate(gone) => self.deallocate(&module, gone.protocol, moment),
        }
    }

    fn allocate(
        &mut self,
        caller: &Caller,
        module: &ModuleId,
        wanted: &Allocation,
        moment: Moment,
    ) -> Result<Outcome, Error> {
        let request = self.request(module, wanted)?;
        let pools = Pools::new(&self.settings, slice::from_ref(&request))?;
        let mut lock = self.node.store.lock(self.settings.lock_timeout)?;
        let mut draft = lock.begin()?;
        draft.expire_claims(moment.unix)?;
        let before = forwardings(&draft)?;
        let replaced = if wanted.keep_existing {
            Vec::new()
        } else {
            take_out(&mut draft, module, wanted.protocol, moment)?
        };
        self.refuse_more_than_demanded(caller, module, (wanted.protocol, wanted.count), &draft)?;
        let own: BTreeSet<_> = replaced.iter().flat_map(ModuleLease::ports).collect();
        // Nothing is drawn: the lowest ports are taken.
        let mut rng = Rng::with_seed(0);
        let block =
            plan(&request, &pools, BTreeSet::new(), &own, &draft, moment.since_boot, &mut rng)?;
        let lease = block.lease(module, None, wanted.to, since(&draft, module, moment)?);
        draft.insert_module(&lease)?;
        draft.forget_rested(moment.since_boot)?;
        let change = Change::compute(&mut self.node, &draft, before)?;
        let held = draft.of_module(module)?;
        commit(&mut self.node, draft, &change)?;
        self.finish(
            &mut lock,
            &change,
            module,
            &held,
            Swap { came: slice::from_ref(&lease), went: &replaced },
            moment,
        )?;
        Ok(Outcome { changed: vec![lease], held })
    }

    fn deallocate(
        &mut self,
        module: &ModuleId,
        protocol: Protocol,
        moment: Moment,
    ) -> Result<Outcome, Error> {
        if !self.node.store.exists()? {
            return Ok(Outcome { changed: Vec::new(), held: Vec::new() });
        }
        let mut lock = self.node.store.lock(self.settings.lock_timeout)?;
        let mut draft = lock.begin()?;
        let before = forwardings(&draft)?;
        let gone = take_out(&mut draft, module, protocol, moment)?;
        let held = draft.of_module(module)?;
        if !gone.is_empty() {
            let change = Change::compute(&mut self.node, &draft, before)?;
            commit(&mut self.node, draft, &change)?;
            // What is left to do makes right what nobody uses any more.
            if let Err(error) = change.add(&mut self.node) {
                log::warn!("{}", error.with_causes());
            }
            change.forget_flows(&mut self.node);
        }
        if let Err(error) = publish::publish_module(&self.node.run_dir, module, &held) {
            log::warn!("{}", Error::from(error).with_causes());
        }
        Ok(Outcome { changed: gone, held })
    }

    /// What is left to do once an allocation is committed. What fails is taken back.
    fn finish(
        &mut self,
        lock: &mut Lock,
        change: &Change,
        module: &ModuleId,
        held: &[ModuleLease],
        swap: Swap<'_>,
        moment: Moment,
    ) -> Result<(), Error> {
        let done = change
            .add(&mut self.node)
            .and_then(|()| Ok(publish::publish_module(&self.node.run_dir, module, held)?));
        if let Err(error) = done {
            if let Err(undo) = self.take_back(lock, module, swap, moment) {
                log::error!("cannot take back what was allocated: {}", undo.with_causes());
            }
            return Err(error);
        }
        change.forget_flows(&mut self.node);
        Ok(())
    }

    /// One block, the lowest that is free. The group is not asked for its strategy:
    /// a service is told its ports once and is not moved.
    fn request(&self, module: &ModuleId, wanted: &Allocation) -> Result<Request, Refusal> {
        let protocol = Some(wanted.protocol);
        let (group, _, protocol) =
            self.policy.group(&self.settings, module, wanted.group.as_ref(), protocol)?;
        Ok(block_of(wanted.count, protocol, group, (Strategy::Sequential, None)))
    }

    fn refuse_more_than_demanded(
        &self,
        caller: &Caller,
        module: &ModuleId,
        (protocol, count): (Protocol, u16),
        leases: &View,
    ) -> Result<(), Error> {
        let held = leases.of_module(module)?;
        let held = held.iter().filter(|lease| lease.protocol == protocol);
        let held: u32 = held.map(|lease| u32::from(lease.count)).sum();
        let wanted_in_all = held + u32::from(count);
        Ok(self.policy.refuse_more_than_demanded(caller, protocol, wanted_in_all)?)
    }

    /// Puts back what was there before an allocation.
    fn take_back(
        &mut self,
        lock: &mut Lock,
        module: &ModuleId,
        swap: Swap<'_>,
        moment: Moment,
    ) -> Result<(), Error> {
        let mut draft = lock.begin()?;
        let before = forwardings(&draft)?;
        for lease in swap.came {
            draft.remove_module(module, lease.protocol, lease.port, moment)?;
        }
        for lease in swap.went {
            draft.insert_module(lease)?;
        }
        let held = draft.of_module(module)?;
        let change = Change::compute(&mut self.node, &draft, before)?;
        commit(&mut self.node, draft, &change)?;
        change.add(&mut self.node)?;
        Ok(publish::publish_module(&self.node.run_dir, module, &held)?)
    }
}

/// What came in place of what.
#[derive(Clone, Copy)]
struct Swap<'a> {
    came: &'a [ModuleLease],
    went: &'a [ModuleLease],
}

/// So many ports in a row, chosen like this, one of them perhaps preferred.
fn block_of(
    count: u16,
    protocol: Protocol,
    group: &GroupName,
    (strategy, preferred): (Strategy, Option<Port>),
) -> Request {
    let group = group.clone();
    Request {
        name: None,
        container: ContainerPort::Same,
        protocols: protocol.into(),
        address: HostAddress::Any,
        count,
        choice: Choice::Dynamic(Dynamic { group, strategy, from: None, preferred, claim: None }),
    }
}

/// Takes out what a module holds of a protocol without a name: what has one is not
/// the business of those who ask for numbers of ports.
fn take_out(
    draft: &mut Draft<'_>,
    module: &ModuleId,
    protocol: Protocol,
    moment: Moment,
) -> Result<Vec<ModuleLease>, Error> {
    let mut gone = draft.of_module(module)?;
    gone.retain(|lease| lease.protocol == protocol && lease.name.is_none());
    for lease in &gone {
        draft.remove_module(module, protocol, lease.port, moment)?;
    }
    Ok(gone)
}

/// Plans a block until the host uses no port of it itself: a lease without owner and
/// time. None of the ports `in_use` is in it. On `own` ports a module may still
/// listen.
fn plan(
    request: &Request,
    pools: &Pools,
    mut in_use: BTreeSet<HostPort>,
    own: &BTreeSet<HostPort>,
    leases: &View,
    now: Duration,
    rng: &mut Rng,
) -> Result<Block, Error> {
    loop {
        let situation = Situation {
            attachment: None,
            namespace: None,
            previous: &[],
            pools: &pools.0,
            in_use: &in_use,
            now,
        };
        let plan = allocator::plan(slice::from_ref(request), situation, leases, rng);
        let plan = plan.map_err(|error| refusal(leases, error))?;
        let known = in_use.len();
        for host in plan.leases.iter().map(|lease| lease.host).filter(|host| !own.contains(host)) {
            if host::is_in_use(&host)? {
                in_use.insert(host);
            }
        }
        if in_use.len() == known {
            let first = plan.leases.into_iter().next().expect("a block has a port");
            return Ok(Block {
                protocol: first.host.protocol,
                port: first.host.port,
                count: request.count,
                group: first.group.expect("the port is of a group"),
                rest: first.rest.expect("a port of a group rests"),
            });
        }
    }
}

/// A block that nobody holds yet.
struct Block {
    protocol: Protocol,
    port: Port,
    count: u16,
    group: GroupName,
    rest: Rest,
}

impl Block {
    fn lease(
        self,
        module: &ModuleId,
        name: Option<ClaimName>,
        to: Option<Endpoint>,
        since: u64,
    ) -> ModuleLease {
        let Self { protocol, port, count, group, rest } = self;
        ModuleLease { module: module.clone(), name, protocol, port, count, group, to, since, rest }
    }
}

/// Now, and later than what the module has: of its blocks, the first stays the
/// first, also within a second and after a clock was set back.
fn since(leases: &View, module: &ModuleId, moment: Moment) -> Result<u64, Error> {
    let held = leases.of_module(module)?;
    let latest = held.iter().map(|lease| lease.since.saturating_add(1)).max();
    Ok(latest.map_or(moment.unix, |later| later.max(moment.unix)))
}

/// What goes leaves the kernel before the store, or neither.
fn commit(node: &mut Node, draft: Draft<'_>, change: &Change) -> Result<(), Error> {
    let committed = match change.remove(node) {
        Ok(()) => draft.commit().map_err(Error::from),
        Err(error) => Err(error),
    };
    if committed.is_err()
        && let Err(error) = change.put_back(node)
    {
        log::error!("ports of modules are no longer forwarded: {}", error.with_causes());
    }
    committed
}
