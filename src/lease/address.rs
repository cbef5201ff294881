//! Addresses: those of the host that a port is held on, those of a container.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Excerpt;

/// The host's addresses on which a port is held (`hostIP` of a port mapping).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostAddress {
    /// Every address of both families; written as the empty text.
    #[default]
    Any,
    /// Every IPv4 address; written `0.0.0.0`.
    AnyV4,
    /// Every IPv6 address; written `::`.
    AnyV6,
    /// This IPv4 address only.
    V4(Ipv4Addr),
    /// This IPv6 address only; never an IPv4-mapped one.
    V6(Ipv6Addr),
}

/// The text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an IPv4 or IPv6 address")]
pub struct ParseHostAddressError(Excerpt);

impl HostAddress {
    /// Whether it stands for every address of both families.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }

    /// Whether packets to some IPv4 address are meant.
    #[must_use]
    pub fn has_v4(&self) -> bool {
        matches!(self, Self::Any | Self::AnyV4 | Self::V4(_))
    }

    /// Whether packets to some IPv6 address are meant.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        matches!(self, Self::Any | Self::AnyV6 | Self::V6(_))
    }

    /// Whether some address is meant by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::V4(a), Self::V4(b)) => a == b,
            (Self::V6(a), Self::V6(b)) => a == b,
            (a, b) => (a.has_v4() && b.has_v4()) || (a.has_v6() && b.has_v6()),
        }
    }
}

impl From<IpAddr> for HostAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Self::AnyV4,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Self::AnyV6,
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

impl FromStr for HostAddress {
    type Err = ParseHostAddressError;

    fn from_str(text: &str) -> Result<Self, ParseHostAddressError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let address: IpAddr =
            text.parse().map_err(|_| ParseHostAddressError(Excerpt::quoted(text)))?;
        Ok(address.into())
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::AnyV4 => Ipv4Addr::UNSPECIFIED.fmt(f),
            Self::AnyV6 => Ipv6Addr::UNSPECIFIED.fmt(f),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
        }
    }
}

impl Serialize for HostAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The container's addresses that packets are sent on to: the first of each
/// family on its interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerAddresses {
    /// The IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl ContainerAddresses {
    /// The addresses there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_conflict_as_documented() {
        let texts = ["", "0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let conflicts = [
            [1, 1, 1, 1, 1, 1],
            [1, 1, 0, 1, 1, 0],
            [1, 0, 1, 0, 0, 1],
            [1, 1, 0, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 0, 1, 0, 0, 1],
        ];
        for (a, row) in texts.iter().zip(conflicts) {
            for (b, expected) in texts.iter().zip(row) {
                let overlaps = a.parse::<HostAddress>().unwrap().overlaps(&b.parse().unwrap());
                assert_eq!(overlaps, expected == 1, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn ipv4_mapped_addresses_are_ipv4() {
        let mapped: HostAddress = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(mapped, HostAddress::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!("::ffff:0.0.0.0".parse(), Ok(HostAddress::AnyV4));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["localhost", "192.0.2.1/24", "192.0.2", "fe80::1%eth0", " 192.0.2.1"] {
            assert!(text.parse::<HostAddress>().is_err(), "{text}");
        }
    }
}
