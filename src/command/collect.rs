//! What the operator's `gc` does: gives back what containers hold whose network
//! namespace is gone, asking no runtime.
//!
//! Looked for without the lock first: on most days there is nothing to do. What is
//! found is looked at again under the lock, for the runtime may have come first.

use super::{
    Error,
    operate::Operator,
    release::{self, Leaving},
};
use crate::{
    host::{Namespaces, Presence},
    lease::Forwarding,
    store::View,
};

/// What `gc` has found and done.
#[derive(Debug, Default)]
pub struct Collection {
    /// What was held for containers that are gone, and is given back.
    pub gone: Vec<Forwarding>,
    /// Of how many attachments the container is there.
    pub there: usize,
    /// What may be held for nobody, and why that cannot be told.
    pub unknown: Vec<(Forwarding, String)>,
    /// What could not be given back; the rest was.
    pub errors: Vec<Error>,
}

impl Operator<'_> {
    /// Looks for containers that are gone. Takes no lock and changes nothing.
    pub fn plan_collect(&self) -> Result<Collection, Error> {
        look(&*self.node.store.read()?)
    }

    /// Gives back what containers hold that are gone, as their DEL would. Goes on after
    /// an error.
    pub fn collect(&mut self) -> Result<Collection, Error> {
        let found = self.plan_collect()?;
        if found.gone.is_empty() {
            return Ok(found);
        }
        let context = self.context();
        let mut lock = self.node.store.lock(self.lock_timeout)?;
        let draft = lock.begin()?;
        let found = look(&draft)?;
        let leaving: Vec<_> = found.gone.iter().map(Leaving::all_of).collect();
        let given = release::give_back(context, &mut self.node, draft, &leaving)?;
        let mut errors = given.errors;
        errors.extend(given.unpublished);
        Ok(Collection { gone: given.released, errors, ..found })
    }
}

fn look(leases: &View) -> Result<Collection, Error> {
    let mut found = Collection::default();
    let forwardings = leases.forwardings()?;
    if forwardings.is_empty() {
        return Ok(found);
    }
    let namespaces = Namespaces::look()?;
    for forwarding in forwardings {
        match forwarding.sandbox.as_ref().map(|at| namespaces.presence(at, &forwarding.container)) {
            Some(Presence::There) => found.there += 1,
            Some(Presence::Gone) => found.gone.push(forwarding),
            Some(Presence::Unknown(reason)) => found.unknown.push((forwarding, reason)),
            None => {
                let reason = "its ADD did not note the network namespace";
                found.unknown.push((forwarding, reason.to_owned()));
            }
        }
    }
    Ok(found)
}
