//! What a container may have of what it asks for: limits, groups, and ports by
//! number. What it may have becomes requests.
//!
//! How many ports the others of its namespace hold is not known here; whoever
//! knows asks [`namespace_quota`].

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use super::{
    Choice, Dynamic, Request,
    ask::{Ask, Fit, Place, Source, Wish},
};
use crate::{
    cni::config::{Allowed, Settings},
    lease::{Excerpt, Group, GroupName, Namespace, Pod, Port, Protocol, Protocols, Strategy},
};

/// Which rule refuses what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than a container may ask for.
    #[error("{wanted} ports are asked for, each protocol counted: maxPerPod allows {most}")]
    MaxPerPod {
        /// How many are asked for, in all places together.
        wanted: u64,
        /// The limit.
        most: u32,
    },
    /// More than a container may ask for of one group.
    #[error(
        "{wanted} ports of group \"{group}\" are asked for, each protocol counted: \
         groups.{group}.maxPerPod allows {most}"
    )]
    GroupMaxPerPod {
        /// The group.
        group: GroupName,
        /// How many are asked for.
        wanted: u64,
        /// The limit.
        most: u32,
    },
    /// More than a namespace may hold of one group.
    #[error(
        "{wanted} ports of group \"{group}\" are asked for, each protocol counted, beside {held} of \
         {tenant}, unused claims included: groups.{group}.maxPerNamespace allows {most}"
    )]
    MaxPerNamespace {
        /// The group.
        group: GroupName,
        /// For whom.
        tenant: Tenant,
        /// How many are asked for, each protocol counted.
        wanted: u32,
        /// How many are held by others, and reserved.
        held: u32,
        /// The limit.
        most: u32,
    },
    /// There is no such group.
    #[error("{place}: there is no group \"{group}\": {tenant} may use {usable}")]
    UnknownGroup {
        /// The entry.
        place: Place,
        /// The group.
        group: GroupName,
        /// For whom.
        tenant: Tenant,
        /// What there is.
        usable: Usable,
    },
    /// The group is for others.
    #[error("{place}: {tenant} may not use group \"{group}\" (allowed: {usable})")]
    Namespace {
        /// The entry.
        place: Place,
        /// The group.
        group: GroupName,
        /// For whom.
        tenant: Tenant,
        /// What else there is.
        usable: Usable,
    },
    /// No group is named, and the default group is for others.
    #[error(
        "{place} names no group, and {tenant} may not use the default group \"{group}\" \
         (allowed: {usable})"
    )]
    NoDefault {
        /// The entry.
        place: Place,
        /// The default group.
        group: GroupName,
        /// For whom.
        tenant: Tenant,
        /// What else there is.
        usable: Usable,
    },
    /// The group is for other protocols.
    #[error("{place}: group \"{group}\" is for {allowed}, and {wanted} is asked for")]
    Protocol {
        /// The entry.
        place: Place,
        /// The group.
        group: GroupName,
        /// The group's protocols.
        allowed: Protocols,
        /// Those asked for.
        wanted: Protocols,
    },
    /// A port that may not be asked for by number.
    #[error(
        "{place}: {tenant} may not ask for host port {port}/{protocol} by number: static.{key} does not allow it"
    )]
    Static {
        /// The entry.
        place: Place,
        /// For whom.
        tenant: Tenant,
        /// The port.
        port: Port,
        /// The protocol.
        protocol: Protocol,
        /// The key of `static`.
        key: &'static str,
    },
    /// A port below 1024 that no group lists.
    #[error(
        "{place}: {tenant} may not ask for host port {port}/{protocol}: below 1024, annotations \
         may ask only for ports of groups that it may use"
    )]
    Privileged {
        /// The entry.
        place: Place,
        /// For whom.
        tenant: Tenant,
        /// The port.
        port: Port,
        /// The protocol.
        protocol: Protocol,
    },
    /// A preferred port that the group does not have.
    #[error("{place}: preferredPort {port} is not in group \"{group}\", which has {ports}")]
    Preferred {
        /// The entry.
        place: Place,
        /// The port, of a block the first that is missing.
        port: Port,
        /// The group.
        group: GroupName,
        /// The group's ports.
        ports: Excerpt,
    },
    /// A base port that the group does not have.
    #[error("{place}: hostport.io/base-port {port} is not in group \"{group}\", which has {ports}")]
    Base {
        /// The entry.
        place: Place,
        /// The port.
        port: Port,
        /// The group.
        group: GroupName,
        /// The group's ports.
        ports: Excerpt,
    },
    /// A base port that no group has.
    #[error(
        "{place}: hostport.io/base-port {port} is in none of the groups that {tenant} may use: {usable:#}"
    )]
    BaseNowhere {
        /// The entry.
        place: Place,
        /// The port.
        port: Port,
        /// For whom.
        tenant: Tenant,
        /// What there is.
        usable: Usable,
    },
}

/// For whom ports are asked: a namespace, or the containers without a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant(Option<Namespace>);

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(namespace) => write!(f, "namespace \"{namespace}\""),
            None => f.write_str("containers without a pod"),
        }
    }
}

/// The groups that a tenant may use, with their ports. Shown as `"default", "games"`,
/// in the alternate form (`{:#}`) as `"default" (10000-19999), "games" (7000-7999)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable(Vec<(GroupName, Excerpt)>);

impl fmt::Display for Usable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, (group, ports)) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}\"{group}\"", if at == 0 { "" } else { ", " })?;
            if f.alternate() {
                write!(f, " ({ports})")?;
            }
        }
        match self.0.len() {
            all if all > SHOWN => write!(f, " and {} more", all - SHOWN),
            _ => Ok(()),
        }
    }
}

/// What the configuration says of the containers of one namespace.
pub(super) struct Policy<'a> {
    settings: &'a Settings,
    namespace: Option<&'a Namespace>,
}

impl<'a> Policy<'a> {
    pub(super) fn new(settings: &'a Settings, pod: Option<&'a Pod>) -> Self {
        Self { settings, namespace: pod.map(|pod| &pod.namespace) }
    }

    /// The requests of a container that asks for this, in the same order.
    pub(super) fn requests(&self, asks: &[Ask]) -> Result<Vec<Request>, PolicyError> {
        // First, for this bounds the work of all that follows.
        let (wanted, most) = (asks.iter().map(Ask::leases).sum(), self.settings.max_per_pod);
        if wanted > u64::from(most) {
            return Err(PolicyError::MaxPerPod { wanted, most });
        }
        let requests = asks.iter().map(|ask| self.request(ask)).collect::<Result<Vec<_>, _>>()?;
        self.refuse_more_than_groups_allow(&requests)?;
        Ok(requests)
    }

    fn request(&self, ask: &Ask) -> Result<Request, PolicyError> {
        let choice = match &ask.wish {
            Wish::Static(first) => {
                self.refuse_static(ask, *first)?;
                Choice::Static(*first)
            }
            Wish::Dynamic(fit) => Choice::Dynamic(self.dynamic(ask, fit)?),
        };
        Ok(Request {
            name: ask.name.clone(),
            container: ask.container,
            protocols: ask.protocols,
            address: ask.address,
            count: ask.count,
            choice,
        })
    }

    fn refuse_static(&self, ask: &Ask, first: Port) -> Result<(), PolicyError> {
        let rules = &self.settings.static_ports;
        let (allowed, key): (&Allowed, _) = match ask.place.source {
            Source::PortMappings => (&rules.port_mappings, "portMappings"),
            Source::Annotations => (&rules.annotations, "annotations"),
            Source::PortClaims => (&rules.port_claims, "portClaims"),
        };
        let is_listed = |protocol, port| {
            self.usable()
                .any(|(_, group)| group.protocols.contains(protocol) && group.ports.contains(port))
        };
        let place = ask.place;
        for port in (0..ask.count).filter_map(|at| first.above(at)) {
            for protocol in ask.protocols.iter() {
                let tenant = || self.tenant();
                if !allowed.allows(protocol, port, self.namespace) {
                    return Err(PolicyError::Static {
                        place,
                        tenant: tenant(),
                        port,
                        protocol,
                        key,
                    });
                }
                let is_privileged = port.number() < 1024 && place.source == Source::Annotations;
                if is_privileged && !is_listed(protocol, port) {
                    return Err(PolicyError::Privileged {
                        place,
                        tenant: tenant(),
                        port,
                        protocol,
                    });
                }
            }
        }
        Ok(())
    }

    fn dynamic(&self, ask: &Ask, fit: &Fit) -> Result<Dynamic, PolicyError> {
        let place = ask.place;
        let (name, group) = self.group(ask, fit)?;
        let wanted = ask.protocols;
        if !group.has_all(wanted) {
            let (group, allowed) = (name.clone(), group.protocols);
            return Err(PolicyError::Protocol { place, group, allowed, wanted });
        }
        let ports = || Excerpt::plain(&group.ports.to_string());
        if let Some(port) = fit.base.filter(|port| !group.ports.contains(*port)) {
            return Err(PolicyError::Base { place, port, group: name.clone(), ports: ports() });
        }
        if let Some(first) = fit.preferred {
            let mut block = (0..ask.count).filter_map(|at| first.above(at));
            if let Some(port) = block.find(|port| !group.ports.contains(*port)) {
                let (group, ports) = (name.clone(), ports());
                return Err(PolicyError::Preferred { place, port, group, ports });
            }
        }
        // As with the webhook whose annotations these are, a base alone means the
        // lowest free port from there up.
        let unsaid = if fit.base.is_some() { Strategy::Sequential } else { group.strategy };
        Ok(Dynamic {
            group: name.clone(),
            strategy: fit.strategy.unwrap_or(unsaid),
            from: fit.base,
            preferred: fit.preferred,
            claim: fit.claim.clone(),
        })
    }

    /// The group that is named; else one that has the base port, for the protocols
    /// that are asked for if there is such a one, the default group before others;
    /// else the default group.
    fn group(&self, ask: &Ask, fit: &Fit) -> Result<(&'a GroupName, &'a Group), PolicyError> {
        let Settings { groups, default_group, .. } = self.settings;
        let (place, tenant, usable) = (ask.place, || self.tenant(), || self.usable_ports());
        if let Some(name) = &fit.group {
            return match groups.get_key_value(name) {
                Some(found) if found.1.admits(self.namespace) => Ok(found),
                found => {
                    let (group, tenant, usable) = (name.clone(), tenant(), usable());
                    Err(match found {
                        Some(_) => PolicyError::Namespace { place, group, tenant, usable },
                        None => PolicyError::UnknownGroup { place, group, tenant, usable },
                    })
                }
            };
        }
        if let Some(port) = fit.base {
            let fitness = |(name, group): &(&GroupName, &Group)| {
                (group.has_all(ask.protocols), *name == default_group)
            };
            let with_base = self.usable().filter(|(_, group)| group.ports.contains(port));
            // Of several that are as fit, the first by name.
            let found = with_base.min_by_key(|group| Reverse(fitness(group)));
            return found.ok_or_else(|| {
                let (tenant, usable) = (tenant(), usable());
                PolicyError::BaseNowhere { place, port, tenant, usable }
            });
        }
        let found = groups.get_key_value(default_group).expect("the default group exists");
        if found.1.admits(self.namespace) {
            return Ok(found);
        }
        let (group, tenant, usable) = (found.0.clone(), tenant(), usable());
        Err(PolicyError::NoDefault { place, group, tenant, usable })
    }

    fn refuse_more_than_groups_allow(&self, requests: &[Request]) -> Result<(), PolicyError> {
        let mut wanted: BTreeMap<&GroupName, u64> = BTreeMap::new();
        for request in requests {
            if let Choice::Dynamic(dynamic) = &request.choice {
                *wanted.entry(&dynamic.group).or_default() += u64::from(request.leases());
            }
        }
        for (name, wanted) in wanted {
            let most = self.settings.groups[name].max_per_pod;
            if let Some(most) = most.filter(|most| wanted > u64::from(*most)) {
                return Err(PolicyError::GroupMaxPerPod { group: name.clone(), wanted, most });
            }
        }
        Ok(())
    }

    fn usable(&self) -> impl Iterator<Item = (&'a GroupName, &'a Group)> {
        self.settings.groups.iter().filter(|(_, group)| group.admits(self.namespace))
    }

    fn usable_ports(&self) -> Usable {
        let ports = |group: &Group| Excerpt::plain(&group.ports.to_string());
        Usable(self.usable().map(|(name, group)| (name.clone(), ports(group))).collect())
    }

    fn tenant(&self) -> Tenant {
        Tenant(self.namespace.cloned())
    }
}

/// Refuses what would be more of a group than the containers and claims of a
/// namespace may hold together. Containers without a namespace count as one.
///
/// `held` is what the others hold and what is reserved, `wanted` what comes to
/// it, each protocol counted.
pub fn namespace_quota(
    name: &GroupName,
    group: &Group,
    held: u32,
    wanted: u32,
    namespace: Option<&Namespace>,
) -> Result<(), PolicyError> {
    match group.max_per_namespace {
        Some(most) if u64::from(held) + u64::from(wanted) > u64::from(most) => {
            let (group, tenant) = (name.clone(), Tenant(namespace.cloned()));
            Err(PolicyError::MaxPerNamespace { group, tenant, wanted, held, most })
        }
        _ => Ok(()),
    }
}
