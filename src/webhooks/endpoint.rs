//! The shop's endpoint: its URL, and the meaning of its responses.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Request, StatusCode, Uri};

use super::signature::{Secrets, sign};
use crate::adapters::http_client::HttpClient;
use crate::clear_text::confidential_url;
use crate::core::model::{Timestamp, rfc3339};

/// Bytes of a response's body that are read, at most. A body that is read to its end leaves the
/// connection reusable.
const BODY_MAX: usize = 16 * 1024;

/// A webhook's URL. `Display` and `Debug` omit its path and query, which may contain a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Uri);

impl EndpointUrl {
    /// Accepts `https`, and `http` to this machine only, because events contain user ids. The error
    /// completes "must be ..." and does not quote the text.
    pub fn parse(text: &str) -> Result<EndpointUrl, String> {
        confidential_url(text, "https://shop.example/hooks").map(EndpointUrl)
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{host}", self.0.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The endpoint's response to an event (Standard Webhooks 1.0, "Delivery success and failure").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointReply {
    /// 2xx: the event was delivered.
    Accepted,
    /// Any other failure, to be retried: after `retry_after` at the earliest, if it was sent.
    Failed { why: String, retry_after: Option<Duration> },
    /// 410: the endpoint accepts no more events.
    Gone,
}

/// An endpoint with what is needed to send to it.
#[derive(Debug, Clone)]
pub struct WebhookEndpoint {
    pub http: HttpClient,
    pub url: EndpointUrl,
    pub secrets: Secrets,
    /// Time from the start of a request to the end of its response.
    pub timeout: Duration,
}

impl WebhookEndpoint {
    /// Sends an event about no order, to check that the endpoint responds and accepts the signature.
    pub async fn send_test(&self, now: Timestamp) -> EndpointReply {
        let body = serde_json::json!({
            "type": "flux.test",
            "timestamp": rfc3339(now),
            "data": {},
        });
        self.send(&format!("msg_test_{}", now.0), body.to_string().into_bytes(), now).await
    }

    /// Makes one attempt. Cancel safe; a cancelled event may have been delivered.
    pub async fn send(&self, id: &str, body: Vec<u8>, now: Timestamp) -> EndpointReply {
        let failed = |why: String| EndpointReply::Failed { why, retry_after: None };
        let seconds = now.0 / 1_000;
        let request = Request::post(self.url.0.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", sign(&self.secrets, id, seconds, &body))
            .body(Full::from(body))
            .expect("a parsed URL and plain headers");
        let reply = match self.http.send(request, self.timeout, BODY_MAX).await {
            Ok(reply) => reply,
            Err(e) => return failed(e.to_string()),
        };
        match reply.status {
            status if status.is_success() => EndpointReply::Accepted,
            StatusCode::GONE => EndpointReply::Gone,
            status if status.is_redirection() => {
                failed(format!("HTTP status {}: redirects are not followed", status.as_u16()))
            }
            status => EndpointReply::Failed {
                why: format!("HTTP status {}", status.as_u16()),
                retry_after: retry_after(&reply.headers, now),
            },
        }
    }
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_millis(now.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_displayed_without_its_path() {
        let shown = EndpointUrl::parse("https://shop.example/sesame?sesame").unwrap();
        assert_eq!(format!("{shown} {shown:?}"), "https://shop.example https://shop.example");
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        let now = Timestamp(784_111_777_000 - 90_000);
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(read("soon"), None);
    }
}
