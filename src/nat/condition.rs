//! Conditions: what else must hold for a packet to be forwarded
//! (`conditionsV4` and `conditionsV6`, as portmap names them).
//!
//! Pure. A list of texts is joined by blanks and read as one list of matches,
//! all of which must hold. Two spellings are taken, and may be mixed:
//!
//! | nft | iptables |
//! |---|---|
//! | `ip saddr\|daddr VALUE`, `ip6 …` in `conditionsV6` | `[!] -s\|--source\|-d\|--destination ADDRESS[/LENGTH]` |
//! | `iifname VALUE`, a name that may end with `*` | `[!] -i\|--in-interface NAME`, which may end with `+` |
//! | `[meta] mark VALUE`, decimal or `0x…` | |
//! | `tcp\|udp\|sctp\|th dport\|sport VALUE`, a port or `FIRST-LAST` | |
//!
//! `VALUE` is `[==|!=]` and then one value or `{ A, B, … }`. The nft spelling is
//! put into rules as typed values, so no text of the configuration reaches
//! nft. A match on the incoming link is of use for packets from outside only:
//! one that the host sends itself has none.

use super::rule::{End, Family, Field, Statement, Transport, Value};
use crate::lease::InterfaceName;
use ipnetwork::IpNetwork;

/// How many matches there may be: the kernel has 4 KiB for the expressions of a rule,
/// and the three of a prefix of IPv6 take more than 120 bytes.
const MOST: usize = 24;

/// One match of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition(Statement);

impl Condition {
    pub(super) fn statement(&self) -> Statement {
        self.0.clone()
    }
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseConditionError {
    /// A word that begins no match.
    #[error(
        "condition {0:?} is not known: allowed are {family} saddr|daddr, iifname, meta mark, \
         tcp|udp|sctp|th dport|sport, and iptables' -s, -d and -i",
        family = if *.1 { "ip6" } else { "ip" }
    )]
    Unknown(String, bool),
    /// An option of iptables that nothing here corresponds to.
    #[error("condition {0:?} exists in iptables only: of its options, -s, -d and -i are taken")]
    IptablesOnly(String),
    /// `oifname`, which is not known before the packet is routed.
    #[error(
        "condition {0:?} cannot be met: where a packet leaves is not known before it is forwarded"
    )]
    OutgoingLink(String),
    /// `ip` in the conditions for IPv6, or `ip6` in those for IPv4.
    #[error("condition {found:?} is not for {expected}")]
    Family {
        /// The word or address.
        found: String,
        /// The family that the list is for.
        expected: &'static str,
    },
    /// A match on the ports of two protocols.
    #[error("condition {found:?} cannot be met beside {earlier:?}: all conditions must hold")]
    Protocols {
        /// The word.
        found: String,
        /// The protocol of an earlier match.
        earlier: String,
    },
    /// More matches than a rule of the kernel's can have.
    #[error("there are {0} conditions: at most {MOST} are allowed, each with any number of values")]
    TooMany(usize),
    /// Another word than the one that must follow.
    #[error("condition {after:?} is followed by {found:?} and not by {expected}")]
    Unexpected {
        /// The match, as far as it was read.
        after: String,
        /// The word.
        found: String,
        /// What could follow.
        expected: &'static str,
    },
    /// The text ends within a match.
    #[error("condition {after:?} ends where {expected} must follow")]
    Incomplete {
        /// The match, as far as it was read.
        after: String,
        /// What must follow.
        expected: &'static str,
    },
}

/// Reads `conditionsV4`.
pub fn parse_v4<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Condition>, ParseConditionError> {
    parse(texts, Family::V4)
}

/// Reads `conditionsV6`.
pub fn parse_v6<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Condition>, ParseConditionError> {
    parse(texts, Family::V6)
}

fn parse<S: AsRef<str>>(
    texts: &[S],
    family: Family,
) -> Result<Vec<Condition>, ParseConditionError> {
    let mut parser = Parser { words: words(texts), next: 0, start: 0, family, transport: None };
    let mut conditions = Vec::new();
    while parser.next < parser.words.len() {
        parser.start = parser.next;
        conditions.push(Condition(parser.condition()?));
    }
    if conditions.len() > MOST {
        return Err(ParseConditionError::TooMany(conditions.len()));
    }
    Ok(conditions)
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The name of its header in nft.
    fn header(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// The kinds of values that follow a key.
#[derive(Clone, Copy)]
enum Kind {
    Address,
    Link,
    Mark,
    Ports,
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Self::Address => "an address or prefix",
            Self::Link => "the name of an interface",
            Self::Mark => "a mark from 0 to 0xffffffff",
            Self::Ports => "a port from 0 to 65535 or a range",
        }
    }
}

fn words<S: AsRef<str>>(texts: &[S]) -> Vec<String> {
    let mut words = Vec::new();
    for text in texts {
        // Braces and commas may touch their neighbours.
        let text = text.as_ref().replace('{', " { ").replace('}', " } ").replace(',', " , ");
        words.extend(text.split_whitespace().map(str::to_owned));
    }
    words
}

struct Parser {
    words: Vec<String>,
    next: usize,
    /// Where the match that is being read begins.
    start: usize,
    family: Family,
    /// The protocol that an earlier match is about.
    transport: Option<String>,
}

impl Parser {
    fn condition(&mut self) -> Result<Statement, ParseConditionError> {
        let word = self.take("a match")?;
        match word.as_str() {
            "!" => {
                let option = self.take("-s, -d or -i")?;
                self.option(&option, true)
            }
            "meta" => {
                let key = self.take("iifname or mark")?;
                self.meta(&key)
            }
            "iifname" | "mark" | "oif" | "oifname" => self.meta(&word),
            "ip" | "ip6" => {
                if word != self.family.header() {
                    return Err(self.wrong_family(&word));
                }
                let field = self.one_of(&["saddr", "daddr"], "saddr or daddr")?;
                let end = if field == "saddr" { End::Source } else { End::Destination };
                self.nft(Field::Address(self.family, end), Kind::Address)
            }
            "tcp" | "udp" | "sctp" | "th" => {
                let transport = self.transport(&word)?;
                let field = self.one_of(&["dport", "sport"], "dport or sport")?;
                let end = if field == "sport" { End::Source } else { End::Destination };
                self.nft(Field::Port(transport, end), Kind::Ports)
            }
            option if option.starts_with('-') => self.option(option, false),
            _ => Err(self.unknown(word)),
        }
    }

    fn meta(&mut self, key: &str) -> Result<Statement, ParseConditionError> {
        match key {
            "iifname" => self.nft(Field::InputLink, Kind::Link),
            "mark" => self.nft(Field::Mark, Kind::Mark),
            "oif" | "oifname" => Err(ParseConditionError::OutgoingLink(key.to_owned())),
            _ => Err(self.unknown(format!("meta {key}"))),
        }
    }

    /// What follows a key of nft: an operator, and one value or several.
    fn nft(&mut self, field: Field, kind: Kind) -> Result<Statement, ParseConditionError> {
        let mut negated = false;
        if let Some("==" | "!=") = self.peek() {
            negated = self.take(kind.expected())? == "!=";
        }
        if self.peek() != Some("{") {
            let values = vec![self.value(kind)?];
            return Ok(Statement::Is { field, negated, values });
        }
        self.next += 1;
        let mut values = vec![self.value(kind)?];
        while self.one_of(&[",", "}"], "\",\" or \"}\"")? == "," {
            values.push(self.value(kind)?);
        }
        Ok(Statement::Is { field, negated, values: disjoint(values) })
    }

    /// An option of iptables and its value.
    fn option(&mut self, option: &str, negated: bool) -> Result<Statement, ParseConditionError> {
        let address = |end| (Field::Address(self.family, end), Kind::Address);
        let (field, kind) = match option {
            "-s" | "--source" | "--src" => address(End::Source),
            "-d" | "--destination" | "--dst" => address(End::Destination),
            "-i" | "--in-interface" => (Field::InputLink, Kind::Link),
            "-o" | "--out-interface" => {
                return Err(ParseConditionError::OutgoingLink(option.to_owned()));
            }
            _ if option.starts_with('-') => {
                return Err(ParseConditionError::IptablesOnly(option.to_owned()));
            }
            _ => {
                return Err(ParseConditionError::Unexpected {
                    after: "!".to_owned(),
                    found: option.to_owned(),
                    expected: "-s, -d or -i",
                });
            }
        };
        let value = match kind {
            // iptables writes "+" for what nft writes as "*".
            Kind::Link => {
                let name = self.take(kind.expected())?;
                match name.strip_suffix('+') {
                    Some(start) => self.link(&format!("{start}*"), &name)?,
                    None => self.link(&name, &name)?,
                }
            }
            _ => self.value(kind)?,
        };
        Ok(Statement::Is { field, negated, values: vec![value] })
    }

    /// Of one packet's protocol, only one thing can be asked.
    fn transport(&mut self, word: &str) -> Result<Transport, ParseConditionError> {
        let transport = match word {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            "sctp" => Transport::Sctp,
            _ => return Ok(Transport::Any),
        };
        match &self.transport {
            Some(earlier) if earlier != word => Err(ParseConditionError::Protocols {
                found: word.to_owned(),
                earlier: earlier.clone(),
            }),
            _ => {
                self.transport = Some(word.to_owned());
                Ok(transport)
            }
        }
    }

    fn value(&mut self, kind: Kind) -> Result<Value, ParseConditionError> {
        let word = self.take(kind.expected())?;
        match kind {
            Kind::Address => {
                let prefix: IpNetwork =
                    word.parse().map_err(|_| self.unexpected(&word, kind.expected()))?;
                if !self.family.includes(prefix.ip()) {
                    return Err(self.wrong_family(&word));
                }
                let network = IpNetwork::new(prefix.network(), prefix.prefix());
                Ok(Value::Prefix(network.expect("the length is that of a prefix")))
            }
            Kind::Link => {
                let name = word.strip_prefix('"').and_then(|w| w.strip_suffix('"'));
                self.link(name.unwrap_or(&word), &word)
            }
            Kind::Mark => match word.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => word.parse(),
            }
            .map(Value::Mark)
            .map_err(|_| self.unexpected(&word, kind.expected())),
            Kind::Ports => {
                let (first, last) = word.split_once('-').unwrap_or((&word, &word));
                match (first.parse::<u16>(), last.parse::<u16>()) {
                    (Ok(first), Ok(last)) if first == last => Ok(Value::Port(first)),
                    (Ok(first), Ok(last)) if first < last => Ok(Value::Ports(first, last)),
                    _ => Err(self.unexpected(&word, kind.expected())),
                }
            }
        }
    }

    /// A name as nft writes it. In the middle of a name "*" is refused, for nft
    /// has an escape for it; at the end it stands for any further characters.
    fn link(&self, name: &str, word: &str) -> Result<Value, ParseConditionError> {
        let exact = name.strip_suffix('*').unwrap_or(name);
        let valid = exact.parse::<InterfaceName>().is_ok()
            && !exact.contains(['*', '\\', '"', '{', '}', ',', '@'])
            && name.len() <= 15;
        if valid {
            Ok(Value::Link(name.to_owned()))
        } else {
            Err(self.unexpected(word, Kind::Link.expected()))
        }
    }

    fn peek(&self) -> Option<&str> {
        self.words.get(self.next).map(String::as_str)
    }

    fn take(&mut self, expected: &'static str) -> Result<String, ParseConditionError> {
        let Some(word) = self.words.get(self.next) else {
            return Err(ParseConditionError::Incomplete { after: self.read(self.next), expected });
        };
        self.next += 1;
        Ok(word.clone())
    }

    fn one_of(
        &mut self,
        words: &[&'static str],
        expected: &'static str,
    ) -> Result<&'static str, ParseConditionError> {
        let found = self.take(expected)?;
        let known = words.iter().find(|word| **word == found);
        known.copied().ok_or_else(|| self.unexpected(&found, expected))
    }

    fn unexpected(&self, found: &str, expected: &'static str) -> ParseConditionError {
        let (after, found) = (self.read(self.next - 1), found.to_owned());
        ParseConditionError::Unexpected { after, found, expected }
    }

    fn unknown(&self, word: String) -> ParseConditionError {
        ParseConditionError::Unknown(word, self.family == Family::V6)
    }

    fn wrong_family(&self, found: &str) -> ParseConditionError {
        ParseConditionError::Family { found: found.to_owned(), expected: self.family.name() }
    }

    /// The words of this match before `end`.
    fn read(&self, end: usize) -> String {
        self.words[self.start..end].join(" ")
    }
}

impl Value {
    /// Whether everything that `other` matches is matched by `self` too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(a), Self::Prefix(b)) => a.prefix() <= b.prefix() && a.contains(b.ip()),
            (Self::Link(a), Self::Link(b)) => {
                a == b || a.strip_suffix('*').is_some_and(|start| b.starts_with(start))
            }
            (Self::Mark(a), Self::Mark(b)) => a == b,
            _ => match (self.ports(), other.ports()) {
                (Some((a, b)), Some((c, d))) => a <= c && d <= b,
                _ => false,
            },
        }
    }

    /// The first port and the last.
    fn ports(&self) -> Option<(u16, u16)> {
        match *self {
            Self::Port(port) => Some((port, port)),
            Self::Ports(first, last) => Some((first, last)),
            _ => None,
        }
    }
}

/// The values without those that others cover: nft 1.0.6 refuses sets of
/// intervals that overlap.
fn disjoint(values: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::with_capacity(values.len());
    for value in values {
        if !kept.iter().any(|other| other.covers(&value)) {
            kept.retain(|other| !value.covers(other));
            kept.push(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    // What is taken is compared with what nft lists: golden/options.nft.

    #[test]
    fn a_list_is_read_as_one_text() {
        let whole = parse_v4(&["ip saddr != 10.0.0.0/8 iifname \"eth0\""]).unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(
            parse_v4(&["ip", "saddr", "!=", "10.0.0.0/8", "iifname", "eth0"]).unwrap(),
            whole
        );
        assert_eq!(parse_v4(&["! -s 10.0.0.0/8", "-i eth0"]).unwrap(), whole);
        assert_eq!(
            parse_v4(&["! --source 10.0.0.1/255.0.0.0 --in-interface eth0"]).unwrap(),
            whole
        );
        assert_eq!(parse_v4::<&str>(&[]).unwrap(), []);
        assert_eq!(parse_v6(&["  "]).unwrap(), []);
    }

    #[test]
    fn sets_keep_no_value_that_another_covers() {
        let same = |a: &str, b: &str| assert_eq!(parse_v4(&[a]).unwrap(), parse_v4(&[b]).unwrap());
        same("ip saddr {10.1.0.0/16,10.0.0.0/8,10.0.0.0/8}", "ip saddr { 10.0.0.0/8 }");
        same("iifname { cali1, cali*, eth0 }", "iifname { cali*, eth0 }");
        same("tcp dport { 80, 1-100 }", "tcp dport { 1-100 }");
        same("mark { 16, 0x10 }", "mark { 16 }");
    }

    #[test]
    fn what_cannot_be_said_in_nft_names_the_word() {
        for (text, error) in [
            (
                "-m mark",
                "condition \"-m\" exists in iptables only: of its options, -s, -d and -i are taken",
            ),
            (
                "! -p tcp",
                "condition \"-p\" exists in iptables only: of its options, -s, -d and -i are taken",
            ),
            (
                "-o eth0",
                "condition \"-o\" cannot be met: where a packet leaves is not known before it is forwarded",
            ),
            (
                "meta oifname x",
                "condition \"oifname\" cannot be met: where a packet leaves is not known before it is forwarded",
            ),
            (
                "drop",
                "condition \"drop\" is not known: allowed are ip saddr|daddr, iifname, meta mark, tcp|udp|sctp|th dport|sport, and iptables' -s, -d and -i",
            ),
            (
                "meta cpu 1",
                "condition \"meta cpu\" is not known: allowed are ip saddr|daddr, iifname, meta mark, tcp|udp|sctp|th dport|sport, and iptables' -s, -d and -i",
            ),
            ("ip6 saddr fd00::/8", "condition \"ip6\" is not for IPv4"),
            ("ip saddr fd00::/8", "condition \"fd00::/8\" is not for IPv4"),
            ("-s ::/0", "condition \"::/0\" is not for IPv4"),
            (
                "ip protocol tcp",
                "condition \"ip\" is followed by \"protocol\" and not by saddr or daddr",
            ),
            (
                "mark 1 ip saddr 10.0.0.0/33",
                "condition \"ip saddr\" is followed by \"10.0.0.0/33\" and not by an address or prefix",
            ),
            (
                "ip saddr { 10.0.0.1 10.0.0.2 }",
                "condition \"ip saddr { 10.0.0.1\" is followed by \"10.0.0.2\" and not by \",\" or \"}\"",
            ),
            (
                "ip saddr { }",
                "condition \"ip saddr {\" is followed by \"}\" and not by an address or prefix",
            ),
            (
                "ip saddr @other",
                "condition \"ip saddr\" is followed by \"@other\" and not by an address or prefix",
            ),
            (
                "mark 0x",
                "condition \"mark\" is followed by \"0x\" and not by a mark from 0 to 0xffffffff",
            ),
            (
                "mark 4294967296",
                "condition \"mark\" is followed by \"4294967296\" and not by a mark from 0 to 0xffffffff",
            ),
            (
                "tcp dport 90-80",
                "condition \"tcp dport\" is followed by \"90-80\" and not by a port from 0 to 65535 or a range",
            ),
            (
                "iifname sixteen-chars-xx",
                "condition \"iifname\" is followed by \"sixteen-chars-xx\" and not by the name of an interface",
            ),
            (
                "iifname @links",
                "condition \"iifname\" is followed by \"@links\" and not by the name of an interface",
            ),
            (
                "iifname e*h",
                "condition \"iifname\" is followed by \"e*h\" and not by the name of an interface",
            ),
            (
                "iifname \"",
                "condition \"iifname\" is followed by \"\\\"\" and not by the name of an interface",
            ),
            ("! ip saddr", "condition \"!\" is followed by \"ip\" and not by -s, -d or -i"),
            (
                "tcp dport 80 th sport 81 udp dport 80",
                "condition \"udp\" cannot be met beside \"tcp\": all conditions must hold",
            ),
            ("-i", "condition \"-i\" ends where the name of an interface must follow"),
            (
                "ip saddr !=",
                "condition \"ip saddr !=\" ends where an address or prefix must follow",
            ),
        ] {
            assert_eq!(parse_v4(&[text]).unwrap_err().to_string(), error, "{text}");
        }
        assert!(matches!(
            parse_v6(&["ip saddr 10.0.0.0/8"]),
            Err(ParseConditionError::Family { .. })
        ));
    }
}
