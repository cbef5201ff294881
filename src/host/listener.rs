//! Whether a process of the host uses a port.
//!
//! Found out by binding a socket to it, without listening, and closing it at
//! once: the kernel knows best, no table has to be read, and other network
//! namespaces do not matter.
//!
//! A port that is in use may only be the near end of a connection that a process
//! of the host has opened (a number that the kernel picked from
//! `ip_local_port_range`). Forwarding does no harm to that, for connection
//! tracking knows its packets, so there is a second question: whether somebody
//! listens.
//!
//! Limits: what is bound a moment later is not known.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};

use super::HostError;
use crate::lease::{HostAddress, HostPort, Port, Protocol};

/// Whether a process waits for packets on the port, on an address that is meant:
/// the port [`is_in_use`], and not only by connections to somewhere else.
pub fn is_listening(port: &HostPort) -> Result<bool, HostError> {
    if !is_in_use(port)? {
        return Ok(false);
    }
    // States of `struct sock` as /proc shows them: TCP_LISTEN, and TCP_CLOSE,
    // which is what a UDP socket without a peer is in.
    let (tables, state) = match port.protocol {
        Protocol::Tcp => (["tcp", "tcp6"], "0A"),
        Protocol::Udp => (["udp", "udp6"], "07"),
        Protocol::Sctp => return Ok(true),
    };
    for table in tables {
        let path = PathBuf::from("/proc/net").join(table);
        let sockets = match fs::read_to_string(&path) {
            Ok(sockets) => sockets,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(HostError::Read { path, source }),
        };
        if sockets.lines().skip(1).any(|line| is_socket_of(line, port.port, state)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a line of such a table is about a socket in this state on this port:
/// `sl local_address:port rem_address:port st …`, the numbers in hexadecimal.
fn is_socket_of(line: &str, port: Port, state: &str) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|local| local.rsplit_once(':'));
    let number = local.and_then(|(_, number)| u16::from_str_radix(number, 16).ok());
    number == Some(port.number()) && fields.nth(1) == Some(state)
}

/// Whether a process uses the port on an address that is meant. An address that
/// the host does not have, a family or a protocol that the kernel does not know
/// are used by nobody.
pub fn is_in_use(port: &HostPort) -> Result<bool, HostError> {
    let (v4, v6) = match port.address {
        HostAddress::Any => (Some(Ipv4Addr::UNSPECIFIED), Some(Ipv6Addr::UNSPECIFIED)),
        HostAddress::AnyV4 => (Some(Ipv4Addr::UNSPECIFIED), None),
        HostAddress::AnyV6 => (None, Some(Ipv6Addr::UNSPECIFIED)),
        HostAddress::V4(address) => (Some(address), None),
        // Its scope is not known, and without one it cannot be bound to.
        HostAddress::V6(address) if address.is_unicast_link_local() => {
            (None, Some(Ipv6Addr::UNSPECIFIED))
        }
        HostAddress::V6(address) => (None, Some(address)),
    };
    for address in v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)) {
        match probe(port.protocol, SocketAddr::new(address, port.port.number())) {
            // PROTONOSUPPORT and SOCKTNOSUPPORT: a kernel without SCTP.
            Ok(())
            | Err(
                Errno::ADDRNOTAVAIL
                | Errno::AFNOSUPPORT
                | Errno::PROTONOSUPPORT
                | Errno::SOCKTNOSUPPORT,
            ) => {}
            Err(Errno::ADDRINUSE) => return Ok(true),
            Err(error) => {
                return Err(HostError::Listener { port: *port, source: error.into() });
            }
        }
    }
    Ok(false)
}

fn probe(protocol: Protocol, address: SocketAddr) -> Result<(), Errno> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if address.is_ipv6() {
        // Each family has a socket of its own here.
        set_ipv6_v6only(&socket, true)?;
    }
    if protocol != Protocol::Udp {
        // Connections in TIME_WAIT do not count, listeners still do. For UDP it
        // would let two sockets share the port.
        set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;
    use crate::netlink::namespace::{private, run};

    fn used(protocol: Protocol, address: &str, port: u16) -> bool {
        let port = Port::new(port).unwrap();
        let port = HostPort { protocol, port, address: address.parse().unwrap() };
        let in_use = is_in_use(&port).unwrap();
        // Those who use a port in these tests listen on it, unless they say so.
        assert_eq!(is_listening(&port).unwrap(), in_use);
        in_use
    }

    const ADDRESSES: [&str; 7] = ["", "0.0.0.0", "::", "127.0.0.1", "127.0.0.2", "::1", "fe80::1"];

    fn matrix(protocol: Protocol, port: u16) -> [u8; 7] {
        ADDRESSES.map(|address| used(protocol, address, port).into())
    }

    #[test]
    fn listeners_are_found_by_protocol_family_and_address() {
        private(|| {
            assert_eq!(matrix(Protocol::Tcp, 80), [0; 7]);
            assert_eq!(matrix(Protocol::Sctp, 80), [0; 7]);
            for (listener, expected) in [
                ("0.0.0.0:80", [1, 1, 0, 1, 1, 0, 0]),
                ("127.0.0.1:80", [1, 1, 0, 1, 0, 0, 0]),
                ("[::1]:80", [1, 0, 1, 0, 0, 1, 1]),
                // Rust's listener on [::] takes IPv4 as well.
                ("[::]:80", [1, 1, 1, 1, 1, 1, 1]),
            ] {
                let held = TcpListener::bind(listener).unwrap();
                assert_eq!(matrix(Protocol::Tcp, 80), expected, "tcp {listener}");
                assert_eq!(matrix(Protocol::Udp, 80), [0; 7], "udp beside tcp {listener}");
                drop(held);
                let held = UdpSocket::bind(listener).unwrap();
                assert_eq!(matrix(Protocol::Udp, 80), expected, "udp {listener}");
                assert_eq!(matrix(Protocol::Tcp, 80), [0; 7], "tcp beside udp {listener}");
                drop(held);
                assert_eq!(matrix(Protocol::Tcp, 80), [0; 7], "after {listener}");
            }
        });
    }

    #[test]
    fn addresses_of_other_hosts_are_used_by_nobody() {
        private(|| {
            let _held = TcpListener::bind("0.0.0.0:80").unwrap();
            assert!(!used(Protocol::Tcp, "192.0.2.1", 80));
            assert!(!used(Protocol::Udp, "2001:db8::1", 80));
            run("ip address add 192.0.2.1/32 dev lo");
            assert!(used(Protocol::Tcp, "192.0.2.1", 80));
        });
    }

    #[test]
    fn connections_that_are_over_do_not_count() {
        private(|| {
            let listener = TcpListener::bind("127.0.0.1:80").unwrap();
            let mut client = TcpStream::connect("127.0.0.1:80").unwrap();
            // The side that closes first is left in TIME_WAIT.
            drop(listener.accept().unwrap());
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop((client, listener));
            assert!(run("ss -Htan state time-wait").contains(":80"));
            assert!(!used(Protocol::Tcp, "", 80));
        });
    }

    /// A pod with host port 40000 must start also while the host happens to have
    /// a connection to somewhere from its own port 40000.
    #[test]
    fn outgoing_connections_use_a_port_and_do_not_listen_on_it() {
        private(|| {
            let server = TcpListener::bind("127.0.0.1:80").unwrap();
            let tcp = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.connect("127.0.0.1:80").unwrap();
            for (protocol, local) in
                [(Protocol::Tcp, tcp.local_addr()), (Protocol::Udp, udp.local_addr())]
            {
                let port = Port::new(local.unwrap().port()).unwrap();
                let port = HostPort { protocol, port, address: HostAddress::Any };
                assert!(is_in_use(&port).unwrap(), "{port}");
                assert!(!is_listening(&port).unwrap(), "{port}");
            }
        });
    }
}
