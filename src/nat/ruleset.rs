//! The ruleset: what one network's table is made of.
//!
//! Pure. The chains are static; what is forwarded stands in maps, so a packet
//! costs one lookup per map whatever the number of forwardings.
//!
//! ```text
//! wire ─ guard ─ (conntrack) ─ … kube-proxy … ─ prerouting ┐
//!         raw                          dstnat  dstnat + 10 ├ fib daddr type local ─ hostports ─ dnat
//! host ─────────────────────── … kube-proxy … ───── output ┘
//!
//! after dnat: postrouting ─ masquerading ─ forwarded ─ masquerade
//! with acceptIn: forward ─ mark ─ … the chains of others …
//! ```
//!
//! - `prerouting` and `output` run after kube-proxy's chains, so that services
//!   win over host ports (CVE-2019-9946), and forward only what is addressed to
//!   the host itself, entries with a host address too (CVE-2025-67499).
//! - `guard` drops packets on the wire that claim to be from or for 127.0.0.0/8:
//!   `route_localnet`, which `127.0.0.1:PORT` needs, would let them reach
//!   services that listen on loopback only (CVE-2020-8558). It sees packets
//!   before connection tracking, so replies to masqueraded loopback sources still
//!   carry the host's address there.
//! - `forwarded` lets connections to endpoints in this table pass only, so that
//!   other tables' DNAT keeps its source addresses. It comes last: the packets
//!   of most flows need no masquerading, which costs less to find out.
//!
//! - `forward` marks the packets of connections to endpoints in this table, both ways,
//!   for chains of others that are told to let them pass (`acceptIn`).
//!
//! Limits:
//! - `[::1]:PORT` on the host is refused, not forwarded: IPv6 has nothing like
//!   `route_localnet`, and the kernel drops the replies (tried on 6.18; the
//!   connection hangs). `localhost` reaches the port by way of 127.0.0.1.
//! - Conditions hold for what the host sends itself too, as portmap has it; a
//!   match on the incoming link is never met there.
//! - A connection that kube-proxy sent to an endpoint that is also forwarded to
//!   here is masqueraded where ours would be. Without `masqAll` these are the
//!   connections that could not work otherwise.
//! - With `br_netfilter` the packets of a bridge name its ports, not the bridge:
//!   siblings are not masqueraded then, and need not be, for the host sees the
//!   replies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{
    condition::Condition,
    element::{Element, Set},
    rule::{End, Family, Field, Rule, Statement, Transport, Value},
    transaction::{Base, ChainKind, ELEMENTS, Hook, Step},
    wire,
};
use crate::{lease::NetworkName, netlink::Request};

/// Before connection tracking.
const RAW_PRIORITY: i32 = -300;
/// After kube-proxy's, which are at dstnat (-100).
const DNAT_PRIORITY: i32 = -90;
/// Before `mangle` (-150), and whatever others drop at.
const FORWARD_PRIORITY: i32 = -160;
/// The bit of the packet mark by which others know what is forwarded here. Not
/// portmap's (13), kube-proxy's (14, 15) or Calico's (16 and above).
pub(super) const ACCEPT_MARK: u32 = 1 << 12;
/// `srcnat`.
const SNAT_PRIORITY: i32 = 100;
const FORWARD: &str = "forward";
/// `NFT_NAME_MAXLEN` without the NUL.
const NAME_LENGTH: usize = 255;
const NAME_PREFIX: &str = "portclaim_";
/// Bumped when a rule changes its meaning but not its form.
const LAYOUT: &str = "1";

/// What the configuration says about the ruleset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Masquerade what could not find its way back otherwise.
    pub snat: bool,
    /// Masquerade everything that is forwarded. Nothing without `snat`.
    pub masq_all: bool,
    /// What must hold, besides, for IPv4 packets to be forwarded.
    pub conditions_v4: Vec<Condition>,
    /// What must hold, besides, for IPv6 packets to be forwarded.
    pub conditions_v6: Vec<Condition>,
    /// Mark what is forwarded, for chains of others.
    pub marks: bool,
    /// A number that changes when what the table holds is no longer to be
    /// trusted: a table made under another one is not intact.
    pub lineage: u64,
}

/// The table of one network, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    name: String,
    rules: Vec<Rule>,
}

impl Table {
    /// The table of a network under these options: `portclaim_NETWORK` in the
    /// family `inet`. A name longer than nft takes is cut and ends with a hash.
    #[must_use]
    pub fn new(network: &NetworkName, options: &Options) -> Self {
        Self::named(name(network.as_str()), options)
    }

    /// The table of this name: one of ours whose network is not known any more.
    #[must_use]
    pub fn named(name: String, options: &Options) -> Self {
        let mut rules = rules(options);
        let unmarked = Self { name, rules: rules.clone() };
        let fingerprint = fingerprint(&unmarked, options.lineage);
        for rule in &mut rules {
            rule.comment = format!("{}; ruleset {fingerprint}", rule.comment);
        }
        Self { rules, ..unmarked }
    }

    /// The name within the family `inet`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chain and comment of every rule, in the order in which the kernel
    /// lists them.
    pub(super) fn comments(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules.iter().map(|rule| (rule.chain, rule.comment.as_str()))
    }

    /// Replaces the table, whatever it holds, by one with these elements.
    fn replace<'a>(&'a self, elements: &'a [Element], steps: &mut Vec<Step<'a>>) {
        steps.extend(Self::removal(&self.name));
        steps.push(Step::AddTable(&self.name));
        steps.extend(self.objects());
        for set in Set::ALL {
            let members: Vec<_> = elements.iter().filter(|e| e.set() == set).collect();
            let parts = members.chunks(ELEMENTS).map(<[_]>::to_vec);
            steps.extend(parts.map(|part| Step::AddElements(&self.name, set, part)));
        }
    }

    /// The transaction that removes elements and then adds others.
    pub(super) fn change<'a>(
        &'a self,
        remove: &[&'a Element],
        add: &[&'a Element],
    ) -> Vec<Step<'a>> {
        let removed = remove.iter().map(|element| Step::DeleteElement(&self.name, element));
        // One by one, so that an error names the one that is in the way.
        let added =
            add.iter().map(|element| Step::AddElements(&self.name, element.set(), vec![element]));
        removed.chain(added).collect()
    }

    /// Deletes a table whether or not it is there.
    fn removal(name: &str) -> [Step<'_>; 2] {
        [Step::AddTable(name), Step::DeleteTable(name)]
    }

    /// Sets, chains and rules, in the order in which they must be made.
    fn objects(&self) -> Vec<Step<'_>> {
        use ChainKind::{Filter, Nat};
        let base = |kind, hook, priority| Some(Base { kind, hook, priority });
        let mut chains = vec![
            ("guard", base(Filter, Hook::Prerouting, RAW_PRIORITY)),
            ("hostports", None),
            ("prerouting", base(Nat, Hook::Prerouting, DNAT_PRIORITY)),
            ("output", base(Nat, Hook::Output, DNAT_PRIORITY)),
            ("forwarded", None),
            ("masquerading", None),
            ("postrouting", base(Nat, Hook::Postrouting, SNAT_PRIORITY)),
        ];
        if self.rules.iter().any(|rule| rule.chain == FORWARD) {
            chains.push((FORWARD, base(Filter, Hook::Forward, FORWARD_PRIORITY)));
        }
        let sets = Set::ALL.into_iter().map(|set| Step::AddSet(&self.name, set));
        let chains = chains.into_iter().map(|(name, base)| Step::AddChain(&self.name, name, base));
        let rules = self.rules.iter().map(|rule| Step::AddRule(&self.name, rule));
        sets.chain(chains).chain(rules).collect()
    }
}

/// The transaction that replaces tables, whatever they hold, by those with these
/// elements.
pub(super) fn replacement<'a>(tables: &'a [(&'a Table, Vec<Element>)]) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for (table, elements) in tables {
        table.replace(elements, &mut steps);
    }
    steps
}

/// The transaction that deletes tables, by their names.
pub(super) fn deletion(names: &[String]) -> Vec<Step<'_>> {
    names.iter().flat_map(|name| Table::removal(name)).collect()
}

/// Whether a table of the family `inet` is ours, by its name.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(NAME_PREFIX)
}

/// The network whose table has this name, as far as the name tells: a long one is
/// cut.
#[must_use]
pub fn network_of(table: &str) -> Option<NetworkName> {
    let network: NetworkName = table.strip_prefix(NAME_PREFIX)?.parse().ok()?;
    (name(network.as_str()) == table).then_some(network)
}

/// Every rule, chain by chain, in the order of the chains.
fn rules(options: &Options) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |chain, comment: &str, statements| {
        rules.push(Rule { chain, comment: comment.to_owned(), statements });
    };
    for end in [End::Destination, End::Source] {
        rule(
            "guard",
            "no loopback addresses on the wire",
            vec![
                Statement::is_not(Field::InputLink, Value::Link("lo".to_owned())),
                Statement::is(Field::Address(Family::V4, end), loopback()),
                Statement::Count,
                Statement::Drop,
            ],
        );
    }
    for (comment, family, is_of_one_address, [addresses, ports]) in [
        ("one host address", Family::V4, true, [Set::Host4Addr, Set::Host4Port]),
        ("any host address", Family::V4, false, [Set::Any4Addr, Set::Any4Port]),
        ("one host address", Family::V6, true, [Set::Host6Addr, Set::Host6Port]),
        ("any host address", Family::V6, false, [Set::Any6Addr, Set::Any6Port]),
    ] {
        let endpoint = endpoint(family, End::Destination);
        let key = endpoint[usize::from(!is_of_one_address)..].to_vec();
        rule("hostports", comment, vec![Statement::Forward { family, key, addresses, ports }]);
    }
    for chain in ["prerouting", "output"] {
        for (family, conditions) in
            [(Family::V4, &options.conditions_v4), (Family::V6, &options.conditions_v6)]
        {
            let mut statements = vec![Statement::IsOf(family)];
            statements.extend(apart(conditions));
            if (chain, family) == ("output", Family::V6) {
                let field = Field::Address(family, End::Destination);
                statements.push(Statement::is_not(field, address(Ipv6Addr::LOCALHOST)));
            }
            statements.extend([Statement::IsToHost, Statement::Jump("hostports")]);
            rule(chain, "to the host itself", statements);
        }
    }
    if options.snat {
        for (family, set) in [(Family::V4, Set::Forwarded4), (Family::V6, Set::Forwarded6)] {
            let endpoint = endpoint(family, End::Destination).to_vec();
            let statements = vec![Statement::IsIn(endpoint, set), Statement::Masquerade];
            rule("forwarded", "by this table", statements);
        }
        for (comment, condition) in masquerading(options) {
            let statements = condition.into_iter().chain([Statement::Jump("forwarded")]).collect();
            rule("masquerading", comment, statements);
        }
        let statements = vec![Statement::IsForwarded, Statement::Jump("masquerading")];
        rule("postrouting", "forwarded", statements);
    }
    if options.marks {
        for (family, set) in [(Family::V4, Set::Forwarded4), (Family::V6, Set::Forwarded6)] {
            for (comment, end) in
                [("to an endpoint", End::Destination), ("from an endpoint", End::Source)]
            {
                let endpoint = endpoint(family, end).to_vec();
                let statements = vec![
                    Statement::IsForwarded,
                    Statement::IsIn(endpoint, set),
                    Statement::SetMark(ACCEPT_MARK),
                ];
                rule(FORWARD, comment, statements);
            }
        }
    }
    rules
}

/// The conditions so that nft leaves them as they are. Of a comparison with one source
/// port and one with one destination port, wherever they stand, nft 1.0.6 makes one with
/// both. That is wrong for `sport != 1 dport != 2`: a packet from port 1 to port 3 then
/// meets it. What is compared with a range it does not touch.
fn apart(conditions: &[Condition]) -> Vec<Statement> {
    let port = |statement: &Statement, wanted| match statement {
        Statement::Is { field: Field::Port(_, end), values, .. } if *end == wanted => {
            match values[..] {
                [Value::Port(port)] => Some(port),
                _ => None,
            }
        }
        _ => None,
    };
    let mut statements: Vec<_> = conditions.iter().map(Condition::statement).collect();
    if statements.iter().any(|it| port(it, End::Source).is_some()) {
        for statement in &mut statements {
            let port = port(statement, End::Destination);
            if let (Some(port), Statement::Is { values, .. }) = (port, statement) {
                *values = vec![Value::Ports(port, port)];
            }
        }
    }
    statements
}

/// What must be masqueraded, if it is forwarded by this table; all for none.
fn masquerading(options: &Options) -> Vec<(&'static str, Option<Statement>)> {
    if options.masq_all {
        return vec![("masqAll", None)];
    }
    let pair = |family, set| {
        let ends = [End::Source, End::Destination];
        Some(Statement::IsIn(ends.map(|end| Field::Address(family, end)).to_vec(), set))
    };
    let source = Field::Address(Family::V4, End::Source);
    let links = vec![Field::InputLink, Field::OutputLink];
    vec![
        ("from loopback", Some(Statement::is(source, loopback()))),
        ("out by the link it came in by", Some(Statement::IsIn(links, Set::Links))),
        // With br_netfilter, a bridge is not the link that its packets came in by:
        // so a container is known by its address as well.
        ("a container to itself", pair(Family::V4, Set::Hairpin4)),
        ("a container to itself", pair(Family::V6, Set::Hairpin6)),
    ]
}

/// The address, protocol and port that a packet is from or for.
fn endpoint(family: Family, end: End) -> [Field; 3] {
    [Field::Address(family, end), Field::Protocol, Field::Port(Transport::Any, end)]
}

fn loopback() -> Value {
    let network = IpNetwork::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8);
    Value::Prefix(network.expect("8 is the length of a prefix"))
}

fn address(address: impl Into<IpAddr>) -> Value {
    Value::Prefix(IpNetwork::from(address.into()))
}

fn name(network: &str) -> String {
    let name = format!("{NAME_PREFIX}{network}");
    if name.len() <= NAME_LENGTH {
        return name;
    }
    let hash = format!("_{:016x}", hash(network.as_bytes()));
    format!("{}{hash}", &name[..NAME_LENGTH - hash.len()])
}

/// Changes with everything that is static in a table, and with the lineage.
fn fingerprint(table: &Table, lineage: u64) -> String {
    let (messages, _) = wire::messages(&table.objects());
    let lineage = lineage.to_be_bytes();
    let text = LAYOUT.as_bytes().iter().chain(&lineage);
    format!("{:016x}", hash(text.chain(messages.iter().flat_map(Request::bytes))))
}

/// FNV-1a: the same in every version.
fn hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
