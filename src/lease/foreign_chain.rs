//! A chain of somebody else's firewall.

use std::{fmt, str::FromStr};

/// A chain that forwarded packets pass and that may drop them, and who manages it:
/// `inet filter forward` is nft's, `iptables FORWARD` is in the table `filter` of
/// `iptables`, which would not understand its own table any more if nft had changed it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignChain {
    /// Of nft.
    Nft {
        /// The family of the table.
        family: ForeignFamily,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// Of iptables, in the table `filter`.
    Iptables {
        /// Whether it is of ip6tables.
        v6: bool,
        /// The chain.
        chain: String,
    },
}

/// The families of tables that packets with an IP address pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl ForeignFamily {
    /// As nft writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

/// A text names no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "chains like \"inet TABLE CHAIN\", \"ip TABLE CHAIN\", \"ip6 TABLE CHAIN\", \
     \"iptables CHAIN\" and \"ip6tables CHAIN\" are allowed"
)]
pub struct ParseForeignChainError;

impl FromStr for ForeignChain {
    type Err = ParseForeignChainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<_> = text.split(' ').collect();
        if !words.iter().skip(1).all(|word| is_name(word)) {
            return Err(ParseForeignChainError);
        }
        let nft = |family, table: &str, chain: &str| Self::Nft {
            family,
            table: table.to_owned(),
            chain: chain.to_owned(),
        };
        match words[..] {
            ["iptables", chain] => Ok(Self::Iptables { v6: false, chain: chain.to_owned() }),
            ["ip6tables", chain] => Ok(Self::Iptables { v6: true, chain: chain.to_owned() }),
            ["inet", table, chain] => Ok(nft(ForeignFamily::Inet, table, chain)),
            ["ip", table, chain] => Ok(nft(ForeignFamily::Ip, table, chain)),
            ["ip6", table, chain] => Ok(nft(ForeignFamily::Ip6, table, chain)),
            _ => Err(ParseForeignChainError),
        }
    }
}

/// What neither nft nor iptables takes for anything but a name.
fn is_name(word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && word.len() <= 128
        && word.chars().all(is_part)
}

impl fmt::Display for ForeignChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft { family, table, chain } => write!(f, "{} {table} {chain}", family.name()),
            Self::Iptables { v6: false, chain } => write!(f, "iptables {chain}"),
            Self::Iptables { v6: true, chain } => write!(f, "ip6tables {chain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_read_as_they_are_written() {
        for text in [
            "inet filter forward",
            "ip my_table my.chain-1",
            "ip6 filter FORWARD",
            "iptables DOCKER-USER",
            "ip6tables FORWARD",
        ] {
            assert_eq!(text.parse::<ForeignChain>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "iptables",
            "filter forward",
            "bridge filter forward",
            "inet filter forward x",
            "inet  forward",
            "iptables --flush",
            "inet filter forward;flush",
            "ip filter \"a\"",
        ] {
            assert_eq!(text.parse::<ForeignChain>(), Err(ParseForeignChainError), "{text}");
        }
    }
}
