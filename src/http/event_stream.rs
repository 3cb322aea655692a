//! Server-sent events (HTML Living Standard, 9.2): an answer that goes on.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::answer::{Answer, AnswerBody};
use super::problem::Problem;
use super::server::Server;

/// Events that one client has not read yet; whoever sends the next waits.
const UNREAD_MAX: usize = 8;

/// The longest silence on a stream: a client that has left without a word is noticed by writing,
/// and what stands in between keeps the connection.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What is still to be told to one client. Its answer ends when this is dropped.
#[derive(Debug)]
pub(super) struct EventStream {
    /// Free again before the client sees the end.
    _place: OwnedSemaphorePermit,
    events: mpsc::Sender<Bytes>,
}

impl Server {
    /// Begins a stream. Half of the connections at most are streams, so that those who follow
    /// keep nobody from buying; the next is answered 503.
    pub fn event_stream(&self) -> Result<(EventStream, Answer), Problem> {
        let place = self.stream_places.clone().try_acquire_owned().map_err(|_| {
            let what = "too many event streams are open; ask with ?wait, or try again in a moment";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
        })?;
        let (events, unread) = mpsc::channel(UNREAD_MAX);
        Ok((EventStream { _place: place, events }, answer(AnswerBody::Stream(unread))))
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

/// The head of a stream alone, as HEAD asks for it.
pub(super) fn answer_to_head() -> Answer {
    answer(AnswerBody::whole(Bytes::new()))
}

fn answer(body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_skipped_until_it_reads_on() {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
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
