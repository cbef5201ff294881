//! As much SCTP as NAT can be tested with: INIT, and INIT-ACK for an answer.
//!
//! Sockets are raw, so that a kernel without SCTP will do; its connection tracking
//! follows the protocol all the same, and drops what has a wrong checksum.
//!
//! ```text
//! common header (RFC 9260, section 3.1), then one chunk
//!  0      2      4       8      12   13    14     16
//!  source dest.  tag     CRC32c kind flags length value…
//! value of INIT, INIT-ACK (sections 3.3.2, 3.3.3)
//!  16     20     24      26     28    32
//!  tag    window streams streams TSN  parameters…
//! ```
//!
//! The answer travels as the state cookie, a parameter of INIT-ACK (section 3.3.3.1).

use std::{
    io::PipeReader,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto,
        recvfrom, sendto, socket_with,
    },
};

use crate::traffic::{Answer, readable};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const STATE_COOKIE: u16 = 7;
/// Where the parameters of INIT and INIT-ACK begin.
const PARAMETERS: usize = 32;
/// How often INIT is sent again.
const RETRY: Duration = Duration::from_millis(100);

/// The parts of a packet that matter here.
struct Packet<'a> {
    source: u16,
    destination: u16,
    tag: u32,
    kind: u8,
    initiate_tag: u32,
    cookie: &'a [u8],
}

impl<'a> Packet<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut parameters = Vec::new();
        if self.kind == INIT_ACK {
            parameters.extend(STATE_COOKIE.to_be_bytes());
            parameters.extend(length(4 + self.cookie.len()));
            parameters.extend(self.cookie);
        }
        let mut packet = Vec::new();
        packet.extend(self.source.to_be_bytes());
        packet.extend(self.destination.to_be_bytes());
        packet.extend(self.tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([self.kind, 0]);
        packet.extend(length(PARAMETERS - 12 + parameters.len()));
        packet.extend(self.initiate_tag.to_be_bytes());
        packet.extend(65_535_u32.to_be_bytes());
        packet.extend([0, 1, 0, 1]);
        packet.extend(1_u32.to_be_bytes());
        packet.extend(parameters);
        packet.resize(packet.len().next_multiple_of(4), 0);
        let checksum = crc32c(&packet);
        packet[8..12].copy_from_slice(&checksum.to_le_bytes());
        packet
    }

    /// None if it is cut short or its checksum is wrong.
    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let u16_at = |at| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let u32_at = |at| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let mut blank = bytes.to_vec();
        blank.get_mut(8..12)?.fill(0);
        if crc32c(&blank).to_le_bytes() != bytes[8..12] {
            return None;
        }
        let kind = *bytes.get(12)?;
        let cookie = match kind {
            INIT_ACK => bytes.get(PARAMETERS + 4..PARAMETERS + usize::from(u16_at(34)?))?,
            _ => &[],
        };
        Some(Self {
            source: u16_at(0)?,
            destination: u16_at(2)?,
            tag: u32_at(4)?,
            kind,
            initiate_tag: u32_at(16)?,
            cookie,
        })
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a test's packet is short").to_be_bytes()
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

fn raw_socket(family: IpAddr) -> OwnedFd {
    let domain = match family {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::SCTP))
        .expect("root may make raw sockets")
}

/// The next packet and where it is from; none if there is no whole one.
fn receive(socket: &OwnedFd, buffer: &mut [u8; 2048]) -> Option<(usize, usize, IpAddr)> {
    let (_, length, from) = recvfrom(socket, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
    let from = SocketAddr::try_from(from?).ok()?.ip();
    // A raw IPv4 socket gives the IP header, too (raw(7)); an IPv6 one does not.
    let start = if from.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
    (start <= length).then_some((start, length, from))
}

/// Answers on a port until it shall stop; `::` stands for both families.
pub fn serve(address: SocketAddr, stop: &PipeReader, name: &str, ready: &mpsc::Sender<()>) {
    let families: &[IpAddr] = if address.ip().is_unspecified() {
        &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
    } else {
        &[address.ip()]
    };
    std::thread::scope(|scope| {
        for family in families {
            let socket = raw_socket(*family);
            bind(&socket, &SocketAddr::from((*family, 0))).expect("the address is here");
            scope.spawn(move || serve_family(&socket, address.port(), stop, name));
        }
        ready.send(()).expect("the test waits for it");
    });
}

fn serve_family(socket: &OwnedFd, port: u16, stop: &PipeReader, name: &str) {
    let mut buffer = [0; 2048];
    while readable(socket.as_fd(), stop) {
        let Some((start, end, client)) = receive(socket, &mut buffer) else { continue };
        let Some(init) = Packet::decode(&buffer[start..end]) else { continue };
        if init.kind != INIT || init.destination != port {
            continue;
        }
        let answer = Packet {
            source: port,
            destination: init.source,
            tag: init.initiate_tag,
            kind: INIT_ACK,
            initiate_tag: 1,
            cookie: Answer::encode(name, client).as_bytes(),
        }
        .encode();
        let _ = sendto(socket, &answer, SendFlags::empty(), &SocketAddr::from((client, 0)));
    }
}

/// Asks a server, where the calling thread is; none if nobody answers in time.
pub fn ask(server: SocketAddr, patience: Duration) -> Option<Answer> {
    let socket = raw_socket(server.ip());
    // Only packets from the server are received then.
    connect(&socket, &SocketAddr::from((server.ip(), 0))).ok()?;
    let source = fastrand::u16(32768..);
    let tag = fastrand::u32(1..);
    let init = Packet {
        source,
        destination: server.port(),
        tag: 0,
        kind: INIT,
        initiate_tag: tag,
        cookie: &[],
    }
    .encode();
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let _ = rustix::net::send(&socket, &init, SendFlags::empty());
        let retry = Instant::now() + RETRY;
        while let Some(left) = retry.checked_duration_since(Instant::now()) {
            let timeout = Timespec::try_from(left).expect("a short time");
            let mut fds = [PollFd::new(&socket, PollFlags::IN)];
            poll(&mut fds, Some(&timeout)).expect("a socket can be polled");
            let mut buffer = [0; 2048];
            let Some((start, end, _)) = receive(&socket, &mut buffer) else { continue };
            let Some(reply) = Packet::decode(&buffer[start..end]) else { continue };
            if (reply.kind, reply.tag, reply.destination) == (INIT_ACK, tag, source) {
                return Answer::decode(reply.cookie);
            }
        }
    }
    None
}
