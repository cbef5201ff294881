//! A client that keeps its connection and costs little: much is to be asked of a server
//! on the same machine.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

/// Longer than anybody should wait; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection from where the calling thread is.
pub struct Connection {
    stream: BufReader<TcpStream>,
    to: SocketAddr,
    body: Vec<u8>,
}

impl Connection {
    /// Connects, from this address.
    pub fn open(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddr::new(from, 0))?;
        connect(&socket, &to)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), to, body: Vec::new() })
    }

    /// The status of the answer, and how long it is; with one that does not end, as soon
    /// as it begins.
    pub fn get(&mut self, path: &str) -> io::Result<(u16, usize)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.to);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
            } else if let Some(rest) = text.strip_prefix("content-length: ") {
                length = rest.parse().unwrap_or_default();
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        Ok((status, length))
    }

    /// The connection itself, to end it while somebody reads.
    pub fn end(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("there are descriptors left")
    }

    /// Reads what comes until it ends.
    pub fn drain(&mut self) -> io::Result<u64> {
        io::copy(&mut self.stream, &mut io::sink())
    }
}

/// The most memory that a process ever had resident, in bytes; none once it has given
/// that back.
pub fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
