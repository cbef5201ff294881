//! Servers that tell who they are and whom they see, and clients with a deadline.

use std::{
    io::{PipeReader, PipeWriter, Read as _, Write as _, pipe},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use portclaim::lease::Protocol;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{namespace::Namespace, sctp};

/// How long an answer that must come may take.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How long to look for an answer that must not come. Answers take under a
/// millisecond here, and every such test proves with an answer that must come
/// that its way is open.
pub const SILENCE: Duration = Duration::from_millis(300);

/// How often a client of a protocol without retransmission asks.
const RETRY: Duration = Duration::from_millis(100);

/// Who answered, and the client's address as it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The client's address.
    pub client: IpAddr,
}

impl Answer {
    /// As it is sent: `name address`.
    pub fn encode(server: &str, client: IpAddr) -> String {
        format!("{server} {}", client.to_canonical())
    }

    /// As it was received; none if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (server, client) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        Some(Self { server: server.to_owned(), client: client.parse().ok()? })
    }
}

/// A server that answers everyone with its name and the client's address, until
/// it is dropped.
pub struct Echo {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Serves on every address of both families.
    pub fn start(namespace: &Namespace, protocol: Protocol, port: u16, name: &str) -> Self {
        Self::start_on(namespace, protocol, (Ipv6Addr::UNSPECIFIED, port).into(), name)
    }

    /// Serves on one address, or on every address of both families for `::`.
    pub fn start_on(
        namespace: &Namespace,
        protocol: Protocol,
        address: SocketAddr,
        name: &str,
    ) -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        let (ready, started) = mpsc::channel();
        let name = name.to_owned();
        let thread = namespace.enter(move || {
            // A thread begins in the namespace of the one that makes it.
            thread::spawn(move || match protocol {
                Protocol::Tcp => serve_tcp(address, &reader, &name, &ready),
                Protocol::Udp => serve_udp(address, &reader, &name, &ready),
                Protocol::Sctp => sctp::serve(address, &reader, &name, &ready),
            })
        });
        started.recv().expect("the server binds its address");
        Self { stop: Some(writer), thread: Some(thread) }
    }
}

/// Servers of every protocol on one port of every address.
pub fn serve(namespace: &Namespace, port: u16, name: &str) -> [Echo; 3] {
    Protocol::ALL.map(|protocol| Echo::start(namespace, protocol, port, name))
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until one of the sockets can be read; false once the server shall stop.
pub fn readable(socket: BorrowedFd<'_>, stop: &PipeReader) -> bool {
    let mut fds = [
        PollFd::from_borrowed_fd(socket, PollFlags::IN),
        PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return fds[1].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

fn serve_tcp(address: SocketAddr, stop: &PipeReader, name: &str, ready: &mpsc::Sender<()>) {
    let listener = TcpListener::bind(address).expect("the address is free");
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    ready.send(()).expect("the test waits for it");
    while readable(listener.as_fd(), stop) {
        // The client may have gone already.
        let Ok((mut stream, peer)) = listener.accept() else { continue };
        let _ = stream.write_all(Answer::encode(name, peer.ip()).as_bytes());
    }
}

fn serve_udp(address: SocketAddr, stop: &PipeReader, name: &str, ready: &mpsc::Sender<()>) {
    let socket = UdpSocket::bind(address).expect("the address is free");
    ready.send(()).expect("the test waits for it");
    while readable(socket.as_fd(), stop) {
        // An ICMP error of an earlier answer may be all there is.
        let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) else { continue };
        let _ = socket.send_to(Answer::encode(name, peer.ip()).as_bytes(), peer);
    }
}

/// Asks a server from inside a namespace; none if nobody answers in time.
pub fn ask(
    namespace: &Namespace,
    protocol: Protocol,
    server: SocketAddr,
    patience: Duration,
) -> Option<Answer> {
    match protocol {
        Protocol::Tcp => namespace.enter(|| ask_tcp(server, patience)),
        Protocol::Udp => Flow::new(namespace, server).ask(patience),
        Protocol::Sctp => namespace.enter(|| sctp::ask(server, patience)),
    }
}

fn ask_tcp(server: SocketAddr, patience: Duration) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, patience).ok()?;
    stream.set_read_timeout(Some(patience)).expect("the time is not zero");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Answer::decode(&answer)
}

/// A UDP client that keeps its socket, so that all it sends is one flow.
pub struct Flow(UdpSocket);

impl Flow {
    /// A flow from inside a namespace, of which nothing is sent yet.
    pub fn new(namespace: &Namespace, server: SocketAddr) -> Self {
        Self(namespace.enter(|| {
            let any: IpAddr = match server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).expect("some port is free");
            socket.connect(server).expect("there is a route");
            socket
        }))
    }

    /// Sends until an answer comes; none if none comes in time.
    pub fn ask(&self, patience: Duration) -> Option<Answer> {
        self.0.set_read_timeout(Some(RETRY)).expect("the time is not zero");
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            // Sending fails where receiving would: an ICMP error came before.
            let _ = self.0.send(b"who?");
            let wait = Instant::now() + RETRY;
            while Instant::now() < wait {
                let mut answer = [0; 128];
                match self.0.recv(&mut answer) {
                    Ok(length) => return Answer::decode(&answer[..length]),
                    // Nothing yet: the time is over. Refused: try again when it is.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                        thread::yield_now();
                    }
                    Err(_) => break,
                }
            }
        }
        None
    }
}
