//! The trace that a request says it belongs to.

use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request;

use crate::core::trace::TraceContext;

/// What the two headers of W3C Trace Context say; `None` without them, or when they are malformed
/// or ambiguous.
pub(super) fn of(head: &request::Parts) -> Option<TraceContext> {
    let mut parents = head.headers.get_all("traceparent").iter();
    let (parent, None) = (parents.next()?, parents.next()) else { return None };
    TraceContext::parse(parent.as_bytes(), state(&head.headers).as_deref())
}

/// `tracestate` may come in several lines, which are one list (RFC 9110, section 5.3).
fn state(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all("tracestate").iter().map(HeaderValue::to_str);
    lines.collect::<Result<Vec<_>, _>>().ok().map(|lines| lines.join(","))
}
