//! The trace context of a request, and the attributes of its span.

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request;

use super::problem::Problem;
use crate::core::engine::tracer::OpenSpan;
use crate::core::model::Order;
use crate::core::model::TraceContext;

/// The W3C Trace Context of a request; `None` if `traceparent` is missing, malformed or repeated.
pub(super) fn of(head: &request::Parts) -> Option<TraceContext> {
    let mut parents = head.headers.get_all("traceparent").iter();
    let (parent, None) = (parents.next()?, parents.next()) else { return None };
    TraceContext::parse(parent.as_bytes(), state(&head.headers).as_deref())
}

/// `tracestate` may have several header lines, which form one list (RFC 9110, 5.3).
fn state(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all("tracestate").iter().map(HeaderValue::to_str);
    lines.collect::<Result<Vec<_>, _>>().ok().map(|lines| lines.join(","))
}

/// Records the outcome of a purchase, with OpenTelemetry's attribute names where there are any.
pub(super) fn set_outcome(span: &mut OpenSpan, bought: &Result<Order, Problem>) {
    if !span.is_open() {
        return;
    }
    span.set("http.request.method", || "POST");
    span.set("http.route", || "/buy");
    let (status, order) = match bought {
        Ok(order) => {
            span.set("flux.item_id", || order.item.to_string());
            (StatusCode::ACCEPTED, Some(order.id))
        }
        Err(problem) => {
            if problem.status().is_server_error() {
                span.fail(|| problem.detail().to_owned());
            }
            (problem.status(), problem.order())
        }
    };
    span.set("http.response.status_code", || u64::from(status.as_u16()));
    if let Some(order) = order {
        span.set("flux.order_id", || order.to_string());
    }
}
