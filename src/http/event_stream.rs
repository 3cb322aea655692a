//! Server-sent events (HTML Standard, 9.2).

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::client::Client;
use super::response::{Response, ResponseBody};
use super::waits::WaitPermit;

/// Proxies must neither store events nor transform them: compression would delay them.
const NO_CACHE: &str = "no-cache, no-store, no-transform";
/// Turns off the response buffer of nginx, which would delay events.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Maximum unread events of one client; the sender of the next one waits.
const UNREAD_MAX: usize = 8;

/// Maximum time without a write on a stream. Only a write reveals a client that is gone without
/// closing the connection, and proxies close silent connections.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Reconnect delays of an EventSource: after its stream has ended, and after it got no permit.
pub(super) const RETRY: Duration = Duration::from_secs(2);
const RETRY_FULL: Duration = Duration::from_secs(5);

/// The sending side of one client's stream. Dropping it ends the response.
#[derive(Debug)]
pub(super) struct EventStream {
    /// The first field, so that it is released before the client sees the end of the stream.
    _permit: WaitPermit,
    events: mpsc::Sender<Bytes>,
}

impl EventStream {
    /// Begins a stream, which ends when its client disconnects.
    pub fn open(permit: WaitPermit, client: &Client) -> (Self, Response) {
        let (events, unread) = mpsc::channel(UNREAD_MAX);
        let body = ResponseBody::stream(unread, Box::pin(client.gone()));
        (Self { _permit: permit, events }, response(body))
    }

    /// Sends an event; waits while the client has too many unread ones. False if the client is gone.
    /// Cancel-safe.
    pub async fn send(&self, event: Bytes) -> bool {
        self.events.send(event).await.is_ok()
    }

    /// Sends an event unless the client has too many unread ones. False if the client is gone.
    pub fn offer(&self, event: Bytes) -> bool {
        !matches!(self.events.try_send(event), Err(mpsc::error::TrySendError::Closed(_)))
    }

    /// Resolves when the response has ended, for example because the client is gone.
    pub async fn closed(&self) {
        self.events.closed().await;
    }
}

/// A stream of one event, for a client without a permit. It reconnects after [`RETRY_FULL`].
pub(super) fn single(event: &Bytes) -> Response {
    let mut response = response(ResponseBody::whole(with_retry(RETRY_FULL, event)));
    let seconds = HeaderValue::from(RETRY_FULL.as_secs());
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

/// An event that also sets the reconnect delay of an EventSource.
pub(super) fn with_retry(pause: Duration, event: &[u8]) -> Bytes {
    [format!("retry: {}\n", pause.as_millis()).as_bytes(), event].concat().into()
}

/// The response to a HEAD request for a stream.
pub(super) fn head_only() -> Response {
    response(ResponseBody::whole(Bytes::new()))
}

fn response(body: ResponseBody) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NO_CACHE));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// One event. An EventSource that reconnects sends the last `id` that it received. `data` must be
/// one line, such as the JSON of serde_json.
pub(super) fn event(name: &str, id: Option<&str>, data: &[u8]) -> Bytes {
    debug_assert!(!data.contains(&b'\n'), "each line of data needs its own field name");
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    let head = format!("{id}event: {name}\ndata: ");
    [head.as_bytes(), data, b"\n\n"].concat().into()
}

/// A comment, which keeps the connection alive.
pub(super) fn keep_alive() -> Bytes {
    Bytes::from_static(b":\n\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::waits::Waits;

    #[tokio::test]
    async fn client_that_does_not_read_is_skipped() {
        let permit = Arc::new(Waits::default()).acquire(None, 1).unwrap();
        let (events, mut unread) = mpsc::channel(UNREAD_MAX);
        let stream = EventStream { _permit: permit, events };
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
