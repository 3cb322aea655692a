//! Server-sent events (HTML ProcessStatus Standard, 9.2): an answer that goes on.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::client::Client;
use super::response::{Response, ResponseBody};
use super::waits::WaitPlace;

/// A proxy must neither keep events nor change them: one that compresses holds them back.
const NOT_KEPT: &str = "no-cache, no-store, no-transform";
/// To nginx, which holds answers back until its buffer is full.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Events that one client has not read yet; whoever sends the next waits.
const UNREAD_MAX: usize = 8;

/// The longest silence on a stream: a client that has left without a word is noticed by writing,
/// and what stands in between keeps the connection.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// When an EventSource asks again after its stream has ended, and after it got no place to wait.
pub(super) const RETRY: Duration = Duration::from_secs(2);
const RETRY_FULL: Duration = Duration::from_secs(5);

/// What is still to be told to one client. Its answer ends when this is dropped.
#[derive(Debug)]
pub(super) struct EventStream {
    /// Free again before the client sees the end.
    _place: WaitPlace,
    events: mpsc::Sender<Bytes>,
}

impl EventStream {
    /// Begins a stream, which ends when its client has gone.
    pub fn open(place: WaitPlace, client: &Client) -> (Self, Response) {
        let (events, unread) = mpsc::channel(UNREAD_MAX);
        let body = ResponseBody::stream(unread, Box::pin(client.gone()));
        (Self { _place: place, events }, response(body))
    }

    /// Waits while the client has too much to read; false when it has gone. Safe to cancel.
    pub async fn send(&self, event: Bytes) -> bool {
        self.events.send(event).await.is_ok()
    }

    /// Skips a client that has too much to read; false when it has gone.
    pub fn offer(&self, event: Bytes) -> bool {
        !matches!(self.events.try_send(event), Err(mpsc::error::TrySendError::Closed(_)))
    }

    /// Resolves when the client has gone, as far as that is known.
    pub async fn closed(&self) {
        self.events.closed().await;
    }
}

/// A stream of one event, for a client that has no place to wait: it asks again after [`RETRY_FULL`].
pub(super) fn only(event: &Bytes) -> Response {
    let mut response = response(ResponseBody::whole(with_retry(RETRY_FULL, event)));
    let seconds = HeaderValue::from(RETRY_FULL.as_secs());
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

/// An event that also says after which pause an EventSource asks again when its stream has ended.
pub(super) fn with_retry(pause: Duration, event: &[u8]) -> Bytes {
    [format!("retry: {}\n", pause.as_millis()).as_bytes(), event].concat().into()
}

/// The head of a stream alone, as HEAD asks for it.
pub(super) fn head_only() -> Response {
    response(ResponseBody::whole(Bytes::new()))
}

fn response(body: ResponseBody) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NOT_KEPT));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// One event, with an id where the client is to name it when it comes again. `data` is JSON on one
/// line, as serde_json writes it.
pub(super) fn event(name: &str, id: Option<&str>, data: &[u8]) -> Bytes {
    debug_assert!(!data.contains(&b'\n'), "a second line would need a field name of its own");
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    let head = format!("{id}event: {name}\ndata: ");
    [head.as_bytes(), data, b"\n\n"].concat().into()
}

/// A comment, which only keeps the connection alive.
pub(super) fn keep_alive() -> Bytes {
    Bytes::from_static(b":\n\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::waits::Waits;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_skipped_until_it_reads_on() {
        let place = Arc::new(Waits::default()).take(None, 1).unwrap();
        let (events, mut unread) = mpsc::channel(UNREAD_MAX);
        let stream = EventStream { _place: place, events };
        for number in 0..100 {
            assert!(stream.offer(event("n", None, number.to_string().as_bytes())));
        }
        for number in 0..UNREAD_MAX {
            let expected = event("n", None, number.to_string().as_bytes());
            assert_eq!(unread.try_recv().unwrap(), expected);
        }
        assert!(unread.try_recv().is_err());
        assert!(stream.offer(keep_alive()) && unread.try_recv().unwrap() == keep_alive());
        drop(unread);
        assert!(!stream.offer(keep_alive()));
    }
}
