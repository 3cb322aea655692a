//! A connection's stream, within bounds of time, and what the connection is doing. hyper bounds
//! neither how long a client takes to read, nor an idle connection apart from a slow head, and it
//! does not notice a client that leaves while its answer is being made.

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

/// How often a connection with unread bytes is checked for its client having left.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long the client of a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Before the first byte of a request.
    pub idle: Duration,
    /// From the first byte of a request's head to the last.
    pub head: Duration,
    /// To read on in an answer.
    pub write: Duration,
}

/// What a connection is doing. Shared by its stream, its requests and the server.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Phase>);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No byte of a next request is here.
    Idle(Instant),
    /// Some of a request's head is here.
    Head(Instant),
    Answering,
    /// hyper has all of the answer, and writes it.
    Ended,
}

/// IdempotencyStore, when dropped, that hyper has all of an answer.
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

    /// A request's head was read. It is being answered until the result is dropped.
    pub fn answering(self: &Arc<Self>) -> ResponseEnd {
        *self.phase() = Phase::Answering;
        ResponseEnd(self.clone())
    }

    /// Since when the connection is idle, if it is.
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

    /// Until when the client has to send.
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

/// Resolves when the client has closed its side of the connection, or the connection broke. A
/// client that closed only the side on which it sends cannot be told from one that left.
pub(super) async fn gone(reader: Arc<OwnedReadHalf>) {
    let stream: &TcpStream = (*reader).as_ref();
    // Bytes of a next request hide the end behind them from a read.
    while stream.peek(&mut [0]).await.is_ok_and(|there| there > 0) {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(CHECK_EVERY).await,
            _ => return,
        }
    }
}

/// The side of a connection on which its client sends, shared with those who wait for [`gone`].
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
            let room = buffer.remaining();
            let mut partly = false;
            // A read that does not fill the buffer has emptied the socket. Reporting it as blocked
            // spares the read that would find that out, as tokio's own reads do.
            let read = stream.try_io(Interest::READABLE, || match stream.try_read_buf(buffer) {
                Ok(count) if 0 < count && count < room => {
                    partly = true;
                    Err(ErrorKind::WouldBlock.into())
                }
                read => read,
            });
            match read {
                Err(e) if e.kind() == ErrorKind::WouldBlock && !partly => {}
                Err(e) if !partly => return Poll::Ready(Err(e)),
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
    /// Runs while a write waits for the client to read.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Fires no later than the client's time to send is over.
    alarm: Option<Pin<Box<Sleep>>>,
    /// The client's time to send was over.
    late: bool,
    /// Status of an answer that hyper made by itself, to what it could not read. It is not sent:
    /// the server's own answer takes its place.
    bare: Option<StatusCode>,
}

impl BoundedStream {
    /// A read or write for which the client takes longer than it may fails with `TimedOut`.
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
            stalled: None,
            alarm: None,
            late: false,
            bare: None,
        }
    }

    /// Whether the client's time to send was over.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// What hyper would have answered to something that is not HTTP.
    pub fn bare_answer(&self) -> Option<StatusCode> {
        self.bare
    }

    pub fn into_inner(self) -> (SocketReader, OwnedWriteHalf) {
        (self.reader.into_inner(), self.writer.into_inner())
    }

    /// Bounds a read that found nothing.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(deadline) = self.activity.deadline(&self.timeouts) else { return Poll::Pending };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < alarm.deadline() {
            alarm.as_mut().reset(deadline);
        }
        // One alarm serves many requests: it is set again only when it fires.
        while alarm.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                self.late = true;
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write_timeout = self.timeouts.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(Error::from(ErrorKind::TimedOut)))
    }

    /// Whether these bytes are an answer by hyper itself, where no request is being answered.
    fn swallow(&mut self, bytes: &[u8]) -> bool {
        if self.bare.is_none() && !self.activity.is_answering() {
            // HTTP/1.1 400 Bad Request
            let status = bytes.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
            self.bare = Some(status.unwrap_or(StatusCode::BAD_REQUEST));
        }
        self.bare.is_some()
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
            Poll::Pending => self.poll_late(cx),
        }
    }
}

impl Write for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        if self.swallow(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.writer).poll_write(cx, bytes);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if self.swallow(slices.first().map_or(&[], |first| first)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.writer).poll_write_vectored(cx, slices);
        self.bounded(cx, written)
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
        // The server's own last answer is still to be written.
        if self.bare.is_some() || self.late {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
