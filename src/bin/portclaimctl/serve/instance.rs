//! An instance that registered itself: what it says of itself, in types that hold
//! only what may be shown, asked and kept.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use portclaim::lease::{Excerpt, HealthCheck, Probe, Protocol};
use serde::{Deserialize, Serialize};

/// The longest name of an instance or a host, in bytes (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;
/// How many tags an instance may have, and how long each may be, in characters.
const TAGS: usize = 16;
const LONGEST_TAG: usize = 64;
/// In seconds: 31 days.
const LONGEST_TTL: u64 = 31 * 24 * 60 * 60;

/// What somebody registered says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// What it is known by; no two have the same.
    pub name: InstanceName,
    /// Where clients reach it.
    pub address: Address,
    /// What it says of itself.
    pub tags: Vec<Tag>,
    /// How one finds out whether it works; none: one does not.
    #[serde(with = "health")]
    pub health: Option<Probe>,
    /// For how long it is known after it registered or was found healthy.
    pub ttl: Ttl,
    /// Since when it is known as this, in seconds since the Unix epoch.
    pub since: u64,
    /// Who registered it.
    pub registrant: Registrant,
}

/// A word of somebody who registers that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}: {allowed}")]
pub struct InstanceError {
    key: &'static str,
    value: Excerpt,
    allowed: &'static str,
}

fn wrong(key: &'static str, value: &str, allowed: &'static str) -> InstanceError {
    InstanceError { key, value: Excerpt::quoted(value), allowed }
}

macro_rules! text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InstanceError;

            fn try_from(text: String) -> Result<Self, InstanceError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(it: $type) -> Self {
                it.to_string()
            }
        }
    };
}

/// What an instance is known by: safe in paths and addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);
text!(InstanceName);

impl InstanceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceName {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, InstanceError> {
        let is_named = text.len() <= LONGEST_NAME
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !is_named {
            let allowed = "a letter or digit and at most 252 letters, digits, '.', '_' and '-' \
                behind it are allowed";
            return Err(wrong("name", text, allowed));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an instance is reached: `192.0.2.1:7000`, `[2001:db8::1]:7000` or
/// `node.example:7000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Ip(SocketAddr),
    Name(String, u16),
}
text!(Address);

impl Address {
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }
}

impl FromStr for Address {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, InstanceError> {
        let is_host = |name: &str| {
            let is_label = |label: &str| {
                !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            name.len() <= LONGEST_NAME
                && name.split('.').all(is_label)
                // What ends in a number would be an address (RFC 3696, section 2).
                && name.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_err())
        };
        let address = match text.parse::<SocketAddr>() {
            Ok(address) => Some(Self::Ip(address)),
            Err(_) => text.rsplit_once(':').and_then(|(name, port)| {
                let is_number = port.bytes().all(|b| b.is_ascii_digit());
                let port = port.parse().ok().filter(|_| is_number)?;
                is_host(name).then(|| Self::Name(name.to_owned(), port))
            }),
        };
        let is_somebodys = |address: &Self| match address {
            Self::Ip(address) => !address.ip().is_unspecified() && !is_group(address.ip()),
            Self::Name(..) => true,
        };
        address.filter(|address| address.port() > 0 && is_somebodys(address)).ok_or_else(|| {
            let allowed = "an IP address or a name, and a port, are allowed: 192.0.2.1:7000, \
                [2001:db8::1]:7000, node.example:7000";
            wrong("address", text, allowed)
        })
    }
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// A word that an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);
text!(Tag);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, InstanceError> {
        let is_shown = |c: char| !c.is_control() && !c.is_whitespace();
        if text.is_empty() || text.chars().count() > LONGEST_TAG || !text.chars().all(is_shown) {
            let allowed = "1 to 64 characters without blanks are allowed";
            return Err(wrong("a tag", text, allowed));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// In seconds, from 1 to 31 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Ttl(u64);

impl Ttl {
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl TryFrom<u64> for Ttl {
    type Error = InstanceError;

    fn try_from(seconds: u64) -> Result<Self, InstanceError> {
        if !(1..=LONGEST_TTL).contains(&seconds) {
            let allowed = "1 to 2678400 seconds (31 days) are allowed";
            return Err(wrong("ttl", &seconds.to_string(), allowed));
        }
        Ok(Self(seconds))
    }
}

impl From<Ttl> for u64 {
    fn from(ttl: Ttl) -> Self {
        ttl.0
    }
}

impl FromStr for Ttl {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, InstanceError> {
        let seconds: u64 =
            text.parse().map_err(|_| wrong("ttl", text, "whole seconds are allowed"))?;
        Self::try_from(seconds)
    }
}

/// Who registered an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Registrant {
    /// A user of this host, by number.
    User(u32),
    /// Somebody who knows the token.
    Token,
}

impl Registrant {
    /// Whether it may change what this one registered. Users keep out of each other's
    /// way; root and whoever has the token may change all.
    pub fn may_change_what(self, other: Self) -> bool {
        self == other || matches!(self, Self::Token | Self::User(0))
    }
}

impl fmt::Display for Registrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Token => f.write_str("the token"),
        }
    }
}

/// `none`, or a check as annotations have it, of the only port that there is.
pub fn probe(text: &str) -> Result<Option<Probe>, InstanceError> {
    match HealthCheck::parse(text) {
        Ok(None) => Ok(None),
        Ok(Some(HealthCheck { port: None, probe })) => Ok(Some(probe)),
        _ => Err(wrong("health", text, "\"none\", \"tcp\" and \"http:/PATH\" are allowed")),
    }
}

/// The check as it is written.
pub fn shown(probe: Option<&Probe>) -> String {
    let check = |probe: &Probe| HealthCheck { port: None, probe: probe.clone() }.to_string();
    probe.map_or_else(|| "none".to_owned(), check)
}

pub fn tags<'a>(tags: impl Iterator<Item = &'a str>) -> Result<Vec<Tag>, InstanceError> {
    let tags: Vec<Tag> = tags.map(str::parse).collect::<Result<_, _>>()?;
    if tags.len() > TAGS {
        return Err(wrong("tags", &tags.len().to_string(), "at most 16 are allowed"));
    }
    Ok(tags)
}

impl Instance {
    /// The protocol, where the check tells.
    pub fn protocol(&self) -> Option<Protocol> {
        self.health.as_ref().map(|_| Protocol::Tcp)
    }

    /// Where a browser may be sent to.
    pub fn url(&self) -> Option<String> {
        let has = |tag: &str| self.tags.iter().any(|it| it.as_str() == tag);
        let scheme = match self.health {
            _ if has("https") => "https",
            Some(Probe::Http(_)) => "http",
            _ if has("http") => "http",
            _ => return None,
        };
        Some(format!("{scheme}://{}/", self.address))
    }

    /// Whether both say the same, whenever and by whom they were said.
    pub fn says_what(&self, other: &Self) -> bool {
        let said = |it: &Self| (it.address.clone(), it.tags.clone(), it.health.clone(), it.ttl);
        self.name == other.name && said(self) == said(other)
    }
}

mod health {
    use portclaim::lease::Probe;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub fn serialize<S: Serializer>(
        probe: &Option<Probe>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::shown(probe.as_ref()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Probe>, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::probe(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn instance(name: &str, address: &str) -> Instance {
        Instance {
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
            tags: Vec::new(),
            health: None,
            ttl: Ttl(60),
            since: 100,
            registrant: Registrant::Token,
        }
    }

    #[test]
    fn addresses_are_somebodys() {
        for (text, expected) in [
            ("192.0.2.1:7000", "192.0.2.1:7000"),
            ("[2001:DB8::1]:7000", "[2001:db8::1]:7000"),
            ("node-1.example:1", "node-1.example:1"),
            ("localhost:65535", "localhost:65535"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), expected);
        }
        for text in [
            "",
            ":80",
            "80",
            "192.0.2.1",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1:+80",
            "2001:db8::1:80",
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "255.255.255.255:80",
            "1.2.3:80",
            "a..b:80",
            "a b:80",
            "<b>:80",
            "a/b:80",
            "a@b:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_bounded() {
        for text in ["web-0", "a", "A.b_c-1", &"a".repeat(253)] {
            assert!(text.parse::<InstanceName>().is_ok(), "{text}");
        }
        for text in ["", "-a", "a b", "a/b", "<b>", "ä", &"a".repeat(254)] {
            let error = text.parse::<InstanceName>().unwrap_err().to_string();
            assert!(error.starts_with("name is \""), "{error}");
        }
        assert!("<b>é".parse::<Tag>().is_ok());
        for text in ["", "a b", "a\n", &"a".repeat(65)] {
            assert!(text.parse::<Tag>().is_err(), "{text}");
        }
        assert!(tags(["a"; 16].into_iter()).is_ok() && tags(["a"; 17].into_iter()).is_err());
        for text in ["0", "-1", "2678401", "1h", ""] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
        assert!(probe("web=tcp").is_err() && probe("none") == Ok(None));
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let mut web = instance("web", "[::1]:80");
        web.health = probe("http:/a=b").unwrap();
        web.tags = tags(["<b>", "http"].into_iter()).unwrap();
        web.registrant = Registrant::User(1000);
        let text = serde_json::to_string(&web).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), web);
        assert_eq!(web.url().as_deref(), Some("http://[::1]:80/"));
        assert!(serde_json::from_str::<Instance>(&text.replace("[::1]:80", "x")).is_err());
    }
}
