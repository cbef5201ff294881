//! The text of `ports.env`: `KEY=value` lines that a shell, systemd
//! (`EnvironmentFile=`) and docker (`--env-file`) read alike. No I/O.
//!
//! | variable | when | value |
//! |---|---|---|
//! | `TCP_PORT` | always, with a TCP port | the first that was asked for |
//! | `TCP_PORTS_RANGE` | more than one, and they are contiguous | `20001-20002` |
//! | `TCP_PORTS` | two to eight | `20001,20002`, in the order asked for |
//! | `PORT_<NAME>` | for each port with a name | its host port, of a block the lowest |
//!
//! UDP and SCTP like TCP. In a name's variable letters are in upper case and `-`
//! is `_`; names are DNS labels, so that no two become the same.

use std::fmt::Write;

use crate::lease::{Lease, PortName, Protocol};

/// The most ports that are listed one by one.
const LISTED: usize = 8;

/// The lines for these leases. A port that is held on several addresses counts
/// once.
pub fn render(leases: &[Lease]) -> String {
    let mut text = String::new();
    for protocol in Protocol::ALL {
        let mut ports: Vec<u16> = Vec::new();
        for lease in leases.iter().filter(|lease| lease.host.protocol == protocol) {
            let port = lease.host.port.number();
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let Some(first) = ports.first() else { continue };
        let name = protocol.name().to_uppercase();
        let mut line = |key: &str, value: &str| {
            writeln!(text, "{name}_{key}={value}").expect("memory takes what is written");
        };
        line("PORT", &first.to_string());
        let mut sorted = ports.clone();
        sorted.sort_unstable();
        let (lowest, highest) = (sorted[0], sorted[sorted.len() - 1]);
        if ports.len() > 1 && usize::from(highest - lowest) == ports.len() - 1 {
            line("PORTS_RANGE", &format!("{lowest}-{highest}"));
        }
        if (2..=LISTED).contains(&ports.len()) {
            line("PORTS", &ports.iter().map(u16::to_string).collect::<Vec<_>>().join(","));
        }
    }
    let mut named: Vec<&PortName> = Vec::new();
    for lease in leases {
        // The leases of one name stand together, the lowest port first.
        if let Some(name) = &lease.name
            && !named.contains(&name)
        {
            named.push(name);
            let key = name.as_str().to_uppercase().replace('-', "_");
            writeln!(text, "PORT_{key}={}", lease.host.port).expect("memory takes what is written");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{HostAddress, HostPort, Port};

    fn lines(ports: &[(Protocol, u16, HostAddress)]) -> String {
        let lease = |&(protocol, port, address): &(Protocol, u16, HostAddress)| Lease {
            host: HostPort { protocol, port: Port::new(port).unwrap(), address },
            container_port: Port::new(80).unwrap(),
            name: None,
            group: None,
            claim: None,
            rest: None,
        };
        render(&ports.iter().map(lease).collect::<Vec<_>>())
    }

    fn tcp(ports: impl IntoIterator<Item = u16>) -> String {
        let on_any = |port| (Protocol::Tcp, port, HostAddress::Any);
        lines(&ports.into_iter().map(on_any).collect::<Vec<_>>())
    }

    #[test]
    fn variables_come_and_go_at_the_documented_numbers() {
        assert_eq!(tcp([]), "");
        assert_eq!(tcp([20001]), "TCP_PORT=20001\n");
        let two = "TCP_PORT=20001\nTCP_PORTS_RANGE=20001-20002\nTCP_PORTS=20001,20002\n";
        assert_eq!(tcp([20001, 20002]), two);
        let eight = "TCP_PORT=1\nTCP_PORTS_RANGE=1-8\nTCP_PORTS=1,2,3,4,5,6,7,8\n";
        assert_eq!(tcp(1..=8), eight);
        assert_eq!(tcp(1..=9), "TCP_PORT=1\nTCP_PORTS_RANGE=1-9\n");
    }

    #[test]
    fn a_range_is_only_named_where_there_is_one() {
        assert_eq!(tcp([7, 9]), "TCP_PORT=7\nTCP_PORTS=7,9\n");
        assert_eq!(tcp([9, 8]), "TCP_PORT=9\nTCP_PORTS_RANGE=8-9\nTCP_PORTS=9,8\n");
    }

    #[test]
    fn a_name_leads_to_the_lowest_port_of_its_block() {
        let lease = |name: &str, port, protocol| Lease {
            host: HostPort { protocol, port: Port::new(port).unwrap(), address: HostAddress::Any },
            container_port: Port::new(80).unwrap(),
            name: Some(name.parse().unwrap()),
            group: None,
            claim: None,
            rest: None,
        };
        let text = render(&[
            lease("rtp-media", 7000, Protocol::Udp),
            lease("rtp-media", 7001, Protocol::Udp),
            lease("sip", 5060, Protocol::Tcp),
            lease("sip", 5060, Protocol::Udp),
        ]);
        let named = text.lines().filter(|line| line.starts_with("PORT_"));
        assert_eq!(named.collect::<Vec<_>>(), ["PORT_RTP_MEDIA=7000", "PORT_SIP=5060"]);
    }

    #[test]
    fn protocols_are_apart_and_addresses_are_not() {
        let text = lines(&[
            (Protocol::Udp, 53, HostAddress::AnyV4),
            (Protocol::Tcp, 53, HostAddress::AnyV4),
            (Protocol::Udp, 53, HostAddress::AnyV6),
        ]);
        assert_eq!(text, "TCP_PORT=53\nUDP_PORT=53\n");
    }
}
