//! Ports that a module holds by a name: allocates those that are declared and missing,
//! and gives back those that no longer are.
//!
//! A claim that is there keeps its port for as long as its declaration names its group
//! and protocol; otherwise it gets another one.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::{
    super::{Error, plan::Pools},
    Change, Modules, Swap, block_of, commit, forwardings, plan, since,
};
use crate::{
    lease::{ClaimName, GroupName, HostPort, ModuleId, ModuleLease, Protocol},
    module::{Caller, Declaration, Refusal},
    store::{Draft, Moment, View},
};

/// What is to become of a module's claims.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose they are; none: the caller's.
    pub module: Option<&'a ModuleId>,
    /// Those that are to be there.
    pub declared: &'a [Declaration],
    /// Whether all others are given back.
    pub prunes: bool,
    /// Whether nothing is changed.
    pub is_dry_run: bool,
}

/// What has become of a module's claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed<T> {
    /// What was made of the ports.
    pub filled: T,
    /// What came.
    pub came: Vec<ModuleLease>,
    /// What went.
    pub went: Vec<ModuleLease>,
}

impl Modules {
    /// Makes a module's claims those that are wanted, if something can be made of their
    /// ports: where `fill` fails, nothing is changed.
    pub fn claim<T, E>(
        &mut self,
        caller: &Caller,
        wanted: Wanted<'_>,
        moment: Moment,
        fill: impl FnOnce(&BTreeMap<String, u16>) -> Result<T, E>,
    ) -> Result<Result<Claimed<T>, E>, Error> {
        let module = self.policy.permit_change(caller, wanted.module, false)?;
        if wanted.is_dry_run && !self.node.store.exists()? {
            let reader = self.node.store.read()?;
            let changes = Changes { kept: Vec::new(), went: Vec::new() };
            let came = self.come(caller, &module, wanted.declared, &changes, &reader, moment)?;
            let filled = fill(&ports(&came));
            return Ok(filled.map(|filled| Claimed { filled, came, went: Vec::new() }));
        }
        let mut lock = self.node.store.lock(self.settings.lock_timeout)?;
        let mut draft = lock.begin()?;
        draft.expire_claims(moment.unix)?;
        let before = forwardings(&draft)?;
        let changes = self.go(&module, &wanted, &mut draft, moment)?;
        let came = self.come(caller, &module, wanted.declared, &changes, &draft, moment)?;
        let Changes { kept, went } = changes;
        let filled = match fill(&ports(kept.iter().chain(&came))) {
            Ok(filled) => filled,
            Err(error) => return Ok(Err(error)),
        };
        if wanted.is_dry_run || (came.is_empty() && went.is_empty()) {
            return Ok(Ok(Claimed { filled, came, went }));
        }
        for lease in &came {
            draft.insert_module(lease)?;
        }
        draft.forget_rested(moment.since_boot)?;
        let change = Change::compute(&mut self.node, &draft, before)?;
        let held = draft.of_module(&module)?;
        commit(&mut self.node, draft, &change)?;
        let swap = Swap { came: &came, went: &went };
        self.finish(&mut lock, &change, &module, &held, swap, moment)?;
        Ok(Ok(Claimed { filled, came, went }))
    }

    /// Takes out what no longer is what is declared, and with `prunes` also what is not
    /// declared at all.
    fn go(
        &self,
        module: &ModuleId,
        wanted: &Wanted<'_>,
        draft: &mut Draft<'_>,
        moment: Moment,
    ) -> Result<Changes, Error> {
        let mut changes = Changes { kept: Vec::new(), went: Vec::new() };
        for lease in draft.of_module(module)? {
            let Some(name) = &lease.name else { continue };
            let declared = wanted.declared.iter().find(|declared| declared.claim == *name);
            let stays = match declared {
                Some(declared) => {
                    let source = self.source(module, declared)?;
                    (source.group, source.protocol) == (&lease.group, lease.protocol)
                }
                None => !wanted.prunes,
            };
            if stays {
                changes.kept.push(lease);
            } else {
                draft.remove_module(module, lease.protocol, lease.port, moment)?;
                changes.went.push(lease);
            }
        }
        Ok(changes)
    }

    /// Plans a port for each claim that is declared and missing, those first that prefer
    /// one. They are not in the view.
    fn come(
        &self,
        caller: &Caller,
        module: &ModuleId,
        declared: &[Declaration],
        changes: &Changes,
        leases: &View,
        moment: Moment,
    ) -> Result<Vec<ModuleLease>, Error> {
        let is_kept = |name: &ClaimName| changes.kept.iter().any(|l| l.name.as_ref() == Some(name));
        let mut missing: Vec<_> = declared.iter().filter(|it| !is_kept(&it.claim)).collect();
        missing.sort_by_key(|declared| declared.preferred.is_none());
        let own: BTreeSet<HostPort> = changes.went.iter().flat_map(ModuleLease::ports).collect();
        let since = since(leases, module, moment)?;
        let mut counts: BTreeMap<Protocol, u16> = BTreeMap::new();
        let mut requests = Vec::new();
        for declared in &missing {
            let Source { group, protocol } = self.source(module, declared)?;
            let count = counts.entry(protocol).or_default();
            *count = count.saturating_add(1);
            self.refuse_more_than_demanded(caller, module, (protocol, *count), leases)
                .map_err(|error| of(declared, error))?;
            let choice = (declared.strategy, declared.preferred);
            requests.push(block_of(1, protocol, group, choice));
        }
        let pools = Pools::new(&self.settings, &requests)?;
        let (mut taken, mut rng) = (BTreeSet::new(), Rng::new());
        let mut come = Vec::new();
        for (declared, request) in missing.into_iter().zip(&requests) {
            let block =
                plan(request, &pools, taken.clone(), &own, leases, moment.since_boot, &mut rng)
                    .map_err(|error| of(declared, error))?;
            let lease = block.lease(module, Some(declared.claim.clone()), None, since);
            taken.extend(lease.ports());
            come.push(lease);
        }
        Ok(come)
    }

    /// What a claim is taken from.
    fn source<'s>(
        &'s self,
        module: &ModuleId,
        declared: &Declaration,
    ) -> Result<Source<'s>, Error> {
        let Declaration { group, protocol, preferred, .. } = declared;
        let (name, group, protocol) = self
            .policy
            .group(&self.settings, module, group.as_ref(), *protocol)
            .map_err(|refusal| of(declared, refusal.into()))?;
        if let Some(port) = preferred.filter(|port| !group.ports.contains(*port)) {
            let (group, ports) = (name.clone(), group.ports.clone());
            return Err(of(
                declared,
                Refusal::Outside { key: "preferred_port", port, group, ports }.into(),
            ));
        }
        Ok(Source { group: name, protocol })
    }
}

/// A group and one of its protocols.
struct Source<'s> {
    group: &'s GroupName,
    protocol: Protocol,
}

/// What becomes of the claims that a module has.
struct Changes {
    kept: Vec<ModuleLease>,
    went: Vec<ModuleLease>,
}

fn ports<'a>(leases: impl IntoIterator<Item = &'a ModuleLease>) -> BTreeMap<String, u16> {
    let named =
        |lease: &'a ModuleLease| Some((lease.name.as_ref()?.to_string(), lease.port.number()));
    leases.into_iter().filter_map(named).collect()
}

/// Says which claim an error is about.
fn of(declared: &Declaration, cause: Error) -> Error {
    Error::Of { what: format!("claim {}", declared.claim), cause: Box::new(cause) }
}
