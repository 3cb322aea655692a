//! Traces: which request an order came with, carried from the API to its decision, and the port
//! to whoever collects what was done for it meanwhile.

use std::borrow::Cow;
use std::fmt::Debug;

use tokio::time::Instant;

use crate::core::model::TraceContext;

/// What a span is in its trace, by OpenTelemetry's names.
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

/// Something that was done as part of a trace, from its start until it is recorded.
#[derive(Debug, Clone)]
pub struct Span {
    pub context: TraceContext,
    /// The span it is a part of; `None` at the trace's root.
    pub parent: Option<u64>,
    pub name: &'static str,
    pub kind: SpanKind,
    pub start: Instant,
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans of other traces that this one was done for too: trace and span.
    pub links: Vec<(u128, u64)>,
    /// It failed, and why.
    pub error: Option<String>,
}

/// Where spans go.
pub trait Spans: Debug + Send + Sync {
    /// Takes a span that ends now. Never blocks and never fails: what there is no room for is left
    /// out.
    fn record(&self, span: Span);
}
