//! Takes claims and modules' ports over from a document: all of them, or none.

use std::collections::BTreeSet;

use super::{super::Error, Change, Modules, commit, forwardings, since};
use crate::{
    cni::config::Settings,
    lease::{Claim, ClaimKey, Group, GroupName, ModuleId, ModuleLease, Port, Rest, Strategy},
    module::{BlockEntry, ClaimEntry, Refusal, Transfer},
    publish,
    store::{Draft, Moment},
};

/// What has come of an import, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The claims that are new, or about other ports than before.
    pub claims: Vec<Claim>,
    /// The blocks that are new.
    pub modules: Vec<ModuleLease>,
    /// How many of both were there already.
    pub there: usize,
}

impl Modules {
    /// Reserves and allocates what a document says. What a container or another module
    /// holds, or a claim in use, is not touched: then nothing is taken over. Whether a
    /// process listens on a port is not asked: it is the module's own.
    pub fn import(
        &mut self,
        transfer: &Transfer,
        is_dry_run: bool,
        moment: Moment,
    ) -> Result<Imported, Error> {
        let mut lock = self.node.store.lock(self.settings.lock_timeout)?;
        let mut draft = lock.begin()?;
        draft.expire_claims(moment.unix)?;
        let before = forwardings(&draft)?;
        let mut imported = Imported::default();
        for (index, entry) in transfer.claims.iter().enumerate() {
            let claim = reserve(&self.settings, entry, &mut draft);
            match claim.map_err(|error| of("claims", index, error))? {
                Some(claim) => imported.claims.push(claim),
                None => imported.there += 1,
            }
        }
        for (index, entry) in transfer.modules.iter().enumerate() {
            let lease = self.insert(entry, &mut draft, moment);
            match lease.map_err(|error| of("modules", index, error))? {
                Some(lease) => imported.modules.push(lease),
                None => imported.there += 1,
            }
        }
        if is_dry_run || (imported.claims.is_empty() && imported.modules.is_empty()) {
            return Ok(imported);
        }
        let change = Change::compute(&mut self.node, &draft, before)?;
        let modules: BTreeSet<ModuleId> =
            imported.modules.iter().map(|lease| lease.module.clone()).collect();
        let mut held = Vec::new();
        for module in &modules {
            held.push((module, draft.of_module(module)?));
        }
        commit(&mut self.node, draft, &change)?;
        // From here on it is theirs; what is left to do, `restore` does as well.
        change.add(&mut self.node)?;
        change.forget_flows(&mut self.node);
        for (module, held) in held {
            publish::publish_module(&self.node.run_dir, module, &held)?;
        }
        Ok(imported)
    }

    /// None where the module has the block already.
    fn insert(
        &self,
        entry: &BlockEntry,
        draft: &mut Draft<'_>,
        moment: Moment,
    ) -> Result<Option<ModuleLease>, Error> {
        let BlockEntry { module, name, protocol, port, count, to, .. } = entry.clone();
        let wanted = entry.group.as_ref();
        let (group_name, group, _) =
            self.policy.group(&self.settings, &module, wanted, Some(protocol))?;
        let lease = ModuleLease {
            module,
            name,
            protocol,
            port,
            count,
            group: group_name.clone(),
            to,
            since: since(draft, &entry.module, moment)?,
            rest: rest_of(group),
        };
        refuse_ports_outside(group_name, group, lease.ports().map(|host| host.port))?;
        let held = draft.of_module(&lease.module)?;
        let is_same = |held: &ModuleLease| {
            (held.port, held.protocol, held.count, &held.name, held.to)
                == (lease.port, lease.protocol, lease.count, &lease.name, lease.to)
        };
        if held.iter().any(is_same) {
            return Ok(None);
        }
        // A name is of one block.
        for old in held.iter().filter(|old| old.name.is_some() && old.name == lease.name) {
            draft.remove_module(&old.module, old.protocol, old.port, moment)?;
        }
        draft.insert_module(&lease)?;
        Ok(Some(lease))
    }
}

/// None where there is such a claim already.
fn reserve(
    settings: &Settings,
    entry: &ClaimEntry,
    draft: &mut Draft<'_>,
) -> Result<Option<Claim>, Error> {
    let (name, group) = settings
        .groups
        .get_key_value(&entry.group)
        .ok_or_else(|| Refusal::UnknownGroup(entry.group.clone()))?;
    if !group.protocols.contains(entry.protocol) {
        let (group, allowed) = (name.clone(), group.protocols);
        let wanted = entry.protocol.into();
        return Err(Refusal::Protocol { group, allowed, wanted }.into());
    }
    let claim = Claim {
        key: ClaimKey {
            namespace: entry.namespace.clone(),
            claim: entry.claim.clone(),
            name: entry.name.clone(),
            protocol: entry.protocol,
        },
        port: entry.port,
        count: entry.count,
        address: entry.address,
        group: name.clone(),
        ttl: entry.ttl.unwrap_or(group.claim_ttl.as_secs()),
        holder: None,
        expires: entry.expires,
    };
    refuse_ports_outside(name, group, claim.ports().map(|host| host.port))?;
    if let Some(there) = draft.claim(&claim.key)? {
        let ports = |claim: &Claim| (claim.port, claim.count, claim.address);
        if ports(&there) == ports(&claim) {
            return Ok(None);
        }
        if let Some(holder) = there.holder {
            return Err(Error::ClaimHeld { claim: there.key, holder: holder.to_string() });
        }
    }
    draft.reserve(&claim)?;
    Ok(Some(claim))
}

fn refuse_ports_outside(
    name: &GroupName,
    group: &Group,
    mut ports: impl Iterator<Item = Port>,
) -> Result<(), Refusal> {
    match ports.find(|port| !group.ports.contains(*port)) {
        Some(port) => Err(Refusal::Outside {
            key: "hostPort",
            port,
            group: name.clone(),
            ports: group.ports.clone(),
        }),
        None => Ok(()),
    }
}

fn rest_of(group: &Group) -> Rest {
    Rest {
        cooldown: u64::try_from(group.cooldown.as_millis()).unwrap_or(u64::MAX),
        is_remembered: group.strategy == Strategy::LeastRecentlyUsed,
    }
}

/// Says which entry an error is about.
fn of(list: &str, index: usize, cause: Error) -> Error {
    Error::Of { what: format!("{list}[{index}]"), cause: Box::new(cause) }
}
