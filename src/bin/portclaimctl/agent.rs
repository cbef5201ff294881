//! `portclaimctl agent`: serves callers that are not root, one request each.
//!
//! Who asks is what the kernel says of the socket (`SO_PEERCRED`), whatever the
//! request says. Anybody may connect, so nobody is waited for: a request is small
//! and comes within [`PATIENCE`], or is answered with why it is refused. And nobody
//! keeps others out: one user has few places, and all who are of no module, of
//! however many users, have as few together. Users of other sources than
//! `/etc/passwd` can be named in the modules file by their number.

use std::{
    io::{self, BufReader, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use portclaim::{lease::Excerpt, module::Action};
use rustix::net::{
    AddressFamily,
    sockopt::{socket_acceptconn, socket_domain},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    places::Places,
    service::{self, Answer, Failure},
    site, socket,
};

/// How long a caller may take to send its request, and to read the reply.
const PATIENCE: Duration = Duration::from_secs(5);
/// In bytes.
const REQUEST_LIMIT: u64 = 64 * 1024;
/// How many callers are served at once, in all and of one user.
const CALLERS: usize = 64;
const CALLERS_OF_ONE_USER: usize = 8;
/// How much more of a request is read that is refused.
const DRAINED: u64 = 1024 * 1024;

#[derive(Args)]
pub struct Options {
    /// Listen on this socket, which anybody may connect to; without it, on the one
    /// that is standard input, as systemd passes it
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,

    #[command(flatten)]
    file: service::ModulesFile,
}

/// What a caller sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    action: String,
    #[serde(default)]
    data: Value,
}

pub fn run(options: &Options, site: &site::Options) -> anyhow::Result<ExitCode> {
    let listener = match &options.listen {
        Some(path) => socket::listen(path)?,
        None => inherited()?,
    };
    serve_all(&listener, site, options);
    Ok(ExitCode::SUCCESS)
}

/// The listening socket that a service with `StandardInput=socket` has.
fn inherited() -> anyhow::Result<UnixListener> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
    let is_listening = socket_domain(&stdin) == Ok(AddressFamily::UNIX)
        && socket_acceptconn(&stdin).is_ok_and(|listens| listens);
    if !is_listening {
        bail!("stdin is no Unix socket that listens: say --listen PATH, or let systemd start it");
    }
    Ok(UnixListener::from(stdin))
}

fn serve_all(listener: &UnixListener, site: &site::Options, options: &Options) {
    // None: all users that are no module's.
    let callers = Places::new(CALLERS, CALLERS_OF_ONE_USER);
    thread::scope(|scope| {
        for stream in listener.incoming() {
            // Who is gone again needs no reply; too many open files pass.
            let Ok(stream) = stream else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let Ok(uid) = socket::user_of(&stream) else { continue };
            // What is wrong with the file, the reply says.
            let policy = options.file.read().unwrap_or_default();
            let is_known = policy.caller(uid, socket::name_of(uid).as_deref()).is_ok();
            let place = callers.take(is_known.then_some(uid));
            let spawned = place.map(|place| {
                let stream = stream.try_clone()?;
                thread::Builder::new().spawn_scoped(scope, move || {
                    serve(&stream, uid, site, options);
                    drop(place);
                })
            });
            if !matches!(spawned, Some(Ok(_))) {
                let busy = anyhow::anyhow!("the agent serves too many callers at once");
                // Not waited for: the reply is small, or is not wanted.
                _ = stream.set_nonblocking(true);
                _ = reply(&stream, Err(Failure::from(busy)));
            }
        }
    });
}

fn serve(stream: &UnixStream, uid: u32, site: &site::Options, options: &Options) {
    let answer = read(stream).and_then(|request| carry_out(uid, &request, site, options));
    if let Err(failure) = &answer {
        log::warn!("user {uid}: {failure}");
    }
    // A caller that is gone has had its ports all the same, and finds them in its file.
    if reply(stream, answer).is_ok() {
        // Closed with anything unread, be it a line's end, the socket would be reset
        // before the caller has read to the end.
        let rest = Patient { stream, until: Instant::now() + PATIENCE };
        _ = io::copy(&mut rest.take(DRAINED), &mut io::sink());
    }
}

fn carry_out(
    uid: u32,
    request: &Request,
    site: &site::Options,
    options: &Options,
) -> Result<Answer, Failure> {
    // Opened for each: the configuration may have changed.
    let mut modules = service::open(site, &options.file)?;
    let caller = modules.policy().caller(uid, socket::name_of(uid).as_deref())?;
    let action = Action::parse(&request.action, &request.data)?;
    service::carry_out(&mut modules, &caller, &action)
}

/// Reads one request: to the end of its JSON, whether or not the caller closes.
fn read(stream: &UnixStream) -> Result<Request, Failure> {
    let patient = Patient { stream, until: Instant::now() + PATIENCE };
    let mut limited = BufReader::new(patient).take(REQUEST_LIMIT);
    let request = serde_json::Deserializer::from_reader(&mut limited).into_iter().next();
    let is_too_large = limited.limit() == 0;
    match request {
        Some(Ok(request)) => Ok(request),
        _ if is_too_large => {
            Err(Failure::invalid(format!("the request is larger than {REQUEST_LIMIT} bytes")))
        }
        Some(Err(error)) if error.io_error_kind() == Some(ErrorKind::TimedOut) => {
            Err(Failure::invalid(format!("the request is not there within {PATIENCE:?}")))
        }
        Some(Err(error)) => {
            let reason = Excerpt::plain(&error.to_string());
            Err(Failure::invalid(format!("the request cannot be read: {reason}")))
        }
        None => Err(Failure::invalid("the request is empty")),
    }
}

fn reply(mut stream: &UnixStream, answer: Result<Answer, Failure>) -> io::Result<()> {
    let mut text = match answer {
        Ok(answer) => serde_json::to_vec(&answer)?,
        Err(failure) => serde_json::to_vec(&failure.to_json())?,
    };
    text.push(b'\n');
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&text)?;
    stream.shutdown(Shutdown::Write)
}

/// A socket that is read until a moment, however slowly it sends.
struct Patient<'s> {
    stream: &'s UnixStream,
    until: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_the_places() {
        let callers = Places::new(CALLERS, CALLERS_OF_ONE_USER);
        for user in [Some(1001), None] {
            let of_one: Vec<_> = (0..9).map(|_| callers.take(user)).collect();
            assert_eq!(of_one.iter().flatten().count(), CALLERS_OF_ONE_USER);
            assert!(callers.take(Some(1002)).is_some());
        }
        let all: Vec<_> = (0..9).flat_map(|uid| (0..8).map(move |_| uid)).collect();
        let all: Vec<_> = all.into_iter().filter_map(|uid| callers.take(Some(uid))).collect();
        assert_eq!(all.len(), CALLERS);
        drop(all);
        assert!(callers.is_empty());
    }

    /// Whatever a caller sends, or does not send, it is told why that is refused.
    #[test]
    fn requests_are_bounded() {
        let ask = |text: &[u8], closes: bool| {
            let (mut caller, agent) = UnixStream::pair().unwrap();
            thread::scope(|scope| {
                let read = scope.spawn(move || read(&agent).map(|request| request.action));
                _ = caller.write_all(text);
                if closes {
                    caller.shutdown(Shutdown::Write).unwrap();
                }
                read.join().unwrap().map_err(|failure| failure.to_string())
            })
        };
        let right = br#"{"action": "x",
            "data": {}}"#;
        assert_eq!(ask(right, false).unwrap(), "x");
        assert_eq!(ask(b"", true).unwrap_err(), "the request is empty");
        let cut = ask(br#"{"action": "x""#, true).unwrap_err();
        assert!(cut.contains("EOF while parsing"), "{cut}");
        let garbage = ask(b"\xff\x00GET / HTTP/1.1\r\n\r\n", true).unwrap_err();
        assert!(garbage.starts_with("the request cannot be read: "), "{garbage}");
        let unknown = ask(br#"{"action": "x", "uid": 0}"#, true).unwrap_err();
        assert!(unknown.contains("unknown field"), "{unknown}");
        let large = format!("{{\"action\": \"{}", "x".repeat(100_000));
        assert_eq!(
            ask(large.as_bytes(), false).unwrap_err(),
            "the request is larger than 65536 bytes"
        );
        let deep = "[".repeat(1000);
        assert!(ask(deep.as_bytes(), true).is_err());
        let slow = Instant::now();
        let late = ask(br#"{"action""#, false).unwrap_err();
        assert_eq!(late, "the request is not there within 5s");
        assert!(slow.elapsed() < PATIENCE * 2);
    }
}
