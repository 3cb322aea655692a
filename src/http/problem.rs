//! Response bodies: JSON, and problems as defined by RFC 9457.

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

pub(super) const LEDGER_UNAVAILABLE: &str = "the ledger is unavailable; try again";
const PROBLEM_JSON: &str = "application/problem+json";
const ALWAYS_JSON: &str = "response types serialize to JSON";

/// An error response. The detail describes what is wrong and what to do, and reveals nothing that
/// the client may not know.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    /// The order that may have been accepted despite the error.
    order: Option<OrderId>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    /// Extension members (RFC 9457, 3.2).
    members: Option<Box<Members>>,
}

type Members = serde_json::Map<String, serde_json::Value>;

/// An error as defined by RFC 9457. A 503 has `order_id` if the order may have been accepted.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemJson<'a> {
    #[schemars(extend("const" = "about:blank"))]
    r#type: &'static str,
    title: &'a str,
    status: u16,
    /// What is wrong and what to do, in one line.
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

    /// `allow`: the methods that the path supports.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let what = "this path does not support this method; Allow lists the methods it supports";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, what).with_header(header::ALLOW, allow)
    }

    /// The response of a process that is stopping.
    pub fn stopping() -> Self {
        Self::unavailable("stopping: this process accepts no more requests; try again")
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The order that may have been accepted despite the error.
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

    /// Adds `Retry-After`: `wait`, rounded up to whole seconds.
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
        json_line(&problem)
    }
}

impl From<InvalidId> for Problem {
    fn from(invalid: InvalidId) -> Self {
        Self::bad_request(invalid.0)
    }
}

impl From<LedgerError> for Problem {
    /// Logs the cause, which the client may not know.
    fn from(error: LedgerError) -> Self {
        tracing::warn!(request_id = request_id::current(), "ledger unavailable: {error}");
        Self::unavailable(LEDGER_UNAVAILABLE)
    }
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, json_line(body))
}

/// JSON and a line feed, so that a terminal's prompt starts on a new line.
pub(super) fn json_line(body: &impl Serialize) -> Vec<u8> {
    let mut text = json_bytes(body);
    text.push(b'\n');
    text
}

/// JSON on one line, without a line feed: for event streams.
pub(super) fn json_bytes(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect(ALWAYS_JSON)
}

/// A response whose body is already JSON.
pub(super) fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(ResponseBody::whole(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
