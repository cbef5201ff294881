//! UDP flows that the kernel remembers: `ctnetlink`.
//!
//! A UDP flow keeps the translation of its first packet for as long as packets
//! come. A client that never stops would reach a deleted container after DEL,
//! and, when it began before ADD, never the new one. TCP connections end, and
//! SCTP associations too; they are left alone.
//!
//! ```text
//! original   client → host address : host port
//! reply      container address : container port → client
//! ```
//!
//! The kernel filters the dump since 5.8; older ones send the whole table, so
//! every entry is compared again here. Either way the table is walked once for
//! each port, or once for all of them when there are many.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::io::Errno;

use super::{HostError, route};
use crate::{
    lease::{Forwarding, HostAddress, HostPort, Lease, Protocol},
    netlink::{self, Attributes, Message, Request, Socket},
};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
const GET: u16 = (SUBSYSTEM << 8) + 1;
const DELETE: u16 = (SUBSYSTEM << 8) + 2;
/// `struct nfgenmsg`.
const HEADER_LENGTH: usize = 4;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
/// `NLA_F_NESTED`, for a nested attribute that is copied as it came.
const NESTED: u16 = 0x8000;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Bits of `CTA_FILTER_ORIG_FLAGS`, in host byte order.
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;
/// With more ports than this, all UDP flows are asked for at once.
const FILTERED_PORTS: usize = 8;

/// The UDP flows of this host. The socket is opened when it is first needed.
///
/// It stays open, for the kernel makes whoever closes it wait while elements of
/// `nf_tables` are being deleted, 6 to 16 ms: at the end of a call nobody is kept by
/// that but the caller, and part of that time is over.
#[derive(Debug, Default)]
pub struct Flows {
    socket: Option<Socket>,
}

impl Flows {
    /// On ADD: forgets the flows to these host ports that lead anywhere else than to
    /// their containers, so that their next packet does. Only what is addressed to the
    /// host itself: a flow that passes through the node to the same port number of
    /// another host goes on. Returns how many were forgotten.
    pub fn forget_others<'a>(
        &mut self,
        forwardings: impl IntoIterator<Item = &'a Forwarding>,
    ) -> Result<usize, HostError> {
        let mut locals = HashMap::new();
        let mut routes = None;
        self.forget(&mut forwardings.into_iter(), &mut |flow, lease, container| {
            if flow.leads_to(container, lease) {
                return Ok(false);
            }
            if flow.destination == specific(lease.host.address) {
                return Ok(true);
            }
            let Some(destination) = flow.destination else { return Ok(false) };
            if let Some(local) = locals.get(&destination) {
                return Ok(*local);
            }
            let socket = match &mut routes {
                Some(socket) => socket,
                None => routes.insert(Socket::route()?),
            };
            let local = route::is_local(socket, destination)?;
            locals.insert(destination, local);
            Ok(local)
        })
    }

    /// On DEL: forgets the flows to these host ports that lead to their containers.
    /// Returns how many were forgotten.
    pub fn forget_own<'a>(
        &mut self,
        forwardings: impl IntoIterator<Item = &'a Forwarding>,
    ) -> Result<usize, HostError> {
        self.forget(&mut forwardings.into_iter(), &mut |flow, lease, container| {
            Ok(flow.leads_to(container, lease))
        })
    }

    /// Goes on after an error, and returns the first.
    fn forget(
        &mut self,
        forwardings: &mut dyn Iterator<Item = &Forwarding>,
        is_stale: &mut IsStale<'_>,
    ) -> Result<usize, HostError> {
        let targets = forwardings.flat_map(|forwarding| {
            forwarding.container.iter().flat_map(|container| {
                let leases = forwarding.leases.iter();
                let forwarded = leases.filter(move |lease| is_forwarded(&lease.host, container));
                forwarded.map(move |lease| (lease, container))
            })
        });
        let (v4, v6): (Vec<Target<'_>>, Vec<_>) =
            targets.partition(|(_, container)| container.is_ipv4());
        let mut forgotten = 0;
        let mut first_error = None;
        for targets in [v4, v6] {
            let batch_length = if targets.len() > FILTERED_PORTS { targets.len() } else { 1 };
            for batch in targets.chunks(batch_length) {
                match self.forget_batch(batch, is_stale) {
                    Ok(count) => forgotten += count,
                    Err(source) => {
                        let (lease, _) = batch[0];
                        first_error
                            .get_or_insert(HostError::Conntrack { port: lease.host, source });
                    }
                }
            }
        }
        first_error.map_or(Ok(forgotten), Err)
    }

    /// All of these lead to addresses of one family.
    fn forget_batch(
        &mut self,
        targets: &[Target<'_>],
        is_stale: &mut IsStale<'_>,
    ) -> io::Result<usize> {
        let Some((first, container)) = targets.first() else { return Ok(0) };
        let mut by_port: HashMap<u16, Vec<Target<'_>>> = HashMap::new();
        for target in targets {
            by_port.entry(target.0.host.port.number()).or_default().push(*target);
        }
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Socket::netfilter()?),
        };
        let family = netlink::family(*container);
        let request = request(family, (targets.len() == 1).then(|| first.host.port.number()));
        let flows = socket.dump(&request, |message| {
            let flow = Flow::read(message)?;
            let mut targets = by_port.get(&flow.destination_port)?.iter();
            let target = *targets.find(|(lease, _)| flow.is_to(&lease.host))?;
            Some((flow, target))
        })?;
        let mut forgotten = 0;
        for (flow, (lease, container)) in flows {
            if is_stale(&flow, lease, container)? {
                match socket.call(&flow.deletion(family), |_| ()) {
                    Ok(()) => forgotten += 1,
                    // It ended meanwhile.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(forgotten)
    }
}

/// Whether a flow is to be forgotten that is to the port of a lease of this container.
type IsStale<'a> = dyn FnMut(&Flow, &Lease, IpAddr) -> io::Result<bool> + 'a;

/// A lease, and where it leads.
type Target<'a> = (&'a Lease, IpAddr);

fn is_forwarded(host: &HostPort, container: IpAddr) -> bool {
    host.protocol == Protocol::Udp
        && if container.is_ipv4() { host.address.has_v4() } else { host.address.has_v6() }
}

fn specific(address: HostAddress) -> Option<IpAddr> {
    match address {
        HostAddress::V4(address) => Some(address.into()),
        HostAddress::V6(address) => Some(address.into()),
        HostAddress::Any | HostAddress::AnyV4 | HostAddress::AnyV6 => None,
    }
}

/// Asks for the UDP flows to a port. Not to an address: the kernel (6.18) filters
/// by an IPv6 destination the wrong way round.
fn request(family: u8, port: Option<u16>) -> Request {
    let mut flags = BY_PROTOCOL;
    let mut request = Request::new(GET, 0, &[family, 0, 0, 0]);
    request.nested(ORIGINAL, |tuple| {
        tuple.nested(TUPLE_PROTOCOL, |protocol| {
            protocol.attribute(PROTOCOL_NUMBER, &[Protocol::Udp.number()]);
            if let Some(port) = port {
                flags |= BY_DESTINATION_PORT;
                protocol.attribute(DESTINATION_PORT, &port.to_be_bytes());
            }
        });
    });
    request.nested(FILTER, |filter| {
        filter.attribute(FILTER_ORIGINAL, &flags.to_ne_bytes());
    });
    request
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    /// `CTA_TUPLE_ORIG`, as it came: an entry is deleted by its whole tuple.
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
    protocol: u8,
    destination: Option<IpAddr>,
    destination_port: u16,
    reply_source: Option<IpAddr>,
    reply_source_port: u16,
}

impl Flow {
    fn read(message: Message<'_>) -> Option<Self> {
        let attributes = message.attributes(HEADER_LENGTH);
        let original = attributes.nested(ORIGINAL)?;
        let reply = attributes.nested(REPLY)?;
        let transport = original.nested(TUPLE_PROTOCOL)?;
        Some(Self {
            original: attributes.find(ORIGINAL)?.to_vec(),
            id: attributes.find(ID).map(<[u8]>::to_vec),
            zone: attributes.find(ZONE).map(<[u8]>::to_vec),
            protocol: *transport.find(PROTOCOL_NUMBER)?.first()?,
            destination: address(&original, V4_DESTINATION, V6_DESTINATION),
            destination_port: port(&transport, DESTINATION_PORT)?,
            reply_source: address(&reply, V4_SOURCE, V6_SOURCE),
            reply_source_port: port(&reply.nested(TUPLE_PROTOCOL)?, SOURCE_PORT)?,
        })
    }

    /// Whether it is a flow to this port of one of these addresses, or of any
    /// address where that is meant.
    fn is_to(&self, host: &HostPort) -> bool {
        self.protocol == host.protocol.number()
            && self.destination_port == host.port.number()
            && specific(host.address).is_none_or(|address| self.destination == Some(address))
    }

    fn leads_to(&self, container: IpAddr, lease: &Lease) -> bool {
        self.reply_source == Some(container)
            && self.reply_source_port == lease.container_port.number()
    }

    /// By tuple, id and zone, so that nothing else is met: not even an entry of
    /// the same tuple that has been made since.
    fn deletion(&self, family: u8) -> Request {
        let mut request = Request::new(DELETE, 0, &[family, 0, 0, 0]);
        request.attribute(ORIGINAL | NESTED, &self.original);
        for (kind, value) in [(ID, &self.id), (ZONE, &self.zone)] {
            if let Some(value) = value {
                request.attribute(kind, value);
            }
        }
        request
    }
}

fn address(tuple: &Attributes<'_>, v4: u16, v6: u16) -> Option<IpAddr> {
    let addresses = tuple.nested(TUPLE_ADDRESSES)?;
    if let Some(octets) = addresses.find(v4) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(addresses.find(v6)?).ok()?).into())
}

fn port(transport: &Attributes<'_>, kind: u16) -> Option<u16> {
    Some(u16::from_be_bytes(transport.find(kind)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::namespace::{private, run};

    /// `port` is a host port, or a host address and a port.
    fn forwarding(leases: &[(&str, u16)]) -> Forwarding {
        let leases: Vec<_> = leases
            .iter()
            .map(|(address, port)| {
                format!(
                    r#"{{"protocol":"udp","hostPort":{port},"hostIP":"{address}","containerPort":53}}"#
                )
            })
            .collect();
        serde_json::from_str(&format!(
            r#"{{"network":"n","containerID":"c","ifname":"eth0","since":0,
                "container":{{"v4":"10.1.0.5","v6":"fd00::5"}},"leases":[{}]}}"#,
            leases.join(",")
        ))
        .unwrap()
    }

    /// An entry of the table, named by its client.
    fn insert(client: &str, destination: &str, port: u16, leads_to: &str, to_port: u16) {
        run(&format!(
            "conntrack -I -p udp -t 600 -s {client} -d {destination} --sport 4000 --dport {port} \
             -r {leads_to} -q {client} --reply-port-src {to_port} --reply-port-dst 4000"
        ));
    }

    /// The clients of the entries that are left.
    fn clients() -> Vec<String> {
        let listed = run("conntrack -L -f ipv4") + &run("conntrack -L -f ipv6");
        let client = |line: &str| {
            line.split_once("src=")
                .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
        };
        let mut clients: Vec<_> = listed.lines().filter_map(client).collect();
        clients.sort();
        clients
    }

    fn fill() {
        run("ip address add 192.0.2.1/32 dev lo");
        run("ip address add 192.0.2.2/32 dev lo");
        run("ip address add 2001:db8::1/128 dev lo");
        let (host, other_host) = ("192.0.2.1", "192.0.2.2");
        insert("198.51.100.1", host, 5353, "10.1.0.5", 53); // ours
        insert("198.51.100.2", host, 5353, "10.1.0.4", 53); // a deleted container's
        insert("198.51.100.3", host, 5353, host, 5353); // the host's own, before ADD
        insert("198.51.100.4", other_host, 5353, "10.1.0.4", 53); // another host address
        insert("198.51.100.5", "203.0.113.9", 5353, "203.0.113.9", 5353); // passing through
        insert("198.51.100.6", host, 5354, "10.1.0.5", 53); // another port
        insert("198.51.100.7", host, 5353, "10.1.0.5", 54); // another container port
        insert("2001:db8::c1", "2001:db8::1", 5353, "fd00::5", 53); // ours
        insert("2001:db8::c2", "2001:db8::1", 5353, "fd00::4", 53); // a deleted container's
        insert("2001:db8::c5", "2001:db8:9::9", 5353, "2001:db8:9::9", 5353); // passing through
        run(
            "conntrack -I -p tcp -t 600 -s 198.51.100.9 -d 192.0.2.1 --sport 4000 --dport 5353 --state ESTABLISHED",
        );
        assert_eq!(clients().len(), 11);
    }

    fn gone(before: &[String]) -> Vec<String> {
        let after = clients();
        before.iter().filter(|client| !after.contains(client)).cloned().collect()
    }

    #[test]
    fn add_forgets_what_leads_elsewhere() {
        private(|| {
            fill();
            let before = clients();
            assert_eq!(
                Flows::default().forget_others([&forwarding(&[("192.0.2.1", 5353)])]).unwrap(),
                3
            );
            assert_eq!(gone(&before), ["198.51.100.2", "198.51.100.3", "198.51.100.7"]);
            assert_eq!(Flows::default().forget_others([&forwarding(&[("", 5353)])]).unwrap(), 2);
            let others =
                ["198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.7", "2001:db8::c2"];
            assert_eq!(gone(&before), others);
            assert_eq!(Flows::default().forget_others([&forwarding(&[("", 5353)])]).unwrap(), 0);
        });
    }

    #[test]
    fn del_forgets_what_leads_to_the_container() {
        private(|| {
            fill();
            let before = clients();
            assert_eq!(
                Flows::default().forget_own([&forwarding(&[("0.0.0.0", 5353)])]).unwrap(),
                1
            );
            assert_eq!(gone(&before), ["198.51.100.1"]);
            assert_eq!(
                Flows::default().forget_own([&forwarding(&[("192.0.2.2", 5354)])]).unwrap(),
                0
            );
            assert_eq!(
                Flows::default()
                    .forget_own([&forwarding(&[("", 5353), ("192.0.2.1", 5354)])])
                    .unwrap(),
                2
            );
            assert_eq!(gone(&before), ["198.51.100.1", "198.51.100.6", "2001:db8::c1"]);
        });
    }

    #[test]
    fn many_ports_are_looked_for_at_once() {
        private(|| {
            fill();
            let before = clients();
            let mut leases = vec![("", 5353)];
            leases.extend((6000..6020).map(|port| ("", port)));
            assert_eq!(Flows::default().forget_own([&forwarding(&leases)]).unwrap(), 2);
            assert_eq!(gone(&before), ["198.51.100.1", "2001:db8::c1"]);
        });
    }

    #[test]
    fn the_kernel_filters_by_port() {
        private(|| {
            fill();
            let mut socket = Socket::netfilter().unwrap();
            let mut count = |port| socket.dump(&request(2, port), Flow::read).unwrap().len();
            assert_eq!((count(None), count(Some(5353))), (7, 6));
        });
    }

    #[test]
    fn zones_are_kept_apart() {
        private(|| {
            insert("198.51.100.1", "192.0.2.1", 5353, "10.1.0.5", 53);
            run(
                "conntrack -I -w 7 -p udp -t 600 -s 198.51.100.1 -d 192.0.2.1 --sport 4000 --dport 5353 \
                 -r 10.1.0.4 -q 198.51.100.1 --reply-port-src 53 --reply-port-dst 4000",
            );
            assert_eq!(Flows::default().forget_own([&forwarding(&[("", 5353)])]).unwrap(), 1);
            assert!(run("conntrack -L").contains("zone=7"));
            assert_eq!(clients().len(), 1);
        });
    }

    #[test]
    fn entries_without_their_parts_are_passed_over() {
        for body in [&[][..], &[2, 0, 0, 0], &[2, 0, 0, 0, 4, 0, 1, 0x80, 4, 0, 2, 0x80]] {
            assert_eq!(Flow::read(Message { kind: GET, flags: 0, sequence: 0, body }), None);
        }
    }
}
