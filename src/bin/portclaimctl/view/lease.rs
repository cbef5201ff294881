//! Leases, one row each, and which of them are asked for.

use std::{collections::HashMap, net::SocketAddr};

use portclaim::lease::{
    Attachment, ClaimName, GroupName, InterfaceName, Lease, ModuleId, Namespace, NetworkName,
    PodName, PortName, PortSet, Protocol,
};
use serde::Serialize;

use super::{holding::Holding, time};

/// One lease and who holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held<'a> {
    pub lease: &'a Lease,
    pub owner: &'a Holding,
}

/// Which leases are asked for: those that are all of this. Nothing: every one.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub namespace: Option<Namespace>,
    pub pod: Option<PodName>,
    pub group: Option<GroupName>,
    pub protocol: Option<Protocol>,
    pub ports: Option<PortSet>,
    pub network: Option<NetworkName>,
    pub module: Option<ModuleId>,
}

impl Filter {
    fn admits(&self, held: &Held<'_>) -> bool {
        let Held { lease, owner } = held;
        let (pod, attachment) = (owner.pod(), owner.attachment());
        fits(self.namespace.as_ref(), pod.map(|pod| &pod.namespace))
            && fits(self.pod.as_ref(), pod.map(|pod| &pod.name))
            && fits(self.group.as_ref(), lease.group.as_ref())
            && fits(self.protocol.as_ref(), Some(&lease.host.protocol))
            && fits(self.network.as_ref(), attachment.map(|at| &at.network))
            && fits(self.module.as_ref().map(ModuleId::as_str).as_ref(), owner.module().as_ref())
            && self.ports.as_ref().is_none_or(|ports| ports.contains(lease.host.port))
    }
}

/// Whether a thing is the one that is wanted, if one is.
fn fits<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
    wanted.is_none() || wanted == found
}

/// The leases that are asked for, by port, protocol and address.
pub fn rows<'a>(holdings: &'a [Holding], filter: &Filter) -> Vec<Held<'a>> {
    let leases = |owner: &'a Holding| owner.leases().iter().map(move |lease| Held { lease, owner });
    let mut rows: Vec<_> =
        holdings.iter().flat_map(leases).filter(|held| filter.admits(held)).collect();
    rows.sort_by_key(Held::key);
    rows
}

/// What is in `before` and not in `after`, and what is in `after` and not in
/// `before`; both are `rows`.
pub fn changes<'a, 'b>(before: &[Held<'b>], after: &[Held<'a>]) -> (Vec<Held<'b>>, Vec<Held<'a>>) {
    // A host port has one holder, so the sort keys of either are unique.
    let missing = |from: &[Held<'_>], held: &Held<'_>| match from
        .binary_search_by_key(&held.key(), Held::key)
    {
        Ok(at) => from[at].lease != held.lease || from[at].owner_differs(held),
        Err(_) => true,
    };
    let gone = before.iter().filter(|held| missing(after, held)).copied().collect();
    let come = after.iter().filter(|held| missing(before, held)).copied().collect();
    (gone, come)
}

impl<'a> Held<'a> {
    fn key(&self) -> impl Ord + use<> {
        let host = &self.lease.host;
        (host.port, host.protocol, host.address)
    }

    /// Whether a row says anything else of the owner.
    fn owner_differs(&self, other: &Held<'_>) -> bool {
        let face = |of: &Holding| {
            let who = (of.attachment().cloned(), of.pod().cloned(), of.module().map(str::to_owned));
            (who, of.addresses(), of.link().cloned(), of.since())
        };
        face(self.owner) != face(other.owner)
    }

    /// The address and port that packets are sent on to.
    pub fn target(&self) -> String {
        let port = self.lease.container_port;
        match (self.owner.addresses().first(), self.owner) {
            (Some(address), _) => SocketAddr::new(*address, port.number()).to_string(),
            (None, Holding::Container(_)) => port.to_string(),
            (None, Holding::Module(_)) => "the host".to_owned(),
        }
    }

    /// The group that the port is from.
    pub fn group(&self) -> String {
        self.lease.group.as_ref().map_or_else(|| "static".to_owned(), ToString::to_string)
    }

    /// For how long it is held, at this time in seconds since the Unix epoch.
    pub fn age(&self, now: u64) -> String {
        time::span(now.saturating_sub(self.owner.since()))
    }

    /// The lease as programs read it.
    pub fn document(&self) -> Document<'a> {
        let Held { lease, owner } = self;
        let (pod, attachment) = (owner.pod(), owner.attachment());
        Document {
            name: lease.name.as_ref().map(PortName::as_str),
            protocol: lease.host.protocol.name(),
            host_ip: lease.host.address.to_string(),
            host_port: lease.host.port.number(),
            container_port: lease.container_port.number(),
            container_ips: owner.addresses().iter().map(ToString::to_string).collect(),
            group: lease.group.as_ref().map(GroupName::as_str),
            claim: lease.claim.as_ref().map(ClaimName::as_str),
            network: attachment.map(|at| at.network.as_str()),
            container_id: attachment.map(|at| at.container.as_str()),
            ifname: attachment.map(|at| at.interface.as_str()),
            link: owner.link().map(InterfaceName::as_str),
            namespace: pod.map(|pod| pod.namespace.as_str()),
            pod: pod.map(|pod| pod.name.as_str()),
            uid: pod.and_then(|pod| pod.uid.as_deref()),
            module: owner.module(),
            since: time::rfc3339(owner.since()),
        }
    }
}

/// All containers, by what claims know them by.
pub type Owners<'a> = HashMap<&'a Attachment, &'a Holding>;

/// The owners of all that is held.
pub fn owners(holdings: &[Holding]) -> Owners<'_> {
    holdings.iter().filter_map(|owner| Some((owner.attachment()?, owner))).collect()
}

/// One lease as an object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    name: Option<&'a str>,
    protocol: &'static str,
    #[serde(rename = "hostIP")]
    host_ip: String,
    host_port: u16,
    container_port: u16,
    #[serde(rename = "containerIPs")]
    container_ips: Vec<String>,
    group: Option<&'a str>,
    claim: Option<&'a str>,
    network: Option<&'a str>,
    #[serde(rename = "containerID")]
    container_id: Option<&'a str>,
    ifname: Option<&'a str>,
    /// The host's link towards the container.
    link: Option<&'a str>,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    uid: Option<&'a str>,
    /// The service of the host that holds it, where no container does.
    module: Option<&'a str>,
    /// RFC 3339, in UTC.
    since: String,
}

#[cfg(test)]
pub mod tests {
    use portclaim::lease::{
        ContainerAddresses, Forwarding, HostPort, ModuleLease, Pod, Port, Rest,
    };

    use super::*;

    /// A forwarding of `namespace/pod` with leases like `7000/udp@games` or `80/tcp`.
    pub fn forwarding(pod: &str, leases: &[&str]) -> Forwarding {
        let (namespace, name) = pod.split_once('/').unwrap();
        let lease = |text: &&str| {
            let (host, group) = text.split_once('@').map_or((*text, None), |(h, g)| (h, Some(g)));
            let (port, protocol) = host.split_once('/').unwrap();
            let port = Port::new(port.parse().unwrap()).unwrap();
            let protocol = Protocol::from_name(protocol).unwrap();
            Lease {
                host: HostPort { protocol, port, address: "".parse().unwrap() },
                container_port: port,
                name: None,
                group: group.map(|group| group.parse().unwrap()),
                claim: None,
                rest: None,
            }
        };
        Forwarding {
            attachment: Attachment {
                network: "net".parse().unwrap(),
                container: format!("{name}0123").parse().unwrap(),
                interface: "eth0".parse().unwrap(),
            },
            pod: Some(Pod {
                namespace: namespace.parse().unwrap(),
                name: name.parse().unwrap(),
                uid: None,
            }),
            container: ContainerAddresses { v4: "10.1.0.5".parse().ok(), v6: None },
            link: None,
            sandbox: None,
            health: None,
            since: 100,
            leases: leases.iter().map(lease).collect(),
        }
    }

    /// TCP ports that a module holds.
    pub fn block(module: &str, first: u16, count: u16) -> ModuleLease {
        ModuleLease {
            module: module.parse().unwrap(),
            name: None,
            protocol: Protocol::Tcp,
            port: Port::new(first).unwrap(),
            count,
            group: "default".parse().unwrap(),
            to: None,
            since: 100,
            rest: Rest { cooldown: 0, is_remembered: false },
        }
    }

    fn shown(rows: &[Held<'_>]) -> Vec<String> {
        rows.iter().map(|held| format!("{} {}", held.lease.host, held.owner)).collect()
    }

    #[test]
    fn filters_hold_together() {
        let all = [
            forwarding("shop/web", &["8080/tcp", "80/tcp@games", "80/udp@games"]),
            forwarding("shop/db", &["5432/tcp"]),
            forwarding("shop-2/web", &["81/tcp@games"]),
        ];
        let mut all: Vec<Holding> = all.map(Holding::from).into();
        all.push(block("mail1", 25, 2).into());
        for (filter, expected) in [
            (
                Filter::default(),
                &[
                    "25/tcp module mail1",
                    "26/tcp module mail1",
                    "80/tcp shop/web",
                    "80/udp shop/web",
                    "81/tcp shop-2/web",
                    "5432/tcp shop/db",
                    "8080/tcp shop/web",
                ][..],
            ),
            (
                Filter {
                    namespace: "shop".parse().ok(),
                    pod: "web".parse().ok(),
                    protocol: Some(Protocol::Tcp),
                    ..Filter::default()
                },
                &["80/tcp shop/web", "8080/tcp shop/web"],
            ),
            (
                Filter {
                    group: "games".parse().ok(),
                    ports: "81-90".parse().ok(),
                    ..Filter::default()
                },
                &["81/tcp shop-2/web"],
            ),
            (Filter { network: "other".parse().ok(), ..Filter::default() }, &[]),
            (
                Filter {
                    module: "mail1".parse().ok(),
                    ports: "26-80".parse().ok(),
                    ..Filter::default()
                },
                &["26/tcp module mail1"],
            ),
        ] {
            assert_eq!(shown(&rows(&all, &filter)), expected, "{filter:?}");
        }
    }

    #[test]
    fn changes_are_what_a_row_shows_otherwise() {
        let before =
            [forwarding("shop/web", &["80/tcp", "81/tcp"]), forwarding("shop/db", &["90/tcp"])]
                .map(Holding::from);
        let mut after =
            [forwarding("shop/web", &["80/tcp", "82/tcp"]), forwarding("shop/new", &["90/tcp"])]
                .map(Holding::from);
        let filter = Filter::default();
        let (gone, come) = changes(&rows(&before, &filter), &rows(&after, &filter));
        assert_eq!(shown(&gone), ["81/tcp shop/web", "90/tcp shop/db"]);
        assert_eq!(shown(&come), ["82/tcp shop/web", "90/tcp shop/new"]);
        assert_eq!(changes(&come, &come), (vec![], vec![]));
        let unchanged = after.clone();
        after[1] = Forwarding { since: 101, ..forwarding("shop/new", &["90/tcp"]) }.into();
        let (gone, come) = changes(&rows(&unchanged, &filter), &rows(&after, &filter));
        assert_eq!((gone.len(), come.len()), (1, 1), "the same port was given anew");
    }
}
