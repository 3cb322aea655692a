//! Spans as an `ExportTraceServiceRequest` in JSON: ids in hexadecimal, 64-bit numbers as text
//! (OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding").

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use super::super::{Span, Value};
use super::OtlpSettings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: Vec<Attribute<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<SpanJson<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'a str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue<'a> {
    StringValue(Cow<'a, str>),
    IntValue(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<Link>,
    status: Status<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    trace_id: String,
    span_id: String,
}

/// Nothing, or code 2: an error.
#[derive(Serialize)]
struct Status<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// The body of a request with these spans.
pub fn request(spans: &[Span], settings: &OtlpSettings) -> Vec<u8> {
    let now = (Instant::now(), SystemTime::now());
    let text = |key, value| Attribute { key, value: AnyValue::StringValue(value) };
    let attributes = vec![
        text("service.name", settings.service.as_str().into()),
        text("service.version", env!("CARGO_PKG_VERSION").into()),
        text("service.instance.id", settings.instance.as_str().into()),
    ];
    let scope = Scope { name: "flux", version: env!("CARGO_PKG_VERSION") };
    let spans = spans.iter().map(|span| span_json(span, now)).collect();
    let resource = Resource { attributes };
    let scope_spans = [ScopeSpans { scope, spans }];
    let exported = Exported { resource_spans: [ResourceSpans { resource, scope_spans }] };
    serde_json::to_vec(&exported).expect("text and numbers always have a JSON form")
}

fn span_json(span: &Span, now: (Instant, SystemTime)) -> SpanJson<'_> {
    let attributes = span.attributes.iter().map(|(key, value)| Attribute {
        key,
        value: match value {
            Value::Text(text) => AnyValue::StringValue(Cow::Borrowed(text)),
            Value::Whole(number) => AnyValue::IntValue(number.to_string()),
        },
    });
    let link =
        |(trace, span): &(u128, u64)| Link { trace_id: trace_id(*trace), span_id: span_id(*span) };
    SpanJson {
        trace_id: span.context.trace_id(),
        span_id: span_id(span.context.span),
        trace_state: span.context.state(),
        parent_span_id: span.parent.map(span_id),
        name: span.name,
        kind: span.kind as u8,
        start_time_unix_nano: unix_nanos(span.start, now),
        end_time_unix_nano: unix_nanos(span.end, now),
        attributes: attributes.collect(),
        links: span.links.iter().map(link).collect(),
        status: Status { code: span.error.as_ref().map(|_| 2), message: span.error.as_deref() },
    }
}

fn trace_id(trace: u128) -> String {
    format!("{trace:032x}")
}

fn span_id(span: u64) -> String {
    format!("{span:016x}")
}

/// By the wall clock as it is now: after it was set, old spans lie at their distance from now.
fn unix_nanos(then: Instant, (now, wall): (Instant, SystemTime)) -> String {
    let ago = now.saturating_duration_since(then);
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.saturating_sub(ago).as_nanos().to_string()
}
