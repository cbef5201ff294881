//! A netlink socket: one request at a time, answered or refused by a deadline.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect,
        netlink::{self, SocketAddrNetlink},
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout},
    },
};

use super::message::{self, Message, Request};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`.
const ACK: u16 = 0x04;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the table changed while it was read.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`; with error 0 an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// What a socket may send at once without being asked, and less (`wmem_default`).
const SEND_LENGTH: usize = 64 * 1024;

/// How long the kernel may take for the next part of an answer. It answers in
/// the call that sends, so this is only ever reached when something is broken.
const DEADLINE: Duration = Duration::from_secs(5);
/// The kernel fills dumps up to 32 KiB a datagram.
const RECEIVE_LENGTH: usize = 64 * 1024;
/// How often a dump is started over because the table changed meanwhile.
const DUMP_ATTEMPTS: u32 = 16;

/// A transaction is not known to be carried out. The socket may hold more answers, or
/// have lost some and be closed to those of what follows: it is not to be used again.
#[derive(Debug)]
pub enum Failed {
    /// Nothing of it was carried out.
    Refused {
        /// The message that the kernel refused; none where it was all of them.
        message: Option<usize>,
        /// Why.
        source: io::Error,
    },
    /// The kernel was given it, and what came of it was not received.
    Unanswered(io::Error),
}

/// What becomes of a transaction that the kernel would carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is carried out.
    Commit,
    /// Nothing of it is: it was to be tried only.
    Abort,
}

/// A socket to one subsystem of the kernel. Requests carry sequence numbers, and
/// what answers an earlier one is passed over. It is connected to the kernel, so
/// no process can answer in its place.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// To `NETLINK_NETFILTER`: `nf_tables` and conntrack.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// To `NETLINK_ROUTE`: links, addresses and routes.
    pub fn route() -> io::Result<Self> {
        // Its number is 0, which rustix spells as none.
        Self::open(None)
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        connect(&socket, &kernel)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
        Ok(Self { descriptor: socket, sequence: 0, buffer: vec![0; RECEIVE_LENGTH] })
    }

    /// Sends a request, hands each message of the answer to `each`, and returns
    /// once the kernel has acknowledged it or with the error that it gave.
    pub fn call(&mut self, request: &Request, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.exchange(request, ACK, &mut each).map(drop)
    }

    /// Asks for a table and returns what `read` makes of its entries. Starts over
    /// when the table changed while the kernel listed it.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut entries = Vec::new();
            if self.exchange(request, DUMP, &mut |message| entries.extend(read(message)))? {
                return Ok(entries);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("the table changed while it was read, {DUMP_ATTEMPTS} times in a row"),
        ))
    }

    /// Has the kernel carry out messages of a subsystem of nfnetlink, all of them or none.
    ///
    /// ```text
    /// begin · message … · last message, which asks for an answer · end
    /// ```
    ///
    /// An error has the number of the message that it is about. The kernel answers in
    /// this order, so the first answer tells what came of it.
    pub fn transact(
        &mut self,
        subsystem: u16,
        messages: &[Request],
        end: End,
    ) -> Result<(), Failed> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let mut push = |request: &Request, flags| {
            self.sequence = self.sequence.wrapping_add(1);
            request.stamp(REQUEST | flags, self.sequence, &mut datagram);
        };
        // `struct nfgenmsg`: the subsystem in network byte order.
        let [high, low] = subsystem.to_be_bytes();
        let limit = |kind| Request::new(kind, 0, &[0, 0, high, low]);
        push(&limit(BATCH_BEGIN), 0);
        for (index, message) in messages.iter().enumerate() {
            push(message, if index == last { ACK } else { 0 });
        }
        if end == End::Commit {
            push(&limit(BATCH_END), 0);
        }
        if datagram.len() > SEND_LENGTH {
            // Where that is not allowed, sending fails, and says so.
            _ = set_socket_send_buffer_size_force(&self.descriptor, datagram.len());
        }
        let sent = retry_on_intr(|| send(&self.descriptor, &datagram, SendFlags::empty()));
        sent.map_err(|error| Failed::Refused { message: None, source: error.into() })?;
        loop {
            let received = self.receive().map_err(Failed::Unanswered)?;
            for message in Message::all(&self.buffer[..received]) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind == ERROR && index <= messages.len() {
                    let message_of = index.checked_sub(1);
                    let refused = |source| Failed::Refused { message: message_of, source };
                    return outcome(message).map_err(refused);
                }
            }
        }
    }

    /// Returns whether the answer is consistent.
    fn exchange(
        &mut self,
        request: &Request,
        flags: u16,
        each: &mut dyn FnMut(Message<'_>),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.stamped(REQUEST | flags, self.sequence);
        retry_on_intr(|| send(&self.descriptor, &bytes, SendFlags::empty()))?;
        let mut consistent = true;
        loop {
            let received = self.receive()?;
            let mut messages = 0;
            for message in Message::all(&self.buffer[..received]) {
                messages += 1;
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                match message.kind {
                    ERROR | DONE => return outcome(message).map(|()| consistent),
                    _ => each(message),
                }
            }
            if messages == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("netlink reply of {received} bytes holds no message"),
                ));
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut receive =
            || retry_on_intr(|| recv(&self.descriptor, &mut self.buffer[..], RecvFlags::TRUNC));
        let received = match receive() {
            // There were more answers than the socket holds: the first ones are there.
            Err(Errno::NOBUFS) => receive(),
            received => received,
        };
        let (_, length) = received.map_err(|error| match error {
            Errno::AGAIN => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no netlink reply within {} s", DEADLINE.as_secs()),
            ),
            error => error.into(),
        })?;
        if length > self.buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("netlink reply of {length} bytes: at most {RECEIVE_LENGTH} are read"),
            ));
        }
        Ok(length)
    }
}

/// What an `NLMSG_ERROR` or `NLMSG_DONE` says: 0, or an error number made
/// negative. Some dumps end without one.
fn outcome(message: Message<'_>) -> io::Result<()> {
    match message::number(message.body, 0).unwrap_or(0).cast_signed() {
        error if error < 0 => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::socketpair;

    use super::{super::namespace::private, *};

    const GET_LINK: u16 = 18;
    const IFLA_IFNAME: u16 = 3;

    fn links(socket: &mut Socket) -> Vec<String> {
        let request = Request::new(GET_LINK, 0, &[0; 16]);
        let name =
            |message: Message<'_>| message.attributes(16).text(IFLA_IFNAME).map(str::to_owned);
        socket.dump(&request, name).unwrap()
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        private(|| {
            for number in 0..100 {
                super::super::namespace::run(&format!(
                    "ip link add a{number} type veth peer name b{number}"
                ));
            }
            let mut socket = Socket::route().unwrap();
            let found = links(&mut socket);
            assert_eq!(found.len(), 201, "{found:?}");
            // The socket is in step for the next request.
            assert_eq!(links(&mut socket).len(), 201);
        });
    }

    #[test]
    fn an_error_is_the_kernels() {
        private(|| {
            let mut socket = Socket::route().unwrap();
            let mut request = Request::new(GET_LINK, 0, &[0; 16]);
            request.text(IFLA_IFNAME, "absent0");
            let error = socket.call(&request, |_| ()).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::NODEV));
            assert_eq!(links(&mut socket), ["lo"]);
        });
    }

    #[test]
    fn without_an_answer_nothing_is_said_to_be_refused() {
        // Takes everything and never answers.
        let (descriptor, _silent) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
        set_socket_timeout(&descriptor, Timeout::Recv, Some(Duration::from_millis(1))).unwrap();
        let mut socket = Socket { descriptor, sequence: 0, buffer: vec![0; RECEIVE_LENGTH] };
        let request = Request::new(0, 0, &[0; 4]);
        let failed = socket.transact(0, &[request], End::Commit).unwrap_err();
        let Failed::Unanswered(source) = failed else { panic!("{failed:?}") };
        assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_done_without_a_number_is_no_error() {
        let message = Message { kind: DONE, flags: 0, sequence: 0, body: &[] };
        assert!(outcome(message).is_ok());
        let minimum = i32::MIN.to_ne_bytes();
        assert!(outcome(Message { body: &minimum, ..message }).is_err());
    }
}
