//! The transport protocols, and sets of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The transport protocols that have ports and that NAT can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// Every protocol, in the order of `Ord`.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IANA protocol number, as in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name that Kubernetes, CNI (in lower case) and nftables use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol of that name, in upper, lower or mixed case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of protocols. Shown as `tcp`, or `tcp+udp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protocols(u8);

impl Protocols {
    /// All that there are.
    pub const ALL: Self = Self(0b111);
    /// One number on both.
    pub const TCP_AND_UDP: Self = Self(0b011);

    /// Whether it is one of the set.
    #[must_use]
    pub fn contains(self, protocol: Protocol) -> bool {
        self.0 & Self::from(protocol).0 != 0
    }

    /// Those of the set, in the order of `Ord`.
    pub fn iter(self) -> impl Iterator<Item = Protocol> + Clone {
        Protocol::ALL.into_iter().filter(move |protocol| self.contains(*protocol))
    }

    /// How many there are, 0 to 3.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<Protocol> for Protocols {
    fn from(protocol: Protocol) -> Self {
        Self(1 << protocol as u8)
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Self {
        Self(protocols.into_iter().fold(0, |all, protocol| all | Self::from(protocol).0))
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, protocol) in self.iter().enumerate() {
            if at > 0 {
                f.write_str("+")?;
            }
            protocol.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let both: Protocols = [Protocol::Udp, Protocol::Tcp].into_iter().collect();
        assert_eq!((both, both.to_string().as_str()), (Protocols::TCP_AND_UDP, "tcp+udp"));
        assert_eq!(Protocol::ALL.into_iter().collect::<Protocols>(), Protocols::ALL);
        assert_eq!(Protocols::from(Protocol::Sctp).iter().collect::<Vec<_>>(), [Protocol::Sctp]);
        assert!(!both.contains(Protocol::Sctp) && both.len() == 2);
        assert!(Protocols::default().is_empty());
    }
}
