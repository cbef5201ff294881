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
//! - nft 1.0.6 turns a JSON map with concatenated data into a set, without a
//!   word; hence a pair of maps where one would do.

use nftables::{
    batch::Batch,
    expr::{
        self, BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey,
        NamedExpression, Payload, PayloadField, Prefix,
    },
    schema::{self, Chain, NfListObject, Nftables, Rule, SetTypeValue},
    stmt::{Counter, JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use super::{
    condition::Condition,
    element::{Element, Set},
};
use crate::lease::NetworkName;

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
    rules: Vec<Line>,
}

/// A rule and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    chain: &'static str,
    comment: String,
    statements: Vec<Statement<'static>>,
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
    fn replace(&self, elements: &[Element], batch: &mut Batch<'static>) {
        // There is no "delete if it exists" before nft 1.0.8.
        batch.add(self.itself());
        batch.delete(self.itself());
        batch.add(self.itself());
        for object in self.objects() {
            batch.add(object);
        }
        for set in Set::ALL {
            let members: Vec<_> =
                elements.iter().filter(|e| e.set() == set).map(Element::expression).collect();
            if !members.is_empty() {
                batch.add(self.members(set, members));
            }
        }
    }

    /// The transaction that removes elements and then adds others.
    pub(super) fn change(&self, remove: &[&Element], add: &[&Element]) -> Nftables<'static> {
        let mut batch = Batch::new();
        for set in Set::ALL {
            let of_set =
                |elements: &[&Element], expression: fn(&Element) -> Expression<'static>| {
                    let members = elements.iter().filter(|e| e.set() == set);
                    members.map(|e| expression(e)).collect::<Vec<_>>()
                };
            let (removed, added) =
                (of_set(remove, Element::deletion), of_set(add, Element::expression));
            if !removed.is_empty() {
                batch.delete(self.members(set, removed));
            }
            if !added.is_empty() {
                batch.add(self.members(set, added));
            }
        }
        batch.to_nftables()
    }

    fn itself(&self) -> NfListObject<'static> {
        table(&self.name)
    }

    fn members(&self, set: Set, members: Vec<Expression<'static>>) -> NfListObject<'static> {
        NfListObject::Element(schema::Element {
            family: NfFamily::INet,
            table: self.name.clone().into(),
            name: set.name().into(),
            elem: members.into(),
        })
    }

    /// Sets, chains and rules, in the order in which nft must read them.
    fn objects(&self) -> Vec<NfListObject<'static>> {
        let mut objects: Vec<_> = Set::ALL.into_iter().map(|set| self.set(set)).collect();
        objects.extend([
            self.base_chain("guard", NfChainType::Filter, NfHook::Prerouting, RAW_PRIORITY),
            self.chain("hostports"),
            self.base_chain("prerouting", NfChainType::NAT, NfHook::Prerouting, DNAT_PRIORITY),
            self.base_chain("output", NfChainType::NAT, NfHook::Output, DNAT_PRIORITY),
            self.chain("forwarded"),
            self.chain("masquerading"),
            self.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SNAT_PRIORITY),
        ]);
        if self.rules.iter().any(|rule| rule.chain == FORWARD) {
            let (kind, hook) = (NfChainType::Filter, NfHook::Forward);
            objects.push(self.base_chain(FORWARD, kind, hook, FORWARD_PRIORITY));
        }
        objects.extend(self.rules.iter().map(|rule| {
            NfListObject::Rule(Rule {
                family: NfFamily::INet,
                table: self.name.clone().into(),
                chain: rule.chain.into(),
                expr: rule.statements.clone().into(),
                comment: Some(rule.comment.clone().into()),
                ..Rule::default()
            })
        }));
        objects
    }

    fn set(&self, set: Set) -> NfListObject<'static> {
        let (family, table, name) = (NfFamily::INet, self.name.clone().into(), set.name().into());
        let set_type = SetTypeValue::Concatenated(set.key().into());
        match set.data() {
            Some(data) => NfListObject::Map(Box::new(schema::Map {
                family,
                table,
                name,
                set_type,
                map: SetTypeValue::Single(data),
                ..schema::Map::default()
            })),
            None => NfListObject::Set(Box::new(schema::Set {
                family,
                table,
                name,
                set_type,
                ..schema::Set::default()
            })),
        }
    }

    fn chain(&self, name: &'static str) -> NfListObject<'static> {
        NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: self.name.clone().into(),
            name: name.into(),
            ..Chain::default()
        })
    }

    fn base_chain(
        &self,
        name: &'static str,
        kind: NfChainType,
        hook: NfHook,
        priority: i32,
    ) -> NfListObject<'static> {
        NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: self.name.clone().into(),
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        })
    }
}

fn table(name: &str) -> NfListObject<'static> {
    let name = name.to_owned().into();
    NfListObject::Table(schema::Table { family: NfFamily::INet, name, handle: None })
}

/// The transaction that replaces tables, whatever they hold, by those with these
/// elements.
pub(super) fn replacement(tables: &[(&Table, Vec<Element>)]) -> Nftables<'static> {
    let mut batch = Batch::new();
    for (table, elements) in tables {
        table.replace(elements, &mut batch);
    }
    batch.to_nftables()
}

/// The transaction that deletes tables, by their names.
pub(super) fn deletion(names: &[String]) -> Nftables<'static> {
    let mut batch = Batch::new();
    for name in names {
        batch.add(table(name));
        batch.delete(table(name));
    }
    batch.to_nftables()
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
fn rules(options: &Options) -> Vec<Line> {
    let mut rules = Vec::new();
    let mut rule = |chain, comment: &str, statements| {
        rules.push(Line { chain, comment: comment.to_owned(), statements });
    };
    for field in ["daddr", "saddr"] {
        rule(
            "guard",
            "no loopback addresses on the wire",
            vec![
                not(meta(MetaKey::Iifname), text("lo")),
                is(payload("ip", field), loopback()),
                Statement::Counter(Counter::Anonymous(None)),
                Statement::Drop(None),
            ],
        );
    }
    for (comment, family, address, [addresses, ports]) in [
        ("one host address", NATFamily::IP, Some("ip"), [Set::Host4Addr, Set::Host4Port]),
        ("any host address", NATFamily::IP, None, [Set::Any4Addr, Set::Any4Port]),
        ("one host address", NATFamily::IP6, Some("ip6"), [Set::Host6Addr, Set::Host6Port]),
        ("any host address", NATFamily::IP6, None, [Set::Any6Addr, Set::Any6Port]),
    ] {
        let key: Vec<_> =
            address.map(|p| payload(p, "daddr")).into_iter().chain(transport()).collect();
        rule("hostports", comment, vec![dnat(family, &key, addresses, ports)]);
    }
    for chain in ["prerouting", "output"] {
        for (family, conditions) in
            [("ipv4", &options.conditions_v4), ("ipv6", &options.conditions_v6)]
        {
            let mut statements = vec![is(meta(MetaKey::Nfproto), text(family))];
            statements.extend(conditions.iter().map(Condition::statement));
            if (chain, family) == ("output", "ipv6") {
                statements.push(not(payload("ip6", "daddr"), text("::1")));
            }
            statements.extend([is_local(), jump("hostports")]);
            rule(chain, "to the host itself", statements);
        }
    }
    if options.snat {
        for (header, set) in [("ip", Set::Forwarded4), ("ip6", Set::Forwarded6)] {
            let mut endpoint = vec![payload(header, "daddr")];
            endpoint.extend(transport());
            let masquerade = Statement::Masquerade(None);
            rule("forwarded", "by this table", vec![is(concat(endpoint), member(set)), masquerade]);
        }
        for (comment, condition) in masquerading(options) {
            let statements = condition.into_iter().chain([jump("forwarded")]).collect();
            rule("masquerading", comment, statements);
        }
        rule("postrouting", "forwarded", vec![is_dnat(), jump("masquerading")]);
    }
    if options.marks {
        for (header, set) in [("ip", Set::Forwarded4), ("ip6", Set::Forwarded6)] {
            for (comment, address, port) in
                [("to an endpoint", "daddr", "dport"), ("from an endpoint", "saddr", "sport")]
            {
                let endpoint =
                    vec![payload(header, address), meta(MetaKey::L4proto), payload("th", port)];
                let statements = vec![is_dnat(), is(concat(endpoint), member(set)), mark()];
                rule(FORWARD, comment, statements);
            }
        }
    }
    rules
}

/// What must be masqueraded, if it is forwarded by this table; all for none.
fn masquerading(options: &Options) -> Vec<(&'static str, Option<Statement<'static>>)> {
    if options.masq_all {
        return vec![("masqAll", None)];
    }
    let pair = |header, set| {
        let addresses = concat(vec![payload(header, "saddr"), payload(header, "daddr")]);
        Some(is(addresses, member(set)))
    };
    let links = concat(vec![meta(MetaKey::Iifname), meta(MetaKey::Oifname)]);
    vec![
        ("from loopback", Some(is(payload("ip", "saddr"), loopback()))),
        ("out by the link it came in by", Some(is(links, member(Set::Links)))),
        // With br_netfilter, a bridge is not the link that its packets came in by:
        // so a container is known by its address as well.
        ("a container to itself", pair("ip", Set::Hairpin4)),
        ("a container to itself", pair("ip6", Set::Hairpin6)),
    ]
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
    let objects = serde_json::to_vec(&table.objects()).expect("nftables objects are JSON");
    let text = [LAYOUT.as_bytes(), &lineage.to_be_bytes(), &objects].concat();
    format!("{:016x}", hash(&text))
}

/// FNV-1a: the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn text(text: &'static str) -> Expression<'static> {
    Expression::String(text.into())
}

fn member(set: Set) -> Expression<'static> {
    Expression::String(format!("@{}", set.name()).into())
}

fn concat(components: Vec<Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(components))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

/// The protocol and port that a packet is for.
fn transport() -> [Expression<'static>; 2] {
    [meta(MetaKey::L4proto), payload("th", "dport")]
}

fn loopback() -> Expression<'static> {
    let addr = Box::new(text("127.0.0.0"));
    Expression::Named(NamedExpression::Prefix(Prefix { addr, len: 8 }))
}

fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

fn not(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::NEQ })
}

fn is_local() -> Statement<'static> {
    let fib = Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() };
    is(Expression::Named(NamedExpression::Fib(fib)), text("local"))
}

/// `meta mark set meta mark | ACCEPT_MARK`
fn mark() -> Statement<'static> {
    let mark = || meta(MetaKey::Mark);
    let marked = BinaryOperation::OR(vec![mark(), Expression::Number(ACCEPT_MARK)]);
    let value = Expression::BinaryOperation(Box::new(marked));
    Statement::Mangle(Mangle { key: mark(), value })
}

fn is_dnat() -> Statement<'static> {
    let status = CT { key: "status".into(), family: None, dir: None };
    let left = Expression::Named(NamedExpression::CT(status));
    Statement::Match(Match { left, right: text("dnat"), op: Operator::IN })
}

fn jump(chain: &'static str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.into() })
}

fn dnat(
    family: NATFamily,
    key: &[Expression<'static>],
    addresses: Set,
    ports: Set,
) -> Statement<'static> {
    let lookup = |set| {
        let map = expr::Map { key: concat(key.to_vec()), data: member(set) };
        Some(Expression::Named(NamedExpression::Map(Box::new(map))))
    };
    Statement::DNAT(Some(NAT {
        addr: lookup(addresses),
        family: Some(family),
        port: lookup(ports),
        flags: None,
    }))
}
