//! The endpoint's end: where events go, and what its answers mean.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Request, StatusCode, Uri};

use super::signature::{Secrets, sign};
use crate::adapters::http_client::HttpClient;
use crate::clear_text::confidential_url;
use crate::core::model::{Timestamp, rfc3339};

/// How much of an answer's body is read, so that its connection can be used again.
const BODY_MAX: usize = 16 * 1024;

/// A webhook's URL. Shown without its path and query, which may be as good as a password.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Uri);

impl EndpointUrl {
    /// Takes `https`, and `http` to this machine alone: events name buyers. The error completes
    /// "must be ..." and does not quote the text.
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

/// What the endpoint said to an event (Standard WebhookOutbox 1.0, "Delivery success and failure").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointReply {
    /// 2xx: it has the event.
    Taken,
    /// It may take it later, at the earliest after so long if it said so.
    Failed { why: String, retry_after: Option<Duration> },
    /// 410: it does not want any.
    Gone,
}

/// Where events are sent, and signed with what.
#[derive(Debug, Clone)]
pub struct WebhookEndpoint {
    pub http: HttpClient,
    pub endpoint: EndpointUrl,
    pub secrets: Secrets,
    /// The whole time that an answer may take.
    pub timeout: Duration,
}

impl WebhookEndpoint {
    /// An event that is about no order: whether the endpoint is there and knows the signature.
    pub async fn send_test(&self, now: Timestamp) -> EndpointReply {
        let body = serde_json::json!({
            "type": "flux.test",
            "timestamp": rfc3339(now),
            "data": {},
        });
        self.send(&format!("msg_test_{}", now.0), body.to_string().into_bytes(), now).await
    }

    /// One attempt. Safe to cancel; the endpoint may have got it then.
    pub async fn send(&self, id: &str, body: Vec<u8>, now: Timestamp) -> EndpointReply {
        let failed = |why: String| EndpointReply::Failed { why, retry_after: None };
        let seconds = now.0 / 1_000;
        let request = Request::post(self.endpoint.0.clone())
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
            status if status.is_success() => EndpointReply::Taken,
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

/// Seconds, or a date.
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
    fn endpoint_is_shown_without_its_path() {
        let shown = EndpointUrl::parse("https://shop.example/sesame?sesame").unwrap();
        assert_eq!(format!("{shown} {shown:?}"), "https://shop.example https://shop.example");
    }

    #[test]
    fn a_time_to_wait_is_read_in_seconds_and_as_a_date() {
        let now = Timestamp(784_111_777_000 - 90_000);
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(asked("soon"), None);
    }
}
