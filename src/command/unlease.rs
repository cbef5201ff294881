//! What the operator's `release` does: finds who is meant, and gives leases back as
//! DEL does, or claims.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Error,
    operate::Operator,
    release::{self, Leaving},
};
use crate::{
    host::{Namespaces, Presence},
    lease::{
        Attachment, Claim, ClaimKey, ClaimName, Forwarding, HostAddress, HostPort, InterfaceName,
        Namespace, Pod, PodName, Port, PortName, Protocol,
    },
    store::View,
};

/// What an operator may mean by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The leases on a port, of any protocol and address where none is named.
    Port(Port, Option<Protocol>, Option<HostAddress>),
    /// What a pod holds.
    Pod(Namespace, PodName),
    /// What a container holds, by its ID or the beginning of it, on one interface or
    /// on all.
    Container(String, Option<InterfaceName>),
    /// The claims of a name, on the port of a name or on all.
    Claim(Option<Namespace>, ClaimName, Option<(PortName, Option<Protocol>)>),
}

impl Target {
    /// What kind of thing it names.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Port(..) => "port",
            Self::Pod(..) => "pod",
            Self::Container(..) => "container",
            Self::Claim(..) => "claim",
        }
    }
}

/// What is to be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Leases of an attachment, and whether its container is still there, as far as
    /// that is known.
    Leases {
        /// What it holds.
        held: Box<Forwarding>,
        /// The ports that are meant.
        ports: BTreeSet<HostPort>,
        /// Whether its container is there.
        is_there: Option<bool>,
    },
    /// A claim.
    Claim(Box<Claim>),
}

/// What was given back.
#[derive(Debug, Default)]
pub struct Unleased {
    /// What attachments held until now.
    pub leases: Vec<Forwarding>,
    /// The claims.
    pub claims: Vec<Claim>,
    /// What could not be given back; the rest was.
    pub errors: Vec<Error>,
}

impl Operator<'_> {
    /// What a target means now; nothing where there is no such thing. Takes no lock.
    pub fn find(&self, target: &Target) -> Result<Vec<Found>, Error> {
        let leases = self.node.store.read()?;
        if let Target::Claim(namespace, name, port) = target {
            let mut claims = leases.claims_of(namespace.as_ref())?;
            claims.retain(|claim| {
                let ClaimKey { claim, name: of_port, protocol, .. } = &claim.key;
                claim == name
                    && port.as_ref().is_none_or(|(port, only)| {
                        port == of_port && only.is_none_or(|only| only == *protocol)
                    })
            });
            return Ok(claims.into_iter().map(|claim| Found::Claim(Box::new(claim))).collect());
        }
        let held = held(&leases, target)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let namespaces = Namespaces::look()?;
        let found = held.into_iter().map(|(held, ports)| {
            let presence = held.sandbox.as_ref().map(|at| namespaces.presence(at, &held.container));
            let is_there = match presence {
                Some(Presence::There) => Some(true),
                Some(Presence::Gone) => Some(false),
                Some(Presence::Unknown(_)) | None => None,
            };
            Found::Leases { held: Box::new(held), ports, is_there }
        });
        Ok(found.collect())
    }

    /// Gives back what was found. What is no longer held as it was found is left alone.
    pub fn unlease(&mut self, found: &[Found]) -> Result<Unleased, Error> {
        let context = self.context();
        let mut lock = self.node.store.lock(self.lock_timeout)?;
        let mut draft = lock.begin()?;
        let mut claims = Vec::new();
        let mut wanted: BTreeMap<&Attachment, BTreeSet<HostPort>> = BTreeMap::new();
        for found in found {
            match found {
                Found::Claim(claim) => {
                    let now = draft.claim(&claim.key)?;
                    if now.is_some_and(|now| now.holder == claim.holder) {
                        claims.extend(draft.unreserve(&claim.key)?);
                    }
                }
                Found::Leases { held, ports, .. } => {
                    wanted.entry(&held.attachment).or_default().extend(ports);
                }
            }
        }
        let mut held = Vec::new();
        for (attachment, ports) in &wanted {
            let now = draft.forwarding(attachment)?;
            let is_held = |now: &Forwarding| now.leases.iter().any(|l| ports.contains(&l.host));
            held.extend(now.filter(is_held).map(|forwarding| (forwarding, ports)));
        }
        let leaving: Vec<_> =
            held.iter().map(|(forwarding, ports)| Leaving::some_of(forwarding, ports)).collect();
        if leaving.is_empty() {
            if !claims.is_empty() {
                draft.commit()?;
            }
            return Ok(Unleased { claims, ..Unleased::default() });
        }
        let given = release::give_back(context, &mut self.node, draft, &leaving)?;
        if given.released.is_empty() {
            // Then nothing was committed.
            claims.clear();
        }
        let mut errors = given.errors;
        errors.extend(given.unpublished);
        Ok(Unleased { leases: given.released, claims, errors })
    }
}

/// Who holds what is meant, and which of the ports.
fn held(leases: &View, target: &Target) -> Result<Vec<(Forwarding, BTreeSet<HostPort>)>, Error> {
    let all_ports = |held: &Forwarding| held.leases.iter().map(|lease| lease.host).collect();
    let mut forwardings = match target {
        Target::Pod(namespace, name) => {
            let (namespace, name) = (namespace.clone(), name.clone());
            leases.of_pod(&Pod { namespace, name, uid: None })?
        }
        _ => leases.forwardings()?,
    };
    if let Target::Container(id, interface) = target {
        forwardings.retain(|held| {
            held.attachment.container.as_str().starts_with(id)
                && interface.as_ref().is_none_or(|only| held.attachment.interface == *only)
        });
        if forwardings.iter().any(|held| held.attachment.container.as_str() == id) {
            forwardings.retain(|held| held.attachment.container.as_str() == id);
        }
    }
    let ports = |held: &Forwarding| match target {
        Target::Port(port, protocol, address) => {
            let mut ports: BTreeSet<HostPort> = all_ports(held);
            ports.retain(|host| {
                host.port == *port
                    && protocol.is_none_or(|only| host.protocol == only)
                    && address.is_none_or(|only| host.address == only)
            });
            ports
        }
        _ => all_ports(held),
    };
    let found = forwardings.into_iter().map(|held| {
        let ports = ports(&held);
        (held, ports)
    });
    Ok(found.filter(|(_, ports)| !ports.is_empty()).collect())
}
