//! What an answer is made of: bytes that are there, or a stream of those that come.

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

/// Events as they come, until their sender is dropped or the client has gone. A client that cannot
/// keep up holds up the sender, or is skipped by it, as the sender likes.
struct EventBody {
    coming: mpsc::Receiver<Bytes>,
    /// Resolves when the client has gone.
    gone: BoxFuture<'static, ()>,
    /// True once the client was sent something.
    begun: bool,
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBody").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl EventBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(next) = self.coming.poll_recv(cx) {
            self.begun = true;
            return Poll::Ready(next);
        }
        // A client that only stopped sending is told the present state before the end.
        if self.begun {
            ready!(self.gone.as_mut().poll(cx));
            self.coming.close();
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

    /// Ends when the events' sender is dropped, or after an event when `gone` resolves.
    pub fn stream(coming: mpsc::Receiver<Bytes>, gone: BoxFuture<'static, ()>) -> Self {
        Self { content: Content::Stream(EventBody { coming, gone, begun: false }), end: None }
    }

    /// Drops `end` when all of this was sent or is not needed any more.
    pub fn end_with(&mut self, end: ResponseEnd) {
        self.end = Some(end);
    }

    /// All of it that is there.
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
