//! Reads request bodies within bounds of size and time.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header;
use hyper::http::request;
use tokio::time::timeout;

use super::access::Access;
use super::problem::Problem;

/// Maximum body size in bytes, unless a handler allows more.
const BODY_MAX: usize = 16 * 1024;
/// Maximum bytes of an unwanted body that are read and discarded. Some clients read the response
/// only after they have sent the whole body.
const DRAIN_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    read_timeout: Duration,
    /// Bytes received so far.
    received: usize,
    /// True if the rest will not arrive or is not worth waiting for.
    given_up: bool,
}

impl RequestBody {
    pub fn new(incoming: Incoming, head: &request::Parts, read_timeout: Duration) -> Self {
        // A client that waits for 100 Continue sends no body until it is read.
        let given_up = head.headers.contains_key(header::EXPECT);
        Self { incoming, read_timeout, received: 0, given_up }
    }

    /// Reads the whole body, at most 16 KiB.
    pub async fn read(&mut self) -> Result<Bytes, Problem> {
        self.read_at_most(BODY_MAX).await
    }

    /// Reads the whole body, at most `max` bytes, which must be whole KiB.
    pub async fn read_at_most(&mut self, max: usize) -> Result<Bytes, Problem> {
        if self.incoming.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }
        self.given_up = false;
        let timed = timeout(self.read_timeout, self.gather(max)).await;
        timed.unwrap_or_else(|_| {
            self.given_up = true;
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))
        })
    }

    async fn gather(&mut self, max: usize) -> Result<Bytes, Problem> {
        let mut first = Bytes::new();
        let mut joined = Vec::new();
        while let Some(data) = self.next().await? {
            if self.received > max {
                return Err(too_large(max));
            }
            if first.is_empty() {
                first = data;
            } else {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
        }
        Ok(if joined.is_empty() { first } else { joined.into() })
    }

    /// Whether part of the body is unread.
    pub fn is_unread(&self) -> bool {
        !self.incoming.is_end_stream()
    }

    /// Reads and discards the rest. False if it is too long or does not arrive; then the connection
    /// cannot be reused.
    pub async fn drain(mut self) -> bool {
        if self.incoming.is_end_stream() {
            return true;
        }
        let left = self.incoming.size_hint().lower();
        if self.given_up || left > DRAIN_MAX.saturating_sub(self.received) as u64 {
            return false;
        }
        let read_timeout = self.read_timeout;
        let to_end = async {
            while self.received <= DRAIN_MAX {
                match self.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
            false
        };
        timeout(read_timeout, to_end).await.unwrap_or(false)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| {
                self.given_up = true;
                Problem::bad_request("the body ended early, or its chunks are malformed")
            })?;
            if let Ok(data) = frame.into_data() {
                self.received += data.len();
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Refuses a body whose `Content-Type` is not JSON. Without that header a body is read as JSON if
/// the request has a credential, so that simple clients may leave it out.
pub(super) fn expect_json(head: &request::Parts, access: &Access) -> Result<(), Problem> {
    let is_json = match head.headers.get(header::CONTENT_TYPE) {
        None => !access.requires_content_type(head),
        Some(kind) => {
            let essence = kind.as_bytes().split(|b| *b == b';').next().unwrap_or_default();
            essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
        }
    };
    if is_json {
        return Ok(());
    }
    let what = "send the body as JSON, with Content-Type: application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what))
}

fn too_large(max: usize) -> Problem {
    let what = format!("the body must be at most {} KiB", max / 1024);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what)
}
