//! One attempt to find out whether what listens behind an address works.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use axum::{
    body::Body,
    http::{Request, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portclaim::lease::Probe;
use rustix::io::Errno;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time,
};

use super::instance::Address;

const USER_AGENT: &str = concat!("portclaim/", env!("CARGO_PKG_VERSION"));

/// The most that is read of an answer before its status and headers must be complete, in
/// bytes.
const BUFFER: usize = 16 * 1024;
/// How many names are looked up at once; whoever is asked may never answer.
static LOOKUPS: Semaphore = Semaphore::const_new(4);

/// Why an attempt failed, in words that fit a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does not work.
    Theirs(String),
    /// It was not asked, for want of something here.
    Ours(String),
}

/// Tries once. Nothing that is sent back is read but the status.
pub async fn attempt(to: &Address, probe: &Probe, timeout: Duration) -> Result<(), Failure> {
    let addresses = find(to, timeout).await?;
    let attempt = async {
        let stream = TcpStream::connect(&*addresses).await.map_err(|error| describe(&error))?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http(path) => ask(stream, to, path).await,
        }
    };
    let limit = humantime::format_duration(timeout);
    let late = |_| Failure::Theirs(format!("no answer within {limit}"));
    time::timeout(timeout, attempt).await.map_err(late)?
}

/// The addresses of a name. A lookup goes on after the time is over, and keeps its place
/// for so long.
async fn find(to: &Address, timeout: Duration) -> Result<Vec<SocketAddr>, Failure> {
    let (name, port) = match to {
        Address::Ip(address) => return Ok(vec![*address]),
        Address::Name(name, port) => (name.clone(), *port),
    };
    let ours = |reason: &str| Failure::Ours(reason.to_owned());
    let place = time::timeout(timeout, LOOKUPS.acquire()).await;
    let place = place.map_err(|_| ours("too many names are being looked up"))?;
    let place = place.expect("it is never closed");
    let lookup = tokio::spawn(async move {
        let _place = place;
        lookup_host((name, port)).await.map(Iterator::collect::<Vec<_>>)
    });
    match time::timeout(timeout, lookup).await {
        Ok(Ok(Ok(addresses))) => Ok(addresses),
        Ok(Ok(Err(error))) => Err(Failure::Theirs(format!("no address: {error}"))),
        Ok(Err(_)) => Err(ours("the lookup of its name has ended")),
        Err(_) => Err(ours("the lookup of its name takes too long")),
    }
}

fn describe(error: &io::Error) -> Failure {
    let errno = Errno::from_io_error(error);
    if let Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) =
        errno
    {
        return Failure::Ours(error.to_string());
    }
    Failure::Theirs(match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".to_owned(),
        _ => error.to_string(),
    })
}

async fn ask(stream: TcpStream, to: &Address, path: &str) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(header::HOST, to.to_string())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Body::empty())
        .map_err(|error| Failure::Ours(error.to_string()))?;
    let no_http = |_| Failure::Theirs("no HTTP answer".to_owned());
    let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(no_http)?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut response => response,
        // It ends with the answer to the only request, or without one.
        _ = connection => response.await,
    };
    let response = response.map_err(no_http)?;
    match response.status().as_u16() {
        200..=399 => Ok(()),
        status => Err(Failure::Theirs(format!("HTTP {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn run(to: &str, probe: &Probe, timeout: Duration) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(attempt(&to.parse().unwrap(), probe, timeout))
    }

    /// Asks a listener that answers so.
    fn ask(answer: &'static str) -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            _ = stream.write_all(answer.as_bytes());
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let answer = run(&address, &Probe::Http("/healthz?a=b".to_owned()), PATIENCE);
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /healthz?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains(&format!("host: {address}\r\n")), "{request}");
        answer
    }

    #[test]
    fn statuses_are_good_or_bad_and_nothing_else_is_read() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("HTTP/1.1 204 No\r\nContent-Length: 99999999999\r\n\r\nx", None),
            ("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", None),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Some("HTTP 404")),
            ("HTTP/1.1 503 <b>\r\n\r\n", Some("HTTP 503")),
            ("SSH-2.0-OpenSSH_9.2\r\n", Some("no HTTP answer")),
            ("", Some("no HTTP answer")),
        ] {
            assert_eq!(
                ask(answer),
                expected.map_or(Ok(()), |it| Err(Failure::Theirs(it.to_owned())))
            );
        }
    }

    #[test]
    fn a_connection_is_enough_or_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(run(&address, &Probe::Tcp, PATIENCE), Ok(()));
        let by_name = address.replace("127.0.0.1", "localhost");
        assert_eq!(run(&by_name, &Probe::Tcp, PATIENCE), Ok(()));
        // It accepts, and never answers.
        let silent = run(&address, &Probe::Http("/".to_owned()), Duration::from_millis(20));
        assert_eq!(silent, Err(Failure::Theirs("no answer within 20ms".to_owned())));
        drop(listener);
        let refused = run(&address, &Probe::Tcp, PATIENCE);
        assert_eq!(refused, Err(Failure::Theirs("connection refused".to_owned())));
    }
}
