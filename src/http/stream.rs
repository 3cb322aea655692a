//! A connection's stream with timeouts, and the connection's state. hyper has no timeout for clients
//! that do not read, has one timeout for both idle connections and slow heads, and does not notice a
//! client that disconnects while its response is being prepared.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How often a connection with unread bytes is checked for a disconnected client.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Maximum wait for the first byte of a request.
    pub idle: Duration,
    /// Maximum time from the first to the last byte of a request head.
    pub head: Duration,
    /// Maximum wait for a client that does not read its response.
    pub write: Duration,
}

/// The phase of a connection. Shared by its stream, its requests and the server.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Phase>);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No byte of the next request has arrived; since when.
    Idle(Instant),
    /// Part of a request head has arrived; since when.
    Head(Instant),
    /// A request is being handled.
    Answering,
    /// hyper has the whole response and is writing it.
    Ended,
}

/// Records, when dropped, that hyper has the whole response.
#[derive(Debug)]
pub(super) struct ResponseEnd(Arc<Activity>);

impl Drop for ResponseEnd {
    fn drop(&mut self) {
        *self.0.phase() = Phase::Ended;
    }
}

impl Activity {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Phase::Idle(Instant::now()))))
    }

    /// Records that a request head was read. The response lasts until the result is dropped.
    pub fn answering(self: &Arc<Self>) -> ResponseEnd {
        *self.phase() = Phase::Answering;
        ResponseEnd(self.clone())
    }

    /// Since when the connection is idle; `None` if it is not.
    pub fn idle_since(&self) -> Option<Instant> {
        match *self.phase() {
            Phase::Idle(since) => Some(since),
            _ => None,
        }
    }

    fn is_answering(&self) -> bool {
        matches!(*self.phase(), Phase::Answering | Phase::Ended)
    }

    fn received(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    fn flushed(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Ended) {
            *phase = Phase::Idle(Instant::now());
        }
    }

    /// Until when the client must send; `None` while a request is being handled.
    fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        match *self.phase() {
            Phase::Idle(since) => Some(since + timeouts.idle),
            Phase::Head(since) => Some(since + timeouts.head),
            Phase::Answering | Phase::Ended => None,
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when the client has closed its sending side, or the connection broke. TCP does not show
/// whether such a client still reads.
pub(super) async fn gone(reader: Arc<OwnedReadHalf>) {
    let stream: &TcpStream = (*reader).as_ref();
    // Unread bytes of the next request hide the end of the stream from a read.
    while stream.peek(&mut [0]).await.is_ok_and(|count| count > 0) {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(CHECK_EVERY).await,
            _ => return,
        }
    }
}

/// The reading half of a connection, shared with the callers of [`gone`].
#[derive(Debug)]
pub(super) struct SocketReader(pub Arc<OwnedReadHalf>);

impl AsyncRead for SocketReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let stream: &TcpStream = (*self.0).as_ref();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let capacity = buffer.remaining();
            let mut is_partial = false;
            // A read that does not fill the buffer has emptied the socket. Like tokio's own reads,
            // this reports it as blocked, which saves a read that would return nothing.
            let read = stream.try_io(Interest::READABLE, || match stream.try_read_buf(buffer) {
                Ok(count) if 0 < count && count < capacity => {
                    is_partial = true;
                    Err(ErrorKind::WouldBlock.into())
                }
                read => read,
            });
            match read {
                Err(e) if e.kind() == ErrorKind::WouldBlock && !is_partial => {}
                Err(e) if !is_partial => return Poll::Ready(Err(e)),
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct BoundedStream {
    reader: TokioIo<SocketReader>,
    writer: TokioIo<OwnedWriteHalf>,
    activity: Arc<Activity>,
    timeouts: Timeouts,
    /// Timer of a write that waits for the client to read.
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Timer that fires no later than the read deadline.
    read_timer: Option<Pin<Box<Sleep>>>,
    /// True if the client missed the read deadline.
    is_late: bool,
    /// Status of hyper's own response to malformed HTTP. It is not sent; the server sends a problem
    /// in its place.
    hyper_status: Option<StatusCode>,
}

impl BoundedStream {
    /// Reads and writes that exceed the timeouts fail with `TimedOut`.
    pub fn new(
        reader: Arc<OwnedReadHalf>,
        writer: OwnedWriteHalf,
        activity: Arc<Activity>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            reader: TokioIo::new(SocketReader(reader)),
            writer: TokioIo::new(writer),
            activity,
            timeouts,
            write_timer: None,
            read_timer: None,
            is_late: false,
            hyper_status: None,
        }
    }

    /// Whether the client missed the read deadline.
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// The status of hyper's own response to malformed HTTP, which was not sent.
    pub fn suppressed_status(&self) -> Option<StatusCode> {
        self.hyper_status
    }

    pub fn into_inner(self) -> (SocketReader, OwnedWriteHalf) {
        (self.reader.into_inner(), self.writer.into_inner())
    }

    /// Fails a read that found nothing once the deadline has passed.
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(deadline) = self.activity.deadline(&self.timeouts) else { return Poll::Pending };
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        // Deadlines mostly move later, so the timer is reset only when it fires, not per request.
        while timer.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                self.is_late = true;
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Fails a write that has been blocked for the write timeout.
    fn with_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let write_timeout = self.timeouts.write;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Error::from(ErrorKind::TimedOut)))
    }

    /// Whether these bytes are hyper's own error response. hyper has no hook for it; but hyper is the
    /// only writer while no request is being handled, so whatever is written then is that response.
    fn is_suppressed(&mut self, bytes: &[u8]) -> bool {
        if self.hyper_status.is_none() && !self.activity.is_answering() {
            // HTTP/1.1 400 Bad Request
            let status = bytes.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
            self.hyper_status = Some(status.unwrap_or(StatusCode::BAD_REQUEST));
        }
        self.hyper_status.is_some()
    }
}

impl Read for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        match Pin::new(&mut self.reader).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                self.activity.received();
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_read_deadline(cx),
        }
    }
}

impl Write for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        if self.is_suppressed(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.writer).poll_write(cx, bytes);
        self.with_timeout(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if self.is_suppressed(slices.first().map_or(&[], |first| first)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.writer).poll_write_vectored(cx, slices);
        self.with_timeout(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(Pin::new(&mut self.writer).poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // The server still has to write its own last response.
        if self.hyper_status.is_some() || self.is_late {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
