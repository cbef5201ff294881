//! Where the host sends packets for an address: `RTM_GETROUTE`.
//!
//! ```text
//! struct rtmsg   family:u8 dst_len:u8 src_len:u8 tos:u8 table:u8 protocol:u8
//!                scope:u8 type:u8 flags:u32
//! ```

use std::{io, net::IpAddr};

use rustix::io::Errno;

use super::HostError;
use crate::{
    lease::InterfaceName,
    netlink::{self, Request, Socket},
};

const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUTGOING_LINK: u16 = 4;
const LINK_NAME: u16 = 3;
/// `RTN_UNICAST`.
const UNICAST: u8 = 1;
/// `RTN_LOCAL`.
const LOCAL: u8 = 2;
const ROUTE_HEADER_LENGTH: usize = 12;
const LINK_HEADER_LENGTH: usize = 16;

/// The link by which packets to an address leave; none when there is no route
/// to it or it is the host's own.
pub fn link_to(address: IpAddr) -> Result<Option<InterfaceName>, HostError> {
    find_link(address).map_err(|source| HostError::Route { address, source })
}

fn find_link(address: IpAddr) -> io::Result<Option<InterfaceName>> {
    let mut socket = Socket::route()?;
    match look_up(&mut socket, address)? {
        Some(Route { kind: UNICAST, link: Some(index) }) => name(&mut socket, index),
        _ => Ok(None),
    }
}

/// Whether an address is one of the host's own (`fib daddr type local`).
pub(super) fn is_local(socket: &mut Socket, address: IpAddr) -> io::Result<bool> {
    Ok(look_up(socket, address)?.is_some_and(|route| route.kind == LOCAL))
}

struct Route {
    /// `rtm_type`.
    kind: u8,
    link: Option<u32>,
}

fn look_up(socket: &mut Socket, address: IpAddr) -> io::Result<Option<Route>> {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut header = [0; ROUTE_HEADER_LENGTH];
    header[0] = netlink::family(address);
    header[1] = if address.is_ipv4() { 32 } else { 128 };
    let mut request = Request::new(GET_ROUTE, 0, &header);
    request.attribute(ROUTE_DESTINATION, &octets);
    let mut route = None;
    let outcome = socket.call(&request, |message| {
        route = message.body.get(7).map(|kind| Route {
            kind: *kind,
            link: message.attributes(ROUTE_HEADER_LENGTH).number(ROUTE_OUTGOING_LINK),
        });
    });
    match outcome {
        Ok(()) => Ok(route),
        Err(error) => match Errno::from_io_error(&error) {
            // No route, or one of the types unreachable, prohibit and blackhole; and a
            // kernel without IPv6 (`ipv6.disable=1`).
            Some(
                Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::ACCESS
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::AFNOSUPPORT,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

fn name(socket: &mut Socket, index: u32) -> io::Result<Option<InterfaceName>> {
    let mut header = [0; LINK_HEADER_LENGTH];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut name = None;
    let outcome = socket.call(&Request::new(GET_LINK, 0, &header), |message| {
        name = message.attributes(LINK_HEADER_LENGTH).text(LINK_NAME).and_then(|n| n.parse().ok());
    });
    match outcome {
        // Gone since the route was looked up.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        outcome => outcome.map(|()| name),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::netlink::namespace::{private, run};

    #[test]
    fn the_link_is_that_of_the_route() {
        private(|| {
            let link = |address: &str| {
                link_to(address.parse().unwrap()).unwrap().map(|name| name.to_string())
            };
            for address in ["10.1.0.5", "fd00::5"] {
                assert_eq!(link(address), None, "no route to {address} yet");
            }
            run("ip link add cni-0.1 type bridge");
            run("ip link set cni-0.1 up");
            run("ip address add 10.1.0.1/24 dev cni-0.1");
            run("ip address add fd00::1/64 dev cni-0.1 nodad");
            // The kernel adds its local route behind one's back.
            let deadline = Instant::now() + Duration::from_secs(10);
            while run("ip -6 route show table local fd00::1").is_empty() {
                assert!(Instant::now() < deadline, "there is no route");
            }
            run("ip route add 10.2.0.0/16 via 10.1.0.9");
            run("ip route add unreachable 10.3.0.0/16");
            run("ip route add blackhole 10.4.0.0/16");
            run("ip -6 route add prohibit fd03::/64");
            run("ip -6 route add blackhole fd04::/64");
            for address in ["10.1.0.5", "10.2.0.5", "fd00::5"] {
                assert_eq!(link(address).as_deref(), Some("cni-0.1"), "{address}");
            }
            for address in [
                "10.1.0.1",
                "fd00::1",
                "127.0.0.1",
                "::1",
                "10.3.0.5",
                "10.4.0.5",
                "fd03::1",
                "fd04::1",
                "192.0.2.1",
                "10.1.0.255",
                "ff02::1",
            ] {
                assert_eq!(link(address), None, "{address}");
            }
            let mut socket = Socket::route().unwrap();
            for (address, expected) in [
                ("10.1.0.1", true),
                ("127.1.2.3", true),
                ("::1", true),
                ("fd00::1", true),
                ("10.1.0.5", false),
                ("10.1.0.255", false),
                ("192.0.2.1", false),
                ("fd00::5", false),
                ("fd03::1", false),
            ] {
                let found = is_local(&mut socket, address.parse().unwrap()).unwrap();
                assert_eq!(found, expected, "{address}");
            }
        });
    }
}
