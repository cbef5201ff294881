//! Groups: how much of each is used, and by whom.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use portclaim::{
    cni::config::Settings,
    command::Exclusion,
    lease::{
        Claim, Group, GroupName, NetworkName, Port, PortMap, PortSet, Protocol, Protocols, Release,
    },
};
use serde::Serialize;

use super::{claim::State, holding::Holding, lease::Owners};

/// What networks say about ports. Networks that say the same are together.
#[derive(Clone, Debug)]
pub struct Policy {
    /// None where no conflist was found.
    pub networks: Vec<NetworkName>,
    pub settings: Settings,
    pub exclusion: Exclusion,
}

/// A group, and what may be given of it.
#[derive(Clone, Debug)]
pub struct Pool<'a> {
    pub name: &'a GroupName,
    pub group: &'a Group,
    /// The networks that have it.
    pub networks: Vec<&'a NetworkName>,
    /// Its ports but for those that are excluded.
    pub ports: PortSet,
}

/// The groups of all networks, by name. A group that is another one elsewhere is
/// there more than once.
pub fn pools(policies: &[Policy]) -> Vec<Pool<'_>> {
    let mut pools: Vec<Pool<'_>> = Vec::new();
    for policy in policies {
        let exclude = policy.exclusion.ports();
        for (name, group) in &policy.settings.groups {
            let ports = group.ports.without(&exclude);
            let is_same = |pool: &&mut Pool<'_>| {
                (pool.name, pool.group, &pool.ports) == (name, group, &ports)
            };
            match pools.iter_mut().find(is_same) {
                Some(pool) => pool.networks.extend(&policy.networks),
                None => pools.push(Pool {
                    name,
                    group,
                    networks: policy.networks.iter().collect(),
                    ports,
                }),
            }
        }
    }
    pools.sort_by_key(|pool| pool.name);
    pools
}

/// Whose leases are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Containers in no pod.
    NoPod,
    Namespace(String),
    Module(String),
}

impl Side {
    fn of(holding: &Holding) -> Self {
        match (holding.module(), holding.namespace()) {
            (Some(module), _) => Self::Module(module.to_owned()),
            (None, Some(namespace)) => Self::Namespace(namespace.to_string()),
            (None, None) => Self::NoPod,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPod => f.write_str("(no pod)"),
            Self::Namespace(name) => f.write_str(name),
            Self::Module(name) => write!(f, "module {name}"),
        }
    }
}

/// What stands in the way of giving ports, by protocol.
#[derive(Clone, Debug, Default)]
pub struct Occupation {
    ports: BTreeMap<Protocol, Occupied>,
    /// Every lease, and whose it counts as.
    leases: Vec<(Side, Protocol, Port)>,
}

#[derive(Clone, Debug, Default)]
struct Occupied {
    leased: PortMap,
    /// By claims that nobody uses.
    reserved: PortMap,
    cooling: PortMap,
}

impl Occupation {
    /// What the store says at this time, in seconds since the Unix epoch.
    pub fn new(
        holdings: &[Holding],
        claims: &[Claim],
        resting: &[(Protocol, Port)],
        now: u64,
    ) -> Self {
        let mut occupation = Self::default();
        for holding in holdings {
            let side = Side::of(holding);
            for lease in holding.leases() {
                let (protocol, port) = (lease.host.protocol, lease.host.port);
                occupation.of(protocol).leased.insert(port);
                occupation.leases.push((side.clone(), protocol, port));
            }
        }
        for claim in claims {
            let state = State::of(claim, &Owners::new(), now);
            if state.is_unused() && state.is_kept() {
                let reserved = &mut occupation.of(claim.key.protocol).reserved;
                claim.ports().for_each(|port| reserved.insert(port.port));
            }
        }
        for (protocol, port) in resting {
            occupation.of(*protocol).cooling.insert(*port);
        }
        for occupied in occupation.ports.values_mut() {
            occupied.reserved.subtract(&occupied.leased);
            occupied.cooling.subtract(&occupied.leased);
            occupied.cooling.subtract(&occupied.reserved);
        }
        occupation
    }

    fn of(&mut self, protocol: Protocol) -> &mut Occupied {
        self.ports.entry(protocol).or_default()
    }
}

/// The ports of these releases that still rest, at this time since boot.
pub fn resting(
    protocol: Protocol,
    releases: &[(Port, Release)],
    since_boot: std::time::Duration,
) -> impl Iterator<Item = (Protocol, Port)> {
    let resting = releases.iter().filter(move |(_, release)| release.rested > since_boot);
    resting.map(move |(port, _)| (protocol, *port))
}

/// How many ports of a group are what, for one protocol or for several of which the
/// same is true. Each port is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Held by anybody, of whatever group and whether on all addresses or not.
    pub leased: u32,
    /// Reserved by a claim that nobody uses.
    pub reserved: u32,
    /// Given back a short time ago: given again only when no other is left.
    pub cooling: u32,
    pub free: u32,
}

/// A group and what has become of its ports.
#[derive(Clone, Debug)]
pub struct Statistics<'a> {
    pub pool: Pool<'a>,
    /// The protocols that the group is for, those together of which the same is true.
    pub usages: Vec<(Protocols, Usage)>,
    /// Who has how many leases on its ports, each protocol counted, the most first.
    pub holders: Vec<(Side, u32)>,
    /// Those of its ports that the kernel gives to connections of the host as well.
    pub ephemeral: PortSet,
}

/// What has become of the ports of a group.
pub fn statistics<'a>(
    pool: Pool<'a>,
    occupation: &Occupation,
    ephemeral: &PortSet,
) -> Statistics<'a> {
    let ports = PortMap::from(&pool.ports);
    let mut usages: Vec<(Protocols, Usage)> = Vec::new();
    for protocol in pool.group.protocols.iter() {
        let usage = usage(&ports, occupation.ports.get(&protocol));
        match usages.iter_mut().find(|(_, known)| *known == usage) {
            Some((protocols, _)) => {
                *protocols = protocols.iter().chain([protocol]).collect();
            }
            None => usages.push((protocol.into(), usage)),
        }
    }
    let mut holders: BTreeMap<&Side, u32> = BTreeMap::new();
    for (side, protocol, port) in &occupation.leases {
        if pool.group.protocols.contains(*protocol) && ports.contains(*port) {
            match holders.entry(side) {
                Entry::Vacant(vacant) => _ = vacant.insert(1),
                Entry::Occupied(mut count) => *count.get_mut() += 1,
            }
        }
    }
    let mut holders: Vec<_> =
        holders.into_iter().map(|(side, count)| (side.clone(), count)).collect();
    // Stable: those with equally many stay in their order.
    holders.sort_by_key(|(_, count)| Reverse(*count));
    let ephemeral = pool.ports.without(&pool.ports.without(ephemeral));
    Statistics { pool, usages, holders, ephemeral }
}

fn usage(ports: &PortMap, occupied: Option<&Occupied>) -> Usage {
    let Some(occupied) = occupied else {
        return Usage { leased: 0, reserved: 0, cooling: 0, free: ports.len() };
    };
    let count = |of: &PortMap| {
        let mut both = ports.clone();
        both.keep(of);
        both.len()
    };
    let (leased, reserved, cooling) =
        (count(&occupied.leased), count(&occupied.reserved), count(&occupied.cooling));
    Usage { leased, reserved, cooling, free: ports.len() - leased - reserved - cooling }
}

/// One group as an object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    name: &'a str,
    networks: Vec<&'a str>,
    ports: String,
    /// Without those that are excluded.
    size: u32,
    excluded: u32,
    protocols: BTreeMap<&'static str, Usage>,
    holders: Vec<Holder<'a>>,
    ephemeral: String,
}

#[derive(Clone, Debug, Serialize)]
struct Holder<'a> {
    namespace: Option<&'a str>,
    module: Option<&'a str>,
    leased: u32,
}

impl Statistics<'_> {
    /// The statistics as programs read them.
    pub fn document(&self) -> Document<'_> {
        let Self { pool, usages, holders, ephemeral } = self;
        let by_protocol = |(protocols, usage): &(Protocols, Usage)| {
            let usage = *usage;
            protocols.iter().map(move |protocol| (protocol.name(), usage)).collect::<Vec<_>>()
        };
        Document {
            name: pool.name.as_str(),
            networks: pool.networks.iter().map(|network| network.as_str()).collect(),
            ports: pool.group.ports.to_string(),
            size: pool.ports.len(),
            excluded: pool.group.ports.len() - pool.ports.len(),
            protocols: usages.iter().flat_map(by_protocol).collect(),
            holders: holders
                .iter()
                .map(|(side, leased)| {
                    let (namespace, module) = match side {
                        Side::NoPod => (None, None),
                        Side::Namespace(name) => (Some(name.as_str()), None),
                        Side::Module(name) => (None, Some(name.as_str())),
                    };
                    Holder { namespace, module, leased: *leased }
                })
                .collect(),
            ephemeral: ephemeral.to_string(),
        }
    }
}

/// How much is used, as `[##=-    ]`: `#` leased, `=` reserved, `-` cooling down.
/// What there is shows, if there is room for it, however little it is.
pub fn bar(usage: &Usage, width: usize) -> String {
    let Usage { leased, reserved, cooling, free } = *usage;
    let size = u64::from(leased) + u64::from(reserved) + u64::from(cooling) + u64::from(free);
    let mut bar = String::with_capacity(width + 2);
    bar.push('[');
    let (mut counted, mut filled) = (0, 0);
    for (mark, count) in [('#', leased), ('=', reserved), ('-', cooling)] {
        counted += u64::from(count);
        let share = u64::try_from(width).unwrap_or_default() * counted;
        let end = usize::try_from(share.checked_div(size).unwrap_or_default()).unwrap_or(width);
        let end = if count > 0 { end.max(filled + 1).min(width) } else { end.max(filled) };
        bar.extend(std::iter::repeat_n(mark, end - filled));
        filled = end;
    }
    // What is free shows as well.
    if free > 0 && filled == width && width > 0 {
        bar.pop();
        filled -= 1;
    }
    bar.extend(std::iter::repeat_n(' ', width - filled));
    bar.push(']');
    bar
}

#[cfg(test)]
pub mod tests {
    use portclaim::cni::Config;

    use super::*;
    use crate::view::{
        claim::tests::claim,
        lease::tests::{block, forwarding},
    };

    /// What a network says that has these keys.
    pub fn policy(network: &str, keys: &str) -> Policy {
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "{network}", "type": "portclaim", "exclude": "7009"{keys}}}"#
        );
        let settings = Config::parse(text.as_bytes()).unwrap().settings().unwrap();
        let exclude = settings.exclude.clone().unwrap();
        let rule = portclaim::command::ExclusionRule::Exclude;
        let exclusion = Exclusion::new([(rule, exclude)]);
        Policy { networks: vec![network.parse().unwrap()], settings, exclusion }
    }

    const GAMES: &str =
        r#", "groups": {"games": {"ports": "7000-7009", "protocols": ["tcp", "udp"]}}"#;

    #[test]
    fn each_port_is_counted_once() {
        let policies = [policy("a", GAMES), policy("b", GAMES)];
        let pools = pools(&policies);
        let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
        assert_eq!(names, ["default", "games"]);
        assert_eq!(pools[1].networks.len(), 2);
        let held = [
            forwarding("games/arena", &["7000/tcp@games", "7000/udp@games", "7001/udp"]),
            forwarding("shop/web", &["7002/tcp", "7009/tcp", "8080/tcp"]),
        ];
        let attachment = held[0].attachment.clone();
        let mut held: Vec<Holding> = held.map(Holding::from).into();
        held.push(block("mail1", 7008, 1).into());
        let claims = [
            claim(7001, 3, None, Some(1001)),
            claim(7005, 1, None, Some(1000)),
            claim(7000, 1, Some(attachment), None),
        ];
        let port = |number| Port::new(number).unwrap();
        let resting = [7001, 7002, 7004].map(|number| (Protocol::Udp, port(number)));
        let occupation = Occupation::new(&held, &claims, &resting, 1000);
        let ephemeral = "7008-7010".parse().unwrap();
        let found = statistics(pools[1].clone(), &occupation, &ephemeral);
        let usage = |leased, reserved, cooling, free| Usage { leased, reserved, cooling, free };
        assert_eq!(
            found.usages,
            [(Protocol::Tcp.into(), usage(3, 0, 0, 6)), (Protocol::Udp.into(), usage(2, 2, 1, 4)),]
        );
        let holders = found.holders.iter().map(|(side, count)| format!("{side} {count}"));
        assert_eq!(holders.collect::<Vec<_>>(), ["games 3", "shop 1", "module mail1 1"]);
        assert_eq!(found.ephemeral.to_string(), "7008");
        let found = statistics(pools[0].clone(), &occupation, &ephemeral);
        assert_eq!(found.usages, [(Protocols::ALL, usage(0, 0, 0, 10_000))]);
    }

    #[test]
    fn groups_of_one_name_may_differ_between_networks() {
        let policies = [policy("a", GAMES), policy("b", "")];
        let other = [policy("a", GAMES), policy("b", &GAMES.replace("7009", "7099"))];
        assert_eq!((pools(&policies).len(), pools(&other).len()), (2, 3));
    }

    #[test]
    fn a_port_rests_until_its_time() {
        let millis = std::time::Duration::from_millis;
        let release = |rested| Release { at: millis(0), rested: millis(rested), by_module: false };
        let port = |number| Port::new(number).unwrap();
        let releases = [(port(1), release(10)), (port(2), release(11))];
        let found: Vec<_> = resting(Protocol::Tcp, &releases, millis(10)).collect();
        assert_eq!(found, [(Protocol::Tcp, port(2))]);
    }

    #[test]
    fn bars_show_everything_there_is() {
        for ((leased, reserved, cooling, free), expected) in [
            ((0, 0, 0, 100), "[        ]"),
            ((1, 0, 0, 9999), "[#       ]"),
            ((1, 1, 1, 9997), "[#=-     ]"),
            ((50, 25, 0, 25), "[####==  ]"),
            ((50, 25, 25, 0), "[####==--]"),
            ((9999, 0, 0, 1), "[####### ]"),
            ((9999, 1, 0, 0), "[#######=]"),
            ((0, 0, 0, 0), "[        ]"),
        ] {
            let usage = Usage { leased, reserved, cooling, free };
            assert_eq!(bar(&usage, 8), expected, "{usage:?}");
        }
    }
}
