//! Response bodies: complete bytes, or a stream of events.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

use super::stream::ResponseEnd;

pub(super) type Response = hyper::Response<ResponseBody>;

/// A response without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(ResponseBody::whole(""));
    *response.status_mut() = status;
    response
}

#[derive(Debug)]
pub(super) struct ResponseBody {
    content: Content,
    end: Option<ResponseEnd>,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Stream(EventBody),
}

/// Events until their sender is dropped or the client has disconnected. If the client reads too
/// slowly the channel fills up, and the sender decides whether to wait or to skip the client.
struct EventBody {
    events: mpsc::Receiver<Bytes>,
    /// Resolves when the client has disconnected.
    gone: BoxFuture<'static, ()>,
    /// True once an event was sent.
    has_sent: bool,
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBody").field("has_sent", &self.has_sent).finish_non_exhaustive()
    }
}

impl EventBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(next) = self.events.poll_recv(cx) {
            self.has_sent = true;
            return Poll::Ready(next);
        }
        // A client that only closed its sending side looks disconnected, but still gets the first
        // event.
        if self.has_sent {
            ready!(self.gone.as_mut().poll(cx));
            self.events.close();
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

impl ResponseBody {
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let content = Content::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()));
        Self { content, end: None }
    }

    /// A stream that ends when the sender of the events is dropped, or once an event was sent and
    /// `gone` has resolved.
    pub fn stream(events: mpsc::Receiver<Bytes>, gone: BoxFuture<'static, ()>) -> Self {
        Self { content: Content::Stream(EventBody { events, gone, has_sent: false }), end: None }
    }

    /// Drops `end` together with this body: hyper has sent all of it, or does not need it any more.
    pub fn end_with(&mut self, end: ResponseEnd) {
        self.end = Some(end);
    }

    /// The bytes of a complete body; empty for a stream.
    pub fn into_bytes(self) -> Bytes {
        match self.content {
            Content::Whole(bytes) => bytes.unwrap_or_default(),
            Content::Stream(_) => Bytes::new(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.content {
            Content::Whole(bytes) => bytes.take(),
            Content::Stream(events) => ready!(events.poll(cx)),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Stream(_) => SizeHint::default(),
        }
    }
}
