//! What every answer is made of: JSON, or a problem as RFC 9457 has it.

use std::borrow::Cow;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Serialize;

use super::request_id;
use super::response::{Response, ResponseBody};
use crate::core::model::{InvalidId, OrderId};
use crate::core::ports::ledger::LedgerError;

const PROBLEM_JSON: &str = "application/problem+json";
const ALWAYS_JSON: &str = "our own types always have a JSON form";

/// An answer other than success. Its detail says what to do, and holds nothing that the client
/// may not know.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    /// The order that may have been taken all the same.
    order: Option<OrderId>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    /// More to say, by name.
    members: Option<Box<Members>>,
}

type Members = serde_json::Map<String, serde_json::Value>;

/// What went wrong, as RFC 9457 has it. A 503 after a send was tried carries the order's id.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemJson<'a> {
    #[schemars(extend("const" = "about:blank"))]
    r#type: &'static str,
    title: &'a str,
    status: u16,
    /// In one line: what was wrong, and what to do.
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OrderId")]
    order_id: Option<OrderId>,
    #[serde(flatten)]
    members: Option<&'a Members>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), order: None, header: None, members: None }
    }

    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// `allow`: the methods that the path takes.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let what = "this path does not take this method; Allow says which it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, what).with_header(header::ALLOW, allow)
    }

    /// The answer of a process that is stopping.
    pub fn stopping() -> Self {
        Self::unavailable("stopping: ask another process")
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The order that may have been taken all the same.
    pub fn order(&self) -> Option<OrderId> {
        self.order
    }

    pub fn with_order(self, order: OrderId) -> Self {
        Self { order: Some(order), ..self }
    }

    pub fn with_header(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some(Box::new((name, HeaderValue::from_static(value)))), ..self }
    }

    pub fn with_member(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.members.get_or_insert_default().insert(name.to_owned(), value.into());
        self
    }

    /// Says when to come again: the next whole second after `wait`.
    pub fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1) as u64;
        Self { header: Some(Box::new((header::RETRY_AFTER, HeaderValue::from(seconds)))), ..self }
    }

    pub fn into_response(self) -> Response {
        let mut response = json_text(self.status, self.json());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        headers.extend(self.header.map(|header| *header));
        response
    }

    fn json(&self) -> Vec<u8> {
        let problem = ProblemJson {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            order_id: self.order,
            members: self.members.as_deref(),
        };
        lined(&problem)
    }
}

impl From<InvalidId> for Problem {
    fn from(invalid: InvalidId) -> Self {
        Self::bad_request(invalid.0)
    }
}

impl From<LedgerError> for Problem {
    /// Logs the cause, which is not for the client.
    fn from(error: LedgerError) -> Self {
        tracing::warn!(request_id = request_id::current(), "answered 503: {error}");
        Self::unavailable("the ledger does not answer; try again")
    }
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, lined(body))
}

/// Ends in a line feed, so that a terminal's prompt stands on a line of its own.
pub(super) fn lined(body: &impl Serialize) -> Vec<u8> {
    let mut text = json_bytes(body);
    text.push(b'\n');
    text
}

/// On one line, without its end: for event streams.
pub(super) fn json_bytes(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect(ALWAYS_JSON)
}

/// [`json`] of a text that is JSON already.
pub(super) fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(ResponseBody::whole(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
