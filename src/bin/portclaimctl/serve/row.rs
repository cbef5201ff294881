//! What lists are made of: a port that is held, or an instance that registered itself.

use portclaim::lease::{PortName, Protocol};
use serde::Serialize;
use serde_json::Value;

use super::{
    address::Shown,
    health::Health,
    instance::{self, Instance, Tag},
    snapshot::Snapshot,
};
use crate::view::{
    lease::{Document, Held},
    time,
};

#[derive(Clone, Copy)]
pub enum Row<'a> {
    Lease(Held<'a>),
    Instance(&'a Instance),
}

impl<'a> Row<'a> {
    /// What no other row has.
    pub fn key(&self) -> String {
        match self {
            Self::Lease(held) => held.lease.host.to_string(),
            Self::Instance(instance) => format!("instance/{}", instance.name),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Lease(held) => held.lease.host.port.number(),
            Self::Instance(instance) => instance.address.port(),
        }
    }

    pub fn name(&self) -> Option<&'a str> {
        match self {
            Self::Lease(held) => held.lease.name.as_ref().map(PortName::as_str),
            Self::Instance(instance) => Some(instance.name.as_str()),
        }
    }

    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Lease(held) => Some(held.lease.host.protocol),
            Self::Instance(instance) => instance.protocol(),
        }
    }

    pub fn address(&self, shown: &Shown) -> String {
        match self {
            Self::Lease(held) => shown.of(held.lease),
            Self::Instance(instance) => instance.address.to_string(),
        }
    }

    pub fn url(&self, shown: &Shown) -> Option<String> {
        match self {
            Self::Lease(held) => shown.url_of(held.lease),
            Self::Instance(instance) => instance.url(),
        }
    }

    /// Who it is to people.
    pub fn owner(&self) -> String {
        match self {
            Self::Lease(held) => held.owner.to_string(),
            Self::Instance(_) => "registered itself".to_owned(),
        }
    }

    pub fn group(&self) -> Option<String> {
        match self {
            Self::Lease(held) => Some(held.group()),
            Self::Instance(_) => None,
        }
    }

    pub fn claim(&self) -> Option<String> {
        match self {
            Self::Lease(held) => held.lease.claim.as_ref().map(ToString::to_string),
            Self::Instance(_) => None,
        }
    }

    /// Where packets are sent on to.
    pub fn target(&self) -> Option<String> {
        match self {
            Self::Lease(held) => Some(held.target()),
            Self::Instance(_) => None,
        }
    }

    pub fn tags(&self) -> &'a [Tag] {
        match self {
            Self::Lease(_) => &[],
            Self::Instance(instance) => &instance.tags,
        }
    }

    /// In seconds since the Unix epoch.
    pub fn since(&self) -> u64 {
        match self {
            Self::Lease(held) => held.owner.since(),
            Self::Instance(instance) => instance.since,
        }
    }

    /// None where it is not checked.
    pub fn health<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Health> {
        match self {
            Self::Lease(held) => snapshot.health_of(held),
            Self::Instance(instance) => snapshot.health_of_instance(instance),
        }
    }

    /// Whether any of it contains this text, which is in lower case.
    pub fn mentions(&self, text: &str) -> bool {
        let has = |it: &str| it.to_lowercase().contains(text);
        let has_tag = self.tags().iter().any(|tag| has(tag.as_str()));
        let is_there = |it: Option<String>| it.is_some_and(|it| has(&it));
        let by_kind = match self {
            Self::Lease(held) => {
                let at = held.owner.attachment();
                has(&held.lease.host.to_string())
                    || at.is_some_and(|at| has(at.container.as_str()) || has(at.network.as_str()))
            }
            Self::Instance(instance) => has(&instance.address.to_string()),
        };
        by_kind
            || has_tag
            || self.name().is_some_and(has)
            || has(&self.owner())
            || is_there(self.group())
            || is_there(self.target())
            || is_there(self.claim())
    }
}

/// Whether something works, as programs read it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthDocument<'a> {
    /// `healthy`, `unhealthy` or `pending`; null where it is not checked.
    health: Option<&'static str>,
    /// Why it is unhealthy.
    health_reason: Option<&'a str>,
}

impl<'a> From<Option<&'a Health>> for HealthDocument<'a> {
    fn from(health: Option<&'a Health>) -> Self {
        Self { health: health.map(Health::name), health_reason: health.and_then(Health::reason) }
    }
}

/// A lease and the address under which clients reach it.
#[derive(Serialize)]
pub struct PortDocument<'a> {
    address: String,
    /// Where a browser may be sent to.
    url: Option<String>,
    #[serde(flatten)]
    health: HealthDocument<'a>,
    #[serde(flatten)]
    lease: Document<'a>,
}

impl<'a> PortDocument<'a> {
    pub fn of(shown: &Shown, snapshot: &'a Snapshot, held: &Held<'a>) -> Self {
        let (address, url) = (shown.of(held.lease), shown.url_of(held.lease));
        Self { address, url, health: snapshot.health_of(held).into(), lease: held.document() }
    }
}

/// An instance that registered itself.
#[derive(Serialize)]
pub struct InstanceDocument<'a> {
    name: &'a str,
    address: String,
    url: Option<String>,
    /// Null where the check does not tell.
    protocol: Option<&'static str>,
    tags: &'a [Tag],
    /// How it is checked, as it was registered.
    check: String,
    #[serde(flatten)]
    health: HealthDocument<'a>,
    /// In seconds.
    ttl: u64,
    /// RFC 3339, in UTC.
    since: String,
    registrant: String,
}

impl<'a> InstanceDocument<'a> {
    pub fn of(snapshot: &'a Snapshot, instance: &'a Instance) -> Self {
        Self::with(instance, snapshot.health_of_instance(instance))
    }

    pub fn with(instance: &'a Instance, health: Option<&'a Health>) -> Self {
        Self {
            name: instance.name.as_str(),
            address: instance.address.to_string(),
            url: instance.url(),
            protocol: instance.protocol().map(Protocol::name),
            tags: &instance.tags,
            check: instance::shown(instance.health.as_ref()),
            health: health.into(),
            ttl: instance.ttl.into(),
            since: time::rfc3339(instance.since),
            registrant: instance.registrant.to_string(),
        }
    }
}

/// Something that clients may use, whatever it is.
#[derive(Serialize)]
pub struct EndpointDocument<'a> {
    name: Option<&'a str>,
    address: String,
    url: Option<String>,
    /// Null where an instance does not tell.
    protocol: Option<&'static str>,
    /// The pod, the service of the host, or the instance that it is.
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    module: Option<&'a str>,
    instance: Option<&'a str>,
    group: Option<String>,
    tags: &'a [Tag],
    #[serde(flatten)]
    health: HealthDocument<'a>,
}

impl<'a> EndpointDocument<'a> {
    pub fn of(shown: &Shown, snapshot: &'a Snapshot, row: &Row<'a>) -> Self {
        let (pod, module, instance) = match row {
            Row::Lease(held) => (held.owner.pod(), held.owner.module(), None),
            Row::Instance(instance) => (None, None, Some(instance.name.as_str())),
        };
        Self {
            name: row.name(),
            address: row.address(shown),
            url: row.url(shown),
            protocol: row.protocol().map(Protocol::name),
            namespace: pod.map(|pod| pod.namespace.as_str()),
            pod: pod.map(|pod| pod.name.as_str()),
            module,
            instance,
            group: row.group(),
            tags: row.tags(),
            health: row.health(snapshot).into(),
        }
    }
}

/// A document as a value.
pub fn value(document: &impl Serialize) -> Value {
    serde_json::to_value(document).expect("a document can be written as JSON")
}
