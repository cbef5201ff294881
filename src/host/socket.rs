//! The sockets of the host on a port, as `/proc/net` lists them. Only reads, so
//! that nobody who binds at the same moment is disturbed.
//!
//! Limits: a TCP socket that is bound and does not listen is not listed. Whether a
//! socket on `::` takes IPv4 packets too is not told: it is taken to.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use super::HostError;
use crate::lease::{HostAddress, HostPort, Port, Protocol};

/// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV`: no socket that a process has.
const PASSING: [&str; 2] = ["06", "0C"];

/// A socket of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// Its own address; every address of both families for one on `::`.
    pub address: HostAddress,
    /// Whether it waits for packets from anybody, and is not the near end of one
    /// connection.
    pub is_listening: bool,
    /// What `/proc/PID/fd` calls it; 0 for one that the kernel keeps for itself.
    pub inode: u64,
    /// The user that made it.
    pub uid: u32,
}

/// Reads a line of a table, if it is about this port.
type Read = fn(&str, Port) -> Option<Socket>;

/// The sockets on the port, on addresses that are meant.
pub fn sockets(port: &HostPort) -> Result<Vec<Socket>, HostError> {
    let (tables, read): (&[&str], Read) = match port.protocol {
        Protocol::Tcp => (&["tcp", "tcp6"], tcp),
        Protocol::Udp => (&["udp", "udp6"], udp),
        Protocol::Sctp => (&["sctp/eps"], sctp),
    };
    let mut found = Vec::new();
    for table in tables {
        let path = PathBuf::from("/proc/net").join(table);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6, or without SCTP.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(HostError::Read { path, source }),
        };
        let sockets = text.lines().skip(1).filter_map(|line| read(line, port.port));
        found.extend(sockets.filter(|socket| socket.address.overlaps(&port.address)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn tcp(line: &str, port: Port) -> Option<Socket> {
    let (state, socket) = inet(line, port)?;
    let is_listening = state == "0A";
    (!PASSING.contains(&state)).then_some(Socket { is_listening, ..socket })
}

fn udp(line: &str, port: Port) -> Option<Socket> {
    let (state, socket) = inet(line, port)?;
    // TCP_CLOSE is what a socket without a peer is in.
    Some(Socket { is_listening: state == "07", ..socket })
}

/// `sl local_address:port rem_address:port st tx:rx tr:when retrnsmt uid timeout inode`,
/// the addresses, ports and the state in hexadecimal.
fn inet(line: &str, port: Port) -> Option<(&str, Socket)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, number) = fields.get(1)?.rsplit_once(':')?;
    if u16::from_str_radix(number, 16).ok()? != port.number() {
        return None;
    }
    let socket = Socket {
        address: own(words(address)?),
        is_listening: false,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    };
    Some((fields.get(3)?, socket))
}

/// `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS…`, all decimal.
fn sctp(line: &str, port: Port) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if fields.get(5)?.parse::<u16>().ok()? != port.number() {
        return None;
    }
    // With several addresses, it is taken to have them all.
    let address = match fields.get(8..)? {
        [address] => own(address.parse().ok()?),
        _ => HostAddress::Any,
    };
    let (uid, inode) = (fields.get(6)?.parse().ok()?, fields.get(7)?.parse().ok()?);
    Some(Socket { address, is_listening: true, inode, uid })
}

fn own(address: IpAddr) -> HostAddress {
    match address {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => HostAddress::Any,
        address => address.into(),
    }
}

/// An address as words of 32 bits in the byte order of the host.
fn words(text: &str) -> Option<IpAddr> {
    const DIGITS: usize = 8;
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * DIGITS..(at + 1) * DIGITS)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() / DIGITS {
        1 => Some(Ipv4Addr::from(word(0)?).into()),
        4 => {
            let mut octets = [0; 16];
            for (at, to) in octets.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::netlink::namespace::private;

    fn found(protocol: Protocol, address: &str, number: u16) -> Vec<(String, bool)> {
        let port = Port::new(number).unwrap();
        let port = HostPort { protocol, port, address: address.parse().unwrap() };
        let sockets = sockets(&port).unwrap().into_iter();
        sockets.map(|socket| (socket.address.to_string(), socket.is_listening)).collect()
    }

    #[test]
    fn sockets_are_found_by_protocol_port_and_address() {
        private(|| {
            let _tcp = TcpListener::bind("127.0.0.1:80").unwrap();
            let _tcp6 = TcpListener::bind("[::]:81").unwrap();
            let _udp = UdpSocket::bind("[::1]:80").unwrap();
            let loopback = [("127.0.0.1".to_owned(), true)];
            assert_eq!(found(Protocol::Tcp, "", 80), loopback);
            assert_eq!(found(Protocol::Tcp, "127.0.0.1", 80), loopback);
            assert_eq!(found(Protocol::Tcp, "192.0.2.1", 80), []);
            assert_eq!(found(Protocol::Tcp, "0.0.0.0", 81), [(String::new(), true)]);
            assert_eq!(found(Protocol::Udp, "", 80), [("::1".to_owned(), true)]);
            assert_eq!(found(Protocol::Udp, "0.0.0.0", 80), []);
            assert_eq!(found(Protocol::Sctp, "", 80), []);
        });
    }

    #[test]
    fn the_near_end_of_a_connection_does_not_listen() {
        private(|| {
            let server = TcpListener::bind("127.0.0.1:80").unwrap();
            let client = TcpStream::connect("127.0.0.1:80").unwrap();
            let near = client.local_addr().unwrap().port();
            assert_eq!(found(Protocol::Tcp, "", near), [("127.0.0.1".to_owned(), false)]);
            drop((server, client));
        });
    }

    #[test]
    fn lines_of_sctp_are_read() {
        let line = "ffff888004a2 ffff888004a4 2   10  25   9090     0 18453 127.0.0.1 192.0.2.1 ";
        let socket = sctp(line, Port::new(9090).unwrap()).unwrap();
        assert_eq!((socket.address, socket.inode, socket.uid), (HostAddress::Any, 18453, 0));
        let one = line.replace(" 192.0.2.1", "");
        let socket = sctp(&one, Port::new(9090).unwrap()).unwrap();
        assert_eq!(socket.address, "127.0.0.1".parse().unwrap());
        assert_eq!(sctp(line, Port::new(9091).unwrap()), None);
        assert_eq!(sctp("x", Port::new(9091).unwrap()), None);
    }
}
