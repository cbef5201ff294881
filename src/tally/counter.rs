//! What is counted, and under which name.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    cni::Verb,
    lease::{GroupName, Protocol},
};

/// The bounds between which times are told apart, in microseconds.
pub const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Something that is counted. Where there is a bound, it is the lowest that the time is
/// not above, in microseconds; none is above all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Calls of this verb that took so long.
    Calls(Verb, Option<u64>),
    /// How long all of them took together, in microseconds.
    Time(Verb),
    /// How often the lock was waited for so long.
    Waits(Option<u64>),
    /// How long in all, in microseconds.
    WaitTime,
    /// Host ports that were given, by the group they are of.
    Ports(Option<GroupName>, Protocol),
    /// Calls of this verb that failed, with which CNI code and why.
    Refusals(Verb, u32, String),
    /// Tables that were made anew.
    Tables,
    /// Elements that were not what the database says.
    Elements,
}

/// The lowest bound that a time is not above.
pub(super) fn bound(time: Duration) -> Option<u64> {
    BOUNDS.into_iter().find(|bound| time <= Duration::from_micros(*bound))
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `calls/ADD/10000`, and above all bounds `calls/ADD/`.
impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |f: &mut fmt::Formatter<'_>, bound: &Option<u64>| match bound {
            Some(bound) => write!(f, "{bound}"),
            None => Ok(()),
        };
        match self {
            Self::Calls(verb, at_most) => {
                write!(f, "calls/{verb}/")?;
                bound(f, at_most)
            }
            Self::Time(verb) => write!(f, "time/{verb}"),
            Self::Waits(at_most) => {
                f.write_str("waits/")?;
                bound(f, at_most)
            }
            Self::WaitTime => f.write_str("wait-time"),
            Self::Ports(group, protocol) => {
                write!(f, "ports/{}/{protocol}", group.as_ref().map_or("", |it| it.as_str()))
            }
            Self::Refusals(verb, code, reason) => write!(f, "refusals/{verb}/{code}/{reason}"),
            Self::Tables => f.write_str("tables"),
            Self::Elements => f.write_str("elements"),
        }
    }
}

/// A name that no counter of this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCounter;

impl FromStr for Counter {
    type Err = UnknownCounter;

    fn from_str(name: &str) -> Result<Self, UnknownCounter> {
        parse(name).ok_or(UnknownCounter)
    }
}

fn parse(name: &str) -> Option<Counter> {
    let verb = |name: &str| Verb::ALL.into_iter().find(|verb| verb.as_str() == name);
    let bound = |text: &str| match text {
        "" => Some(None),
        text => BOUNDS.into_iter().find(|bound| bound.to_string() == text).map(Some),
    };
    let parts: Vec<_> = name.split('/').collect();
    Some(match *parts {
        ["calls", of, at_most] => Counter::Calls(verb(of)?, bound(at_most)?),
        ["time", of] => Counter::Time(verb(of)?),
        ["waits", at_most] => Counter::Waits(bound(at_most)?),
        ["wait-time"] => Counter::WaitTime,
        ["ports", group, protocol] => {
            let group = if group.is_empty() { None } else { Some(group.parse().ok()?) };
            let protocol = Protocol::ALL.into_iter().find(|it| it.name() == protocol)?;
            Counter::Ports(group, protocol)
        }
        ["refusals", of, code, reason] => {
            let is_word = !reason.is_empty()
                && reason.len() <= 40
                && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            let refusal = Counter::Refusals(verb(of)?, code.parse().ok()?, reason.to_owned());
            is_word.then_some(refusal)?
        }
        ["tables"] => Counter::Tables,
        ["elements"] => Counter::Elements,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_its_counter_and_of_no_other() {
        let all = [
            "calls/ADD/10000",
            "calls/STATUS/",
            "time/DEL",
            "waits/500",
            "waits/",
            "wait-time",
            "ports/games/udp",
            "ports//tcp",
            "refusals/ADD/100/held",
            "tables",
            "elements",
        ];
        for name in all {
            assert_eq!(name.parse::<Counter>().map(|it| it.to_string()).as_deref(), Ok(name));
        }
        for name in [
            "",
            "calls/ADD/10001",
            "calls/add/500",
            "calls/ADD/0500",
            "ports/games/icmp",
            "ports/\"x/tcp",
            "refusals/ADD/1/a\"b",
            "refusals/ADD/-1/held",
            "refusals/ADD/1/",
            "tables/",
        ] {
            assert_eq!(name.parse::<Counter>(), Err(UnknownCounter), "{name}");
        }
    }

    #[test]
    fn a_time_is_counted_under_the_lowest_bound_that_holds_it() {
        for (micros, expected) in [
            (0, Some(500)),
            (500, Some(500)),
            (501, Some(1_000)),
            (10_000_000, Some(10_000_000)),
            (10_000_001, None),
        ] {
            assert_eq!(bound(Duration::from_micros(micros)), expected, "{micros}");
        }
    }
}
