//! Ports and sets of ports.

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Excerpt, HostAddress, Protocol};

/// A port number, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port with this number; none for 0, which no packet can be sent to.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number, 1 to 65535.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// The port that is so much higher; none beyond 65535.
    #[must_use]
    pub fn above(self, distance: u16) -> Option<Self> {
        self.0.checked_add(distance).map(Self)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a lease holds on the host: one port of one protocol on some addresses.
///
/// Shown as `8080/tcp`, `192.0.2.1:8080/tcp` or `[2001:db8::1]:8080/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port number on the host.
    #[serde(rename = "hostPort")]
    pub port: Port,
    /// The host's addresses on which it is held.
    #[serde(rename = "hostIP", default, skip_serializing_if = "HostAddress::is_any")]
    pub address: HostAddress,
}

impl HostPort {
    /// Whether a packet could be meant for both.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.port == other.port
            && self.address.overlaps(&other.address)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            HostAddress::Any => {}
            HostAddress::AnyV4 | HostAddress::V4(_) => write!(f, "{}:", self.address)?,
            HostAddress::AnyV6 | HostAddress::V6(_) => write!(f, "[{}]:", self.address)?,
        }
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortRange {
    first: Port,
    last: Port,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A set of ports, written as `7000-7999,8443`. Ranges are kept sorted, apart
/// from each other and without overlap, however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<PortRange>);

/// Why a text is no set of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePortError {
    /// Not a number from 1 to 65535.
    #[error("{0} is not a port from 1 to 65535")]
    Number(Excerpt),
    /// `20-10`.
    #[error("{0} ends before it begins")]
    Backwards(Excerpt),
}

impl PortSet {
    /// How many ports it holds, 0 to 65535.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|r| u32::from(r.last.number() - r.first.number()) + 1).sum()
    }

    /// Whether it holds no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the port is one of the set.
    #[must_use]
    pub fn contains(&self, port: Port) -> bool {
        let after = self.0.partition_point(|r| r.first <= port);
        after > 0 && self.0[after - 1].last >= port
    }

    /// Every port of the set, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Port> + '_ {
        self.0.iter().flat_map(|r| r.first.number()..=r.last.number()).filter_map(Port::new)
    }

    /// The port at `index` when counted from the lowest, which is 0.
    #[must_use]
    pub fn nth(&self, mut index: u32) -> Option<Port> {
        for range in &self.0 {
            let size = u32::from(range.last.number() - range.first.number()) + 1;
            if index < size {
                let offset = u16::try_from(index).expect("a range has at most 65535 ports");
                return Port::new(range.first.number() + offset);
            }
            index -= size;
        }
        None
    }

    /// The ports of `self` that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self::from_sorted(self.iter().filter(|port| !other.contains(*port)))
    }

    /// The ports that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    fn from_ranges(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last)
                    if u32::from(range.first.number()) <= u32::from(last.last.number()) + 1 =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    fn from_sorted(ports: impl Iterator<Item = Port>) -> Self {
        Self::from_ranges(ports.map(|port| PortRange { first: port, last: port }).collect())
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for PortSet {
    type Err = ParsePortError;

    /// Numbers and ranges between commas; blanks around them and an empty text
    /// (as `ip_local_reserved_ports` is by default) are fine.
    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let parsed = if digits { text.parse().ok().and_then(Port::new) } else { None };
            parsed.ok_or_else(|| ParsePortError::Number(Excerpt::quoted(text)))
        };
        let mut ranges = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        for entry in text.split(',').map(str::trim) {
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            let (first, last) = (number(first.trim())?, number(last.trim())?);
            if last < first {
                return Err(ParsePortError::Backwards(Excerpt::quoted(entry)));
            }
            ranges.push(PortRange { first, last });
        }
        Ok(Self::from_ranges(ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn port_sets_are_normalised() {
        for (text, shown, len) in [
            ("", "", 0),
            (" 80 ", "80", 1),
            ("8443,7000-7999", "7000-7999,8443", 1001),
            ("1-10,11-20,5", "1-20", 20),
            ("65535,1", "1,65535", 2),
            ("1-65535", "1-65535", 65535),
        ] {
            assert_eq!((set(text).to_string().as_str(), set(text).len()), (shown, len), "{text:?}");
        }
    }

    #[test]
    fn wrong_port_sets_name_the_entry() {
        for (text, error) in [
            ("0", "\"0\" is not a port from 1 to 65535"),
            ("80,", "\"\" is not a port from 1 to 65535"),
            ("+80", "\"+80\" is not a port from 1 to 65535"),
            ("65536", "\"65536\" is not a port from 1 to 65535"),
            ("1-2-3", "\"2-3\" is not a port from 1 to 65535"),
            ("20-10", "\"20-10\" ends before it begins"),
        ] {
            assert_eq!(text.parse::<PortSet>().unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn set_operations_agree_with_membership() {
        let (a, b) = (set("10-20,30-40,65535"), set("15-32,40,65530-65535"));
        for number in 1..=u16::MAX {
            let port = Port::new(number).unwrap();
            assert_eq!(a.without(&b).contains(port), a.contains(port) && !b.contains(port));
            assert_eq!(a.union(&b).contains(port), a.contains(port) || b.contains(port));
        }
        let by_index: Vec<_> = (0..a.len()).map(|i| a.nth(i).unwrap()).collect();
        assert_eq!(by_index, a.iter().collect::<Vec<_>>());
        assert_eq!(a.nth(a.len()), None);
    }
}
