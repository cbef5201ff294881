//! Serving connections so that slow and hostile clients keep nobody out: a number of
//! connections at most, each with a time for its headers and for its answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::{net::sockopt::set_tcp_user_timeout, process::geteuid};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time,
};

use super::{
    patience::{self, Patient, UNREAD},
    refusal::Refusal,
};
use crate::{
    places::{Place, Places},
    socket,
};

/// How many connections there may be at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// How long a client may take to send its request line and headers.
const HEADERS: Duration = Duration::from_secs(5);
/// The largest request line and headers, in bytes.
const BUFFER: usize = 16 * 1024;
/// How many connections one user may have over the Unix socket; root and the server's own
/// as many as there are.
static OF_USERS: LazyLock<Places<Who>> = LazyLock::new(|| Places::new(CONNECTIONS / 2, 64));
/// How long an answer may take to begin.
const ANSWER: Duration = Duration::from_secs(10);

/// What every answer says of how it may be used: nothing of others is loaded, nothing
/// is framed.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Address(SocketAddr),
    /// Over the Unix socket: the user that the kernel names.
    User(u32),
}

/// A client: an address, or a user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Address(IpAddr),
    User(u32),
}

/// Where connections come from.
trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn next(&self) -> io::Result<(Self::Stream, Peer)>;
}

impl Peer {
    pub fn who(self) -> Who {
        match self {
            Self::Address(address) => Who::Address(address.ip()),
            Self::User(uid) => Who::User(uid),
        }
    }

    /// Its place beside those of all others; none for who needs none.
    fn place(self) -> Result<Option<Place<Who>>, Full> {
        match self {
            Self::User(uid) if uid != 0 && uid != geteuid().as_raw() => {
                OF_USERS.take(self.who()).map(Some).ok_or(Full)
            }
            _ => Ok(None),
        }
    }
}

/// There is no place.
struct Full;

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, peer) = self.accept().await?;
        // Who does not read its answer for so long is gone.
        let limit = UNREAD.as_millis().try_into().expect("it is a few seconds");
        set_tcp_user_timeout(&stream, limit)?;
        Ok((stream, Peer::Address(peer)))
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = socket::user_of(&stream)?;
        Ok((stream, Peer::User(uid)))
    }
}

/// Serves whoever connects, over either.
pub async fn serve(tcp: TcpListener, unix: Option<UnixListener>, router: Router) {
    let router = router
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn(patience::bound))
        .layer(middleware::from_fn(guard));
    if let Some(unix) = unix {
        // Those of the host itself have places of their own.
        tokio::spawn(serve_all(unix, router.clone()));
    }
    serve_all(tcp, router).await;
}

async fn serve_all(listener: impl Listener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        let (stream, peer) = match listener.next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Gone again, or too many open files, which passes.
                log::warn!("cannot accept a connection: {error}");
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Who has too many is sent away: to wait would be at the cost of others.
        let Ok(own) = peer.place() else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            serve_one(stream, peer, router).await;
            drop((place, own));
        });
    }
}

async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        TowerToHyperService::new(router.clone()).call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(BUFFER);
    // How a connection ends is nobody's business but the client's.
    _ = builder.serve_connection(TokioIo::new(Patient::new(stream)), service).await;
}

async fn in_time(request: Request, next: Next) -> Response {
    match time::timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this takes too long").into_response()
        }
    }
}

async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
