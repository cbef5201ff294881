//! Statements as the expressions of `nf_tables`, which a packet passes one after
//! another: each loads registers, looks at them, or acts by them.
//!
//! ```text
//! registers   1 … 4 of 16 bytes, or 8 … 23 of 4 bytes: the same memory
//! ```

use super::{
    ACCEPT, Writer, data,
    set::{ANONYMOUS_NAME, bounds, length, octets, words},
};
use crate::{
    nat::{
        element::{Kind, Set},
        rule::{End, Family, Field, Statement, Transport, Value, is_host},
    },
    netlink::Request,
};

const LIST_EXPRESSION: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_DESTINATION: u16 = 1;
const META_KEY: u16 = 2;
const META_SOURCE: u16 = 3;
const PAYLOAD_DESTINATION: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const COMPARE_SOURCE: u16 = 1;
const COMPARE_OPERATOR: u16 = 2;
const COMPARE_DATA: u16 = 3;
const RANGE_SOURCE: u16 = 1;
const RANGE_OPERATOR: u16 = 2;
const RANGE_FROM: u16 = 3;
const RANGE_TO: u16 = 4;
const BITWISE_SOURCE: u16 = 1;
const BITWISE_DESTINATION: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_DESTINATION: u16 = 3;
const LOOKUP_SET_ID: u16 = 4;
const LOOKUP_FLAGS: u16 = 5;
const CONNECTION_DESTINATION: u16 = 1;
const CONNECTION_KEY: u16 = 2;
const FIB_DESTINATION: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const NAT_FLAGS: u16 = 7;
const IMMEDIATE_DESTINATION: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `NFT_META_*`.
const META_MARK: u32 = 3;
const META_INPUT_LINK: u32 = 6;
const META_OUTPUT_LINK: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
/// `NFT_PAYLOAD_*_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `NFT_CMP_*`, of which `NFT_RANGE_*` has the first two.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
/// `NFT_LOOKUP_F_INV`.
const INVERTED: u32 = 1;
/// `NFT_CT_STATUS`, and `IPS_DST_NAT` of it.
const CONNECTION_STATUS: u32 = 2;
const DESTINATION_NAT: u32 = 1 << 5;
/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, and `RTN_LOCAL`.
const ADDRESS_TYPE: u32 = 3;
const BY_DESTINATION: u32 = 1 << 1;
const LOCAL: u32 = 2;
/// `NFT_NAT_DNAT`, and `NF_NAT_RANGE_PROTO_SPECIFIED`.
const DNAT: u32 = 1;
const WITH_PORT: u32 = 1 << 1;
/// `NF_DROP` and `NFT_JUMP`.
const DROP: u32 = 0;
const JUMP: u32 = (-3_i32).cast_unsigned();
/// The register for verdicts.
const VERDICT: u32 = 0;
/// A place in the memory of registers, in words of four bytes.
#[derive(Clone, Copy)]
struct Register(u32);

impl Register {
    const FIRST: Self = Self(0);

    /// By its 16 bytes where it begins some, as nft writes it.
    fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + self.0 / 4 } else { 8 + self.0 }
    }
}

/// The expressions of one rule while they are written.
pub(super) struct Expressions<'a> {
    list: &'a mut Request,
    writer: &'a mut Writer,
    table: &'a str,
    /// What earlier expressions have made sure of.
    family: Option<Family>,
    transport: Option<Transport>,
}

impl<'a> Expressions<'a> {
    /// In a table of one family, packets of the other do not come.
    pub(super) fn new(
        list: &'a mut Request,
        writer: &'a mut Writer,
        table: &'a str,
        family: Option<Family>,
    ) -> Self {
        Self { list, writer, table, family, transport: None }
    }

    pub(super) fn statements(&mut self, statements: &[Statement]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::IsOf(family) => self.require_family(*family),
            Statement::Is { field, negated, values } => {
                self.require(*field);
                match &values[..] {
                    [value] => self.is(*field, *negated, value),
                    values => {
                        let id = self.writer.add_anonymous_set(self.table, kind(*field), values);
                        self.load(*field, Register::FIRST);
                        let flags = negated.then_some(INVERTED);
                        self.lookup(ANONYMOUS_NAME, Some(id), Register::FIRST, None, flags);
                    }
                }
            }
            Statement::IsIn(key, set) => {
                self.load_key(key, Register::FIRST);
                self.lookup(set.name(), None, Register::FIRST, None, None);
            }
            Statement::IsForwarded => {
                self.expression("ct", |ct| {
                    ct.number(CONNECTION_KEY, CONNECTION_STATUS)
                        .number(CONNECTION_DESTINATION, Register::FIRST.number());
                });
                self.mask(&DESTINATION_NAT.to_ne_bytes(), &[0; 4]);
                self.compare(NOT_EQUAL, &[0; 4]);
            }
            Statement::IsToHost => {
                self.expression("fib", |fib| {
                    fib.number(FIB_FLAGS, BY_DESTINATION)
                        .number(FIB_RESULT, ADDRESS_TYPE)
                        .number(FIB_DESTINATION, Register::FIRST.number());
                });
                self.compare(EQUAL, &LOCAL.to_ne_bytes());
            }
            Statement::HasMark(bits) => {
                self.load(Field::Mark, Register::FIRST);
                self.mask(&bits.to_ne_bytes(), &[0; 4]);
                self.compare(EQUAL, &bits.to_ne_bytes());
            }
            Statement::SetMark(bits) => {
                self.load(Field::Mark, Register::FIRST);
                self.mask(&(!bits).to_ne_bytes(), &bits.to_ne_bytes());
                self.expression("meta", |meta| {
                    meta.number(META_KEY, META_MARK).number(META_SOURCE, Register::FIRST.number());
                });
            }
            Statement::Count => self.expression("counter", |_| ()),
            Statement::Accept => self.verdict(ACCEPT, None),
            Statement::Drop => self.verdict(DROP, None),
            Statement::Jump(chain) => self.verdict(JUMP, Some(chain)),
            Statement::Masquerade => self.expression("masq", |_| ()),
            Statement::Forward { family, key, addresses, ports } => {
                self.forward(*family, key, *addresses, *ports);
            }
        }
    }

    fn expression(&mut self, name: &str, write: impl FnOnce(&mut Request)) {
        self.list.nested(LIST_EXPRESSION, |expression| {
            expression.text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, write);
        });
    }

    /// Makes sure that the packet has the field.
    fn require(&mut self, field: Field) {
        match field {
            Field::Address(family, _) => self.require_family(family),
            Field::Port(transport, _) => self.require_transport(transport),
            Field::InputLink | Field::OutputLink | Field::Mark | Field::Protocol => {}
        }
    }

    fn require_family(&mut self, family: Family) {
        if self.family != Some(family) {
            self.meta(META_FAMILY, Register::FIRST);
            self.compare(EQUAL, &[family_number(family)]);
            self.family = Some(family);
        }
    }

    fn require_transport(&mut self, transport: Transport) {
        let number = match transport {
            Transport::Any => return,
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        };
        if self.transport != Some(transport) {
            self.meta(META_PROTOCOL, Register::FIRST);
            self.compare(EQUAL, &[number]);
            self.transport = Some(transport);
        }
    }

    fn meta(&mut self, key: u32, to: Register) {
        self.expression("meta", |meta| {
            meta.number(META_KEY, key).number(META_DESTINATION, to.number());
        });
    }

    fn load(&mut self, field: Field, to: Register) {
        self.load_first(field, length(kind(field)), to);
    }

    /// Loads so many bytes of a field.
    fn load_first(&mut self, field: Field, length: u32, to: Register) {
        let (base, offset) = match field {
            Field::InputLink => return self.meta(META_INPUT_LINK, to),
            Field::OutputLink => return self.meta(META_OUTPUT_LINK, to),
            Field::Mark => return self.meta(META_MARK, to),
            Field::Protocol => return self.meta(META_PROTOCOL, to),
            Field::Address(Family::V4, End::Source) => (NETWORK_HEADER, 12),
            Field::Address(Family::V4, End::Destination) => (NETWORK_HEADER, 16),
            Field::Address(Family::V6, End::Source) => (NETWORK_HEADER, 8),
            Field::Address(Family::V6, End::Destination) => (NETWORK_HEADER, 24),
            Field::Port(_, End::Source) => (TRANSPORT_HEADER, 0),
            Field::Port(_, End::Destination) => (TRANSPORT_HEADER, 2),
        };
        self.expression("payload", |payload| {
            payload
                .number(PAYLOAD_DESTINATION, to.number())
                .number(PAYLOAD_BASE, base)
                .number(PAYLOAD_OFFSET, offset)
                .number(PAYLOAD_LENGTH, length);
        });
    }

    /// Loads fields one behind the other.
    fn load_key(&mut self, key: &[Field], to: Register) {
        for field in key {
            self.require(*field);
        }
        let mut at = to;
        for field in key {
            self.load(*field, at);
            at.0 += words(kind(*field));
        }
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |compare| {
            compare
                .number(COMPARE_SOURCE, Register::FIRST.number())
                .number(COMPARE_OPERATOR, operator);
            data(compare, COMPARE_DATA, value);
        });
    }

    /// `register & MASK ^ XOR`
    fn mask(&mut self, mask: &[u8], xor: &[u8]) {
        let length = u32::try_from(mask.len()).expect("a mask fits a register");
        self.expression("bitwise", |bitwise| {
            bitwise
                .number(BITWISE_SOURCE, Register::FIRST.number())
                .number(BITWISE_DESTINATION, Register::FIRST.number())
                .number(BITWISE_LENGTH, length);
            data(bitwise, BITWISE_MASK, mask);
            data(bitwise, BITWISE_XOR, xor);
        });
    }

    fn lookup(
        &mut self,
        set: &str,
        id: Option<u32>,
        from: Register,
        to: Option<Register>,
        flags: Option<u32>,
    ) {
        self.expression("lookup", |lookup| {
            lookup.number(LOOKUP_SOURCE, from.number());
            if let Some(to) = to {
                lookup.number(LOOKUP_DESTINATION, to.number());
            }
            lookup.text(LOOKUP_SET, set);
            if let Some(id) = id {
                lookup.number(LOOKUP_SET_ID, id);
            }
            if let Some(flags) = flags {
                lookup.number(LOOKUP_FLAGS, flags);
            }
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.expression("immediate", |immediate| {
            immediate.number(IMMEDIATE_DESTINATION, VERDICT).nested(IMMEDIATE_DATA, |data| {
                data.nested(DATA_VERDICT, |verdict| {
                    verdict.number(VERDICT_CODE, code);
                    if let Some(chain) = chain {
                        verdict.text(VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }

    fn forward(&mut self, family: Family, key: &[Field], addresses: Set, ports: Set) {
        let (address, port) = (Register::FIRST, Register(4));
        for (set, register) in [(addresses, address), (ports, port)] {
            self.load_key(key, register);
            self.lookup(set.name(), None, register, Some(register), None);
        }
        self.expression("nat", |nat| {
            nat.number(NAT_TYPE, DNAT)
                .number(NAT_FAMILY, family_number(family).into())
                .number(NAT_ADDRESS, address.number())
                .number(NAT_PORT, port.number())
                .number(NAT_FLAGS, WITH_PORT);
        });
    }

    fn is(&mut self, field: Field, negated: bool, value: &Value) {
        let operator = if negated { NOT_EQUAL } else { EQUAL };
        match value {
            Value::Prefix(prefix) if !is_host(*prefix) => {
                let bits = u32::from(prefix.prefix());
                let network = octets(prefix.network());
                if bits > 0 && bits.is_multiple_of(8) {
                    let length = bits / 8;
                    self.load_first(field, length, Register::FIRST);
                    self.compare(operator, &network[..length as usize]);
                } else {
                    self.load(field, Register::FIRST);
                    self.mask(&octets(prefix.mask()), &vec![0; network.len()]);
                    self.compare(operator, &network);
                }
            }
            Value::Link(name) if value.is_range() => {
                self.load(field, Register::FIRST);
                self.compare(operator, name.trim_end_matches('*').as_bytes());
            }
            Value::Ports(first, last) => {
                self.load(field, Register::FIRST);
                let [first, last] = [first, last].map(|port| port.to_be_bytes());
                if negated {
                    self.expression("range", |range| {
                        range
                            .number(RANGE_SOURCE, Register::FIRST.number())
                            .number(RANGE_OPERATOR, NOT_EQUAL);
                        data(range, RANGE_FROM, &first);
                        data(range, RANGE_TO, &last);
                    });
                } else {
                    self.compare(AT_LEAST, &first);
                    self.compare(AT_MOST, &last);
                }
            }
            value => {
                self.load(field, Register::FIRST);
                self.compare(operator, &bounds(value).0);
            }
        }
    }
}

fn kind(field: Field) -> Kind {
    match field {
        Field::InputLink | Field::OutputLink => Kind::Link,
        Field::Mark => Kind::Mark,
        Field::Protocol => Kind::Protocol,
        Field::Address(Family::V4, _) => Kind::V4,
        Field::Address(Family::V6, _) => Kind::V6,
        Field::Port(..) => Kind::Port,
    }
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
