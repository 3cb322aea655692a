//! Server-sent events (HTML Living Standard, 9.2): an answer that goes on.

use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request;
use tokio::sync::mpsc;

use super::access::Caller;
use super::connection::Client;
use super::response::{Answer, AnswerBody};
use super::server::Server;
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

impl Server {
    /// Begins a stream, which ends when its client has gone; `None` if its client has as many
    /// waits as it may, or all together have.
    pub fn event_stream(
        &self,
        head: &request::Parts,
        client: &Client,
    ) -> Option<(EventStream, Answer)> {
        let place = self.place_to_wait(head, client)?;
        let (events, unread) = mpsc::channel(UNREAD_MAX);
        let body = AnswerBody::stream(unread, Box::pin(client.gone()));
        Some((EventStream { _place: place, events }, answer(body)))
    }

    /// A place among those who wait for something to happen, while there is one for this client.
    pub fn place_to_wait(&self, head: &request::Parts, client: &Client) -> Option<WaitPlace> {
        let address = match self.caller(head) {
            // They wait for many.
            Caller::Admin | Caller::Shop => None,
            _ => Some(self.counted_address(head, client.peer)),
        };
        self.waits.take(address, self.connections_max())
    }
}

impl EventStream {
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
pub(super) fn only(event: &Bytes) -> Answer {
    let mut answer = answer(AnswerBody::whole(with_retry(RETRY_FULL, event)));
    let seconds = HeaderValue::from(RETRY_FULL.as_secs());
    answer.headers_mut().insert(header::RETRY_AFTER, seconds);
    answer
}

/// An event that also says after which pause an EventSource asks again when its stream has ended.
pub(super) fn with_retry(pause: Duration, event: &[u8]) -> Bytes {
    [format!("retry: {}\n", pause.as_millis()).as_bytes(), event].concat().into()
}

/// The head of a stream alone, as HEAD asks for it.
pub(super) fn answer_to_head() -> Answer {
    answer(AnswerBody::whole(Bytes::new()))
}

fn answer(body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NOT_KEPT));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    answer
}

/// One event, with an id where the client is to name it when it comes again. `data` is JSON on one
/// line, as serde_json writes it.
pub(super) fn event(name: &str, id: Option<&str>, data: &[u8]) -> Bytes {
    debug_assert!(!data.contains(&b'\n'), "a second line would need a field name of its own");
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    let head = format!("{id}event: {name}\ndata: ");
    [head.as_bytes(), data, b"\n\n"].concat().into()
}

/// Says nothing, but says it.
pub(super) fn beat() -> Bytes {
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
        assert!(stream.offer(beat()) && unread.try_recv().unwrap() == beat());
        drop(unread);
        assert!(!stream.offer(beat()));
    }
}
