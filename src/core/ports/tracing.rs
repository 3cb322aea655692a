//! Tracing: the spans of an order's way from the API to its decision, and the port to their
//! collector.

use std::borrow::Cow;
use std::fmt::Debug;

use tokio::time::Instant;

use crate::core::model::TraceContext;

/// The kind of a span, by OpenTelemetry's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Server,
    Client,
    Producer,
    Consumer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Cow<'static, str>),
    Whole(i64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::from(number as u64)
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text.into())
    }
}

/// A step of a trace. It ends when it is recorded.
#[derive(Debug, Clone)]
pub struct Span {
    pub context: TraceContext,
    /// The parent span; `None` for the root of a trace.
    pub parent: Option<u64>,
    pub name: &'static str,
    pub kind: SpanKind,
    pub start: Instant,
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans of other traces that this step belongs to as well: trace id and span id.
    pub links: Vec<(u128, u64)>,
    /// The reason if the step failed.
    pub error: Option<String>,
}

/// The collector of spans.
pub trait Spans: Debug + Send + Sync {
    /// Records a span that ends now. Never blocks and never fails: if the buffer is full, the span
    /// is discarded.
    fn record(&self, span: Span);
}
