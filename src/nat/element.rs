//! Elements: what a forwarding puts into the maps and sets of its table.
//!
//! Pure. An element is typed once and known by the bytes that the kernel has of it:
//!
//! ```text
//! key    the components one after the other, each padded to 4 bytes:
//!        address 4 or 16 · protocol 1 · port 2 · name of a link 16, rest NUL
//! data   one component, not padded
//! ```

use std::{collections::HashSet, fmt, net::IpAddr};

use crate::lease::{Forwarding, HostAddress, HostPort, InterfaceName, NetworkName, Port, Protocol};

/// How long a comment is made at most; nft takes 127 bytes.
const COMMENT_LENGTH: usize = 120;
/// `IFNAMSIZ`.
const LINK_LENGTH: usize = 16;

/// The types of what keys and data are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    V4,
    V6,
    Protocol,
    Port,
    Mark,
    Link,
}

/// The maps and sets of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Set {
    Any4Addr,
    Any4Port,
    Any6Addr,
    Any6Port,
    Host4Addr,
    Host4Port,
    Host6Addr,
    Host6Port,
    Forwarded4,
    Forwarded6,
    Hairpin4,
    Hairpin6,
    Links,
}

impl Set {
    pub(super) const ALL: [Self; 13] = [
        Self::Any4Addr,
        Self::Any4Port,
        Self::Any6Addr,
        Self::Any6Port,
        Self::Host4Addr,
        Self::Host4Port,
        Self::Host6Addr,
        Self::Host6Port,
        Self::Forwarded4,
        Self::Forwarded6,
        Self::Hairpin4,
        Self::Hairpin6,
        Self::Links,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Any4Addr => "any4_addr",
            Self::Any4Port => "any4_port",
            Self::Any6Addr => "any6_addr",
            Self::Any6Port => "any6_port",
            Self::Host4Addr => "host4_addr",
            Self::Host4Port => "host4_port",
            Self::Host6Addr => "host6_addr",
            Self::Host6Port => "host6_port",
            Self::Forwarded4 => "forwarded4",
            Self::Forwarded6 => "forwarded6",
            Self::Hairpin4 => "hairpin4",
            Self::Hairpin6 => "hairpin6",
            Self::Links => "links",
        }
    }

    pub(super) fn key(self) -> &'static [Kind] {
        use Kind::{Link, Port, Protocol, V4, V6};
        match self {
            Self::Any4Addr | Self::Any4Port | Self::Any6Addr | Self::Any6Port => &[Protocol, Port],
            Self::Host4Addr | Self::Host4Port | Self::Forwarded4 => &[V4, Protocol, Port],
            Self::Host6Addr | Self::Host6Port | Self::Forwarded6 => &[V6, Protocol, Port],
            Self::Hairpin4 => &[V4, V4],
            Self::Hairpin6 => &[V6, V6],
            Self::Links => &[Link, Link],
        }
    }

    /// What a map leads to; none for a set.
    pub(super) fn data(self) -> Option<Kind> {
        match self {
            Self::Any4Addr | Self::Host4Addr => Some(Kind::V4),
            Self::Any6Addr | Self::Host6Addr => Some(Kind::V6),
            Self::Any4Port | Self::Any6Port | Self::Host4Port | Self::Host6Port => Some(Kind::Port),
            Self::Forwarded4 | Self::Forwarded6 | Self::Hairpin4 | Self::Hairpin6 | Self::Links => {
                None
            }
        }
    }

    pub(super) fn is_map(self) -> bool {
        self.data().is_some()
    }
}

/// A part of a key, or what a map leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Component {
    Address(IpAddr),
    Protocol(Protocol),
    Port(Port),
    Link(InterfaceName),
}

impl Component {
    /// Reads one off the front of a key; none when it is not one of ours.
    fn read(kind: Kind, bytes: &mut &[u8]) -> Option<Self> {
        match kind {
            Kind::V4 => Some(Self::Address(IpAddr::from(take::<4>(bytes)?))),
            Kind::V6 => Some(Self::Address(IpAddr::from(take::<16>(bytes)?))),
            Kind::Protocol => {
                let [number, ..] = take::<4>(bytes)?;
                let protocol = Protocol::ALL.into_iter().find(|p| p.number() == number)?;
                Some(Self::Protocol(protocol))
            }
            Kind::Port => {
                let [high, low, ..] = take::<4>(bytes)?;
                Port::new(u16::from_be_bytes([high, low])).map(Self::Port)
            }
            Kind::Link => {
                let name = take::<LINK_LENGTH>(bytes)?;
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                std::str::from_utf8(&name[..end]).ok()?.parse().ok().map(Self::Link)
            }
            Kind::Mark => None,
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(address)) => bytes.extend(address.octets()),
            Self::Address(IpAddr::V6(address)) => bytes.extend(address.octets()),
            Self::Protocol(protocol) => bytes.push(protocol.number()),
            Self::Port(port) => bytes.extend(port.number().to_be_bytes()),
            Self::Link(name) => {
                let end = bytes.len() + LINK_LENGTH;
                bytes.extend(name.as_str().as_bytes());
                bytes.resize(end, 0);
            }
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Protocol(protocol) => protocol.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Link(name) => name.fmt(f),
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// An element of a map or set of a network's table. Shown by its key, as
/// `8080/tcp`, `192.0.2.1:8080/tcp`, `10.1.0.5 . 10.1.0.5` or `cni0 . cni0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    set: Set,
    key: Vec<Component>,
    data: Option<Component>,
    comment: Option<String>,
}

impl Element {
    fn member(set: Set, key: Vec<Component>) -> Self {
        Self { set, key, data: None, comment: None }
    }

    pub(super) fn set(&self) -> Set {
        self.set
    }

    /// The owner's name, for whoever lists the table.
    pub(super) fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// What a map leads to, to be read; none in a set.
    pub(super) fn target(&self) -> Option<String> {
        self.data.as_ref().map(ToString::to_string)
    }

    pub(super) fn key_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for component in &self.key {
            component.write(&mut bytes);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    /// What is under a key that the kernel has in a set, as [`Element`]s are shown;
    /// its bytes where nothing of ours can be.
    pub(super) fn show_key(set: Set, mut key: &[u8]) -> String {
        let whole = key;
        let components = set.key().iter().map(|kind| Component::read(*kind, &mut key));
        match components.collect::<Option<Vec<_>>>() {
            Some(components) if key.is_empty() => Self::member(set, components).to_string(),
            _ => format!("{whole:02x?}"),
        }
    }

    /// Whether it is of the host's link, which all containers behind it share.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.set == Set::Links
    }

    /// Empty in a set.
    pub(super) fn data_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(data) = &self.data {
            data.write(&mut bytes);
        }
        bytes
    }

    pub(super) fn key(&self) -> &[Component] {
        &self.key
    }

    /// None in a set.
    pub(super) fn data(&self) -> Option<&Component> {
        self.data.as_ref()
    }

    /// What there can be only one of in a table.
    pub(super) fn identity(&self) -> (&'static str, Vec<u8>) {
        (self.set.name(), self.key_bytes())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key[..] {
            [Component::Protocol(protocol), port] => write!(f, "{port}/{protocol}"),
            [Component::Address(address), Component::Protocol(protocol), Component::Port(port)] => {
                let host =
                    HostPort { protocol: *protocol, port: *port, address: (*address).into() };
                host.fmt(f)
            }
            components => {
                for (index, component) in components.iter().enumerate() {
                    write!(f, "{}{component}", if index == 0 { "" } else { " . " })?;
                }
                Ok(())
            }
        }
    }
}

/// Everything that a forwarding needs in its table, each element once. A lease
/// on addresses of a family that the container does not have needs nothing.
#[must_use]
pub fn elements(forwarding: &Forwarding) -> Vec<Element> {
    let owner = owner(forwarding);
    let mut seen = HashSet::new();
    let mut elements = Vec::new();
    let mut push = |element: Element| {
        if seen.insert((element.set, element.key.clone())) {
            elements.push(element);
        }
    };
    for lease in &forwarding.leases {
        let transport =
            [Component::Protocol(lease.host.protocol), Component::Port(lease.host.port)];
        for to in forwarding.container.iter() {
            let Some((addresses, ports, host)) = maps(lease.host.address, to) else { continue };
            let key: Vec<_> =
                host.map(Component::Address).into_iter().chain(transport.clone()).collect();
            push(Element {
                set: addresses,
                key: key.clone(),
                data: Some(Component::Address(to)),
                comment: Some(owner.clone()),
            });
            push(Element {
                set: ports,
                key,
                data: Some(Component::Port(lease.container_port)),
                comment: None,
            });
            push(Element::member(
                if to.is_ipv4() { Set::Forwarded4 } else { Set::Forwarded6 },
                vec![
                    Component::Address(to),
                    Component::Protocol(lease.host.protocol),
                    Component::Port(lease.container_port),
                ],
            ));
            push(Element::member(
                if to.is_ipv4() { Set::Hairpin4 } else { Set::Hairpin6 },
                vec![Component::Address(to); 2],
            ));
            if let Some(link) = forwarding.link.as_ref().filter(|link| is_literal(link)) {
                push(Element::member(Set::Links, vec![Component::Link(link.clone()); 2]));
            }
        }
    }
    elements
}

/// The elements of a forwarding that no other one of the same network needs:
/// those to remove with it. Containers on one bridge share the element of their
/// link, and an address may have been given to the next container already.
#[must_use]
pub fn elements_held_only_by<'a>(
    forwarding: &Forwarding,
    others: impl IntoIterator<Item = &'a Forwarding>,
) -> Vec<Element> {
    let mut alone = elements(forwarding);
    for other in others {
        let shares_link = forwarding.link.is_some() && forwarding.link == other.link;
        let shares_address =
            other.container.iter().any(|a| forwarding.container.iter().any(|b| a == b));
        if shares_address {
            let needed: HashSet<_> = elements(other).iter().map(Element::identity).collect();
            alone.retain(|element| !needed.contains(&element.identity()));
        } else if shares_link {
            // Every forwarding that leads anywhere holds the element of its link.
            alone.retain(|element| element.set != Set::Links);
        }
    }
    alone
}

/// Whether nft takes the name for itself: not for a wildcard or a set.
fn is_literal(link: &InterfaceName) -> bool {
    !link.as_str().starts_with('@') && !link.as_str().contains(['*', '\\', '"'])
}

/// The maps that lead from these host addresses to that container address, and
/// the host address that is part of their keys.
fn maps(host: HostAddress, to: IpAddr) -> Option<(Set, Set, Option<IpAddr>)> {
    match (host, to) {
        (HostAddress::Any | HostAddress::AnyV4, IpAddr::V4(_)) => {
            Some((Set::Any4Addr, Set::Any4Port, None))
        }
        (HostAddress::Any | HostAddress::AnyV6, IpAddr::V6(_)) => {
            Some((Set::Any6Addr, Set::Any6Port, None))
        }
        (HostAddress::V4(host), IpAddr::V4(_)) => {
            Some((Set::Host4Addr, Set::Host4Port, Some(host.into())))
        }
        (HostAddress::V6(host), IpAddr::V6(_)) => {
            Some((Set::Host6Addr, Set::Host6Port, Some(host.into())))
        }
        _ => None,
    }
}

/// The pod, or the attachment or module where there is none, in printable ASCII.
fn owner(forwarding: &Forwarding) -> String {
    let of_module = forwarding.attachment.network == NetworkName::modules();
    let mut owner = match &forwarding.pod {
        Some(pod) => pod.to_string(),
        None if of_module => format!("module {}", forwarding.attachment.container),
        None => forwarding.attachment.to_string().replace('…', ".."),
    };
    owner.truncate(COMMENT_LENGTH);
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(json: &str) -> Forwarding {
        let start = r#"{"network":"n","containerID":"c","ifname":"eth0","since":0"#;
        serde_json::from_str(&format!("{start},{json}}}")).unwrap()
    }

    #[test]
    fn keys_of_the_kernel_are_shown_like_elements() {
        let forwarding = forwarding(&format!(
            r#"{BOTH},"leases":[{{"protocol":"tcp","hostPort":8080,"containerPort":80}},
               {{"protocol":"udp","hostPort":53,"hostIP":"192.0.2.1","containerPort":53}},
               {{"protocol":"sctp","hostPort":9,"hostIP":"2001:db8::1","containerPort":9}}]"#
        ));
        for element in elements(&forwarding) {
            let key = element.key_bytes();
            assert_eq!(Element::show_key(element.set(), &key), element.to_string());
            for end in 0..key.len() {
                assert!(Element::show_key(element.set(), &key[..end]).starts_with('['));
            }
        }
        let icmp = [1, 0, 0, 0, 0, 80, 0, 0];
        assert_eq!(Element::show_key(Set::Any4Addr, &icmp), format!("{icmp:02x?}"));
    }

    fn names(elements: &[Element]) -> Vec<String> {
        let name = |e: &Element| match e.target() {
            Some(target) => format!("{} {e} {target}", e.set.name()),
            None => format!("{} {e}", e.set.name()),
        };
        elements.iter().map(name).collect()
    }

    const BOTH: &str = r#""container":{"v4":"10.0.0.5","v6":"fd00::5"},"link":"cni0""#;
    const ANY: &str = r#"{"protocol":"tcp","hostPort":8080,"containerPort":80}"#;

    #[test]
    fn a_port_on_any_address_is_forwarded_in_both_families() {
        let all = elements(&forwarding(&format!(r#"{BOTH},"leases":[{ANY}]"#)));
        assert_eq!(
            names(&all),
            [
                "any4_addr 8080/tcp 10.0.0.5",
                "any4_port 8080/tcp 80",
                "forwarded4 10.0.0.5:80/tcp",
                "hairpin4 10.0.0.5 . 10.0.0.5",
                "links cni0 . cni0",
                "any6_addr 8080/tcp fd00::5",
                "any6_port 8080/tcp 80",
                "forwarded6 [fd00::5]:80/tcp",
                "hairpin6 fd00::5 . fd00::5",
            ]
        );
        assert_eq!(all[0].comment(), Some("c/eth0"));
        assert_eq!(all[0].key_bytes(), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!((all[0].data_bytes(), all[1].data_bytes()), (vec![10, 0, 0, 5], vec![0, 80]));
        assert_eq!(all[2].key_bytes(), [10, 0, 0, 5, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(
            all[4].key_bytes(),
            *b"cni0\0\0\0\0\0\0\0\0\0\0\0\0cni0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn a_host_address_is_of_one_family() {
        for (address, expected) in [
            ("0.0.0.0", &["any4_addr 8080/tcp 10.0.0.5", "any4_port 8080/tcp 80"]),
            ("::", &["any6_addr 8080/tcp fd00::5", "any6_port 8080/tcp 80"]),
            (
                "192.0.2.1",
                &["host4_addr 192.0.2.1:8080/tcp 10.0.0.5", "host4_port 192.0.2.1:8080/tcp 80"],
            ),
            (
                "2001:db8::1",
                &[
                    "host6_addr [2001:db8::1]:8080/tcp fd00::5",
                    "host6_port [2001:db8::1]:8080/tcp 80",
                ],
            ),
        ] {
            let lease = ANY.replace("8080,", &format!(r#"8080,"hostIP":"{address}","#));
            let all = elements(&forwarding(&format!(r#"{BOTH},"leases":[{lease}]"#)));
            assert_eq!(names(&all)[..2], *expected);
            assert_eq!(all.len(), 5);
            let v4 = format!(r#""container":{{"v4":"10.0.0.5"}},"leases":[{lease}]"#);
            let expected = if address.contains(':') { 0 } else { 4 };
            assert_eq!(elements(&forwarding(&v4)).len(), expected, "{address}");
        }
    }

    #[test]
    fn ports_that_lead_to_one_endpoint_share_its_elements() {
        let second = ANY.replace("8080", "8081");
        let all = elements(&forwarding(&format!(r#"{BOTH},"leases":[{ANY},{second}]"#)));
        assert_eq!(all.len(), 9 + 4);
    }

    #[test]
    fn links_that_nft_would_not_take_literally_are_left_out() {
        let count = |link: &str| {
            let mut web = forwarding(&format!(r#"{BOTH},"leases":[{ANY}]"#));
            web.link = Some(link.parse().unwrap());
            elements(&web).len()
        };
        assert_eq!((count("veth0@if2"), count("cni-0.1")), (9, 9));
        assert_eq!((count("@links"), count("veth*"), count("a\\*")), (8, 8, 8));
    }

    #[test]
    fn comments_are_short_printable_ascii() {
        let pod = format!(r#""namespace":"{}","pod":"{}""#, "n".repeat(63), ["p"; 120].join("."));
        let long = elements(&forwarding(&format!(r#"{BOTH},"leases":[{ANY}],"pod":{{{pod}}}"#)));
        assert_eq!(long[0].comment().unwrap().len(), COMMENT_LENGTH);
        let mut short = forwarding(&format!(r#"{BOTH},"leases":[{ANY}]"#));
        short.attachment.container = "0123456789abcdef".parse().unwrap();
        assert_eq!(elements(&short)[0].comment(), Some("0123456789ab../eth0"));
    }

    #[test]
    fn shared_elements_outlive_one_of_their_owners() {
        let gone = forwarding(&format!(r#"{BOTH},"leases":[{ANY}]"#));
        assert_eq!(elements_held_only_by(&gone, []), elements(&gone));

        let second = ANY.replace("8080", "8081");
        let mut neighbour = forwarding(&format!(r#"{BOTH},"leases":[{second}]"#));
        neighbour.container.v4 = Some("10.0.0.6".parse().unwrap());
        neighbour.container.v6 = None;
        let removed = names(&elements_held_only_by(&gone, [&neighbour]));
        assert_eq!(removed.len(), 8, "{removed:?}");
        assert!(!removed.contains(&"links cni0 . cni0".to_owned()));

        // The address has been given to another container before this one's DEL.
        neighbour.container.v4 = gone.container.v4;
        let removed = names(&elements_held_only_by(&gone, [&neighbour]));
        let kept =
            ["forwarded4 10.0.0.5:80/tcp", "hairpin4 10.0.0.5 . 10.0.0.5", "links cni0 . cni0"];
        assert_eq!(removed.len(), 6);
        assert!(kept.iter().all(|k| !removed.contains(&(*k).to_owned())), "{removed:?}");

        neighbour.container = gone.container;
        neighbour.leases.clone_from(&gone.leases);
        assert_eq!(elements_held_only_by(&gone, [&neighbour]), []);
    }
}
