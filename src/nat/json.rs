//! Transactions as `nft` reads them: the types of the crate `nftables`, which are JSON.
//!
//! Pure. What is known of the two:
//!
//! - nft 1.0.6 turns a JSON map with concatenated data into a set, without a word;
//!   hence a pair of maps where one would do.
//! - It has no "delete if it exists" (1.0.8 has), and wants the data of what is to be
//!   deleted from a map.
//! - `ct status dnat` is an `in`.
//! - Protocols are numbers, because their names depend on the host's `/etc/protocols`.

use nftables::{
    batch::Batch,
    expr::{
        self, BinaryOperation, CT, Elem, Expression, Fib, FibFlag, FibResult, Meta, MetaKey,
        NamedExpression, Payload, PayloadField, Prefix, Range, SetItem,
    },
    schema::{self, Chain, NfCmd, NfListObject, Nftables, SetType, SetTypeValue},
    stmt::{self, Counter, JumpTarget, Mangle, Match, NAT, NATFamily, Operator},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use super::{
    element::{Component, Element, Kind, Set},
    rule::{End, Family, Field, Rule, Statement, Transport, Value, is_host},
    transaction::{Base, ChainKind, Foreign, Hook, Step},
};
use crate::lease::ForeignFamily;

const INET: NfFamily = NfFamily::INet;

/// The commands of a transaction.
pub(super) fn commands(steps: &[Step<'_>]) -> Nftables<'static> {
    let mut batch = Batch::new();
    for step in steps {
        match step {
            Step::AddTable(name) => batch.add(table(name)),
            Step::DeleteTable(name) => batch.delete(table(name)),
            Step::AddSet(table, set) => batch.add(named_set(table, *set)),
            Step::AddChain(table, name, base) => batch.add(chain(table, name, *base)),
            Step::AddRule(table, Rule { chain, comment, statements }) => {
                let place = Foreign { family: ForeignFamily::Inet, table, chain };
                batch.add(NfListObject::Rule(rule(place, statements, comment)));
            }
            Step::InsertRule(place, statements, comment) => {
                let rule = NfListObject::Rule(rule(*place, statements, comment));
                batch.add_cmd(NfCmd::Insert(rule));
            }
            Step::DeleteRule(place, handle) => {
                let rule = schema::Rule { handle: Some(*handle), ..place_of(*place) };
                batch.delete(NfListObject::Rule(rule));
            }
            Step::AddElements(table, set, elements) => {
                let elements = elements.iter().map(|element| whole(element)).collect();
                batch.add(members(table, *set, elements));
            }
            Step::DeleteElement(table, element) => {
                let deletion = with_data(element, key_of(element));
                batch.delete(members(table, element.set(), vec![deletion]));
            }
        }
    }
    batch.to_nftables()
}

fn table(name: &str) -> NfListObject<'static> {
    NfListObject::Table(schema::Table { family: INET, name: name.to_owned().into(), handle: None })
}

fn named_set(table: &str, set: Set) -> NfListObject<'static> {
    let (family, table, name) = (INET, table.to_owned().into(), set.name().into());
    let set_type =
        SetTypeValue::Concatenated(set.key().iter().map(|kind| type_of(*kind)).collect());
    match set.data() {
        Some(data) => NfListObject::Map(Box::new(schema::Map {
            family,
            table,
            name,
            set_type,
            map: SetTypeValue::Single(type_of(data)),
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

fn type_of(kind: Kind) -> SetType {
    match kind {
        Kind::V4 => SetType::Ipv4Addr,
        Kind::V6 => SetType::Ipv6Addr,
        Kind::Protocol => SetType::InetProto,
        Kind::Port => SetType::InetService,
        Kind::Mark => SetType::Mark,
        Kind::Link => SetType::Ifname,
    }
}

fn chain(table: &str, name: &'static str, base: Option<Base>) -> NfListObject<'static> {
    NfListObject::Chain(Chain {
        family: INET,
        table: table.to_owned().into(),
        name: name.into(),
        _type: base.map(|base| match base.kind {
            ChainKind::Filter => NfChainType::Filter,
            ChainKind::Nat => NfChainType::NAT,
        }),
        hook: base.map(|base| match base.hook {
            Hook::Prerouting => NfHook::Prerouting,
            Hook::Forward => NfHook::Forward,
            Hook::Output => NfHook::Output,
            Hook::Postrouting => NfHook::Postrouting,
        }),
        prio: base.map(|base| base.priority),
        policy: base.map(|_| NfChainPolicy::Accept),
        ..Chain::default()
    })
}

fn place_of(Foreign { family, table, chain }: Foreign<'_>) -> schema::Rule<'static> {
    schema::Rule {
        family: match family {
            ForeignFamily::Inet => INET,
            ForeignFamily::Ip => NfFamily::IP,
            ForeignFamily::Ip6 => NfFamily::IP6,
        },
        table: table.to_owned().into(),
        chain: chain.to_owned().into(),
        expr: Vec::new().into(),
        ..schema::Rule::default()
    }
}

fn rule(place: Foreign<'_>, statements: &[Statement], comment: &str) -> schema::Rule<'static> {
    schema::Rule {
        expr: statements.iter().map(statement).collect(),
        comment: Some(comment.to_owned().into()),
        ..place_of(place)
    }
}

fn members(table: &str, set: Set, elements: Vec<Expression<'static>>) -> NfListObject<'static> {
    NfListObject::Element(schema::Element {
        family: INET,
        table: table.to_owned().into(),
        name: set.name().into(),
        elem: elements.into(),
    })
}

fn whole(element: &Element) -> Expression<'static> {
    let key = match element.comment() {
        None => key_of(element),
        Some(comment) => Expression::Named(NamedExpression::Elem(Elem {
            val: Box::new(key_of(element)),
            timeout: None,
            expires: None,
            comment: Some(comment.to_owned().into()),
            counter: None,
        })),
    };
    with_data(element, key)
}

fn key_of(element: &Element) -> Expression<'static> {
    concat(element.key().iter().map(component).collect())
}

fn with_data(element: &Element, key: Expression<'static>) -> Expression<'static> {
    match element.data() {
        None => key,
        Some(data) => Expression::List(vec![key, component(data)]),
    }
}

fn component(component: &Component) -> Expression<'static> {
    match component {
        Component::Address(address) => Expression::String(address.to_string().into()),
        Component::Protocol(protocol) => Expression::Number(protocol.number().into()),
        Component::Port(port) => Expression::Number(port.number().into()),
        Component::Link(name) => Expression::String(name.to_string().into()),
    }
}

fn statement(statement: &Statement) -> stmt::Statement<'static> {
    match statement {
        Statement::IsOf(family) => {
            let name = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            matches(meta(MetaKey::Nfproto), Operator::EQ, text(name))
        }
        Statement::Is { field: left, negated, values } => {
            let operator = if *negated { Operator::NEQ } else { Operator::EQ };
            let right = match &values[..] {
                [only] => value(only),
                values => Expression::Named(NamedExpression::Set(
                    values.iter().map(|v| SetItem::Element(value(v))).collect(),
                )),
            };
            matches(field(*left), operator, right)
        }
        Statement::IsIn(key, set) => matches(fields(key), Operator::EQ, named(*set)),
        Statement::IsForwarded => {
            let status = CT { key: "status".into(), family: None, dir: None };
            let left = Expression::Named(NamedExpression::CT(status));
            matches(left, Operator::IN, text("dnat"))
        }
        Statement::IsToHost => {
            let fib = Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() };
            let left = Expression::Named(NamedExpression::Fib(fib));
            matches(left, Operator::EQ, text("local"))
        }
        Statement::HasMark(bits) => {
            // Made twice: to clone one takes 8 KB of code for all kinds that there are.
            let bits = || Expression::Number(*bits);
            let masked = BinaryOperation::AND(meta(MetaKey::Mark), bits());
            matches(Expression::BinaryOperation(Box::new(masked)), Operator::EQ, bits())
        }
        Statement::SetMark(bits) => {
            let mark = || meta(MetaKey::Mark);
            let marked = BinaryOperation::OR(vec![mark(), Expression::Number(*bits)]);
            let value = Expression::BinaryOperation(Box::new(marked));
            stmt::Statement::Mangle(Mangle { key: mark(), value })
        }
        Statement::Count => stmt::Statement::Counter(Counter::Anonymous(None)),
        Statement::Accept => stmt::Statement::Accept(None),
        Statement::Drop => stmt::Statement::Drop(None),
        Statement::Jump(chain) => stmt::Statement::Jump(JumpTarget { target: (*chain).into() }),
        Statement::Masquerade => stmt::Statement::Masquerade(None),
        Statement::Forward { family, key, addresses, ports } => {
            let lookup = |set| {
                let map = expr::Map { key: fields(key), data: named(set) };
                Some(Expression::Named(NamedExpression::Map(Box::new(map))))
            };
            let family = match family {
                Family::V4 => NATFamily::IP,
                Family::V6 => NATFamily::IP6,
            };
            stmt::Statement::DNAT(Some(NAT {
                addr: lookup(*addresses),
                family: Some(family),
                port: lookup(*ports),
                flags: None,
            }))
        }
    }
}

fn matches(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> stmt::Statement<'static> {
    stmt::Statement::Match(Match { left, right, op })
}

fn text(text: &'static str) -> Expression<'static> {
    Expression::String(text.into())
}

fn named(set: Set) -> Expression<'static> {
    Expression::String(format!("@{}", set.name()).into())
}

fn concat(components: Vec<Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(components))
}

fn fields(key: &[Field]) -> Expression<'static> {
    concat(key.iter().map(|part| field(*part)).collect())
}

fn field(field: Field) -> Expression<'static> {
    match field {
        Field::InputLink => meta(MetaKey::Iifname),
        Field::OutputLink => meta(MetaKey::Oifname),
        Field::Mark => meta(MetaKey::Mark),
        Field::Protocol => meta(MetaKey::L4proto),
        Field::Address(family, end) => {
            let header = match family {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            payload(header, if end == End::Source { "saddr" } else { "daddr" })
        }
        Field::Port(transport, end) => {
            let header = match transport {
                Transport::Any => "th",
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
                Transport::Sctp => "sctp",
            };
            payload(header, if end == End::Source { "sport" } else { "dport" })
        }
    }
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn value(value: &Value) -> Expression<'static> {
    match value {
        Value::Prefix(prefix) => {
            let address = Expression::String(prefix.network().to_string().into());
            if is_host(*prefix) {
                return address;
            }
            let (addr, len) = (Box::new(address), prefix.prefix().into());
            Expression::Named(NamedExpression::Prefix(Prefix { addr, len }))
        }
        Value::Link(name) => Expression::String(name.clone().into()),
        Value::Mark(mark) => Expression::Number(*mark),
        Value::Port(port) => Expression::Number((*port).into()),
        Value::Ports(first, last) => {
            let range = [*first, *last].map(|port| Expression::Number(port.into()));
            Expression::Range(Box::new(Range { range }))
        }
    }
}
