//! What somebody who does not read costs: no more than a bounded time and memory.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, SemaphorePermit},
    time::{self, Sleep},
};

use super::refusal::Refusal;

/// How long a client may leave what it was sent unread.
pub const UNREAD: Duration = Duration::from_secs(20);
/// From how many KiB on an answer is a large one, and how many of those there may be
/// under way, of all clients together.
const LARGE: u64 = 256;
const UNDER_WAY: usize = 32 * 1024;
/// How much of a large answer is handed on at once, in bytes.
const PIECE: usize = 64 * 1024;

/// How many KiB of large answers may still be sent.
static LEFT: Semaphore = Semaphore::const_new(UNDER_WAY);

/// A stream that ends when nothing of what is written is taken for [`UNREAD`].
pub struct Patient<S> {
    stream: S,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, waiting: None }
    }

    /// What has come of a write, or that it has been waited for long enough.
    fn outcome<T>(
        &mut self,
        done: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(time::sleep(UNREAD)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.outcome(done, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.outcome(done, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.outcome(done, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A large answer, which has its share of what may be under way until all of it is gone.
struct Large {
    rest: Bytes,
    _share: SemaphorePermit<'static>,
}

impl HttpBody for Large {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Lets large answers be under way up to a bound, and refuses others.
pub async fn bound(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    // Streams have no size.
    let kib = response.body().size_hint().exact().unwrap_or_default() / 1024;
    if kib < LARGE {
        return response;
    }
    let share = u32::try_from(kib).ok().and_then(|kib| LEFT.try_acquire_many(kib).ok());
    let (head, body) = response.into_parts();
    if let (Some(share), Ok(rest)) = (share, to_bytes(body, usize::MAX).await) {
        return Response::from_parts(head, Body::new(Large { rest, _share: share }));
    }
    let message = "too many large answers are under way: ask for fewer rows, or later";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}
