//! Responses with pages for browsers and their files.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};

use super::response::{Response, ResponseBody};

/// A page uses only scripts, styles and images that are files of this server, connects only to this
/// server, and cannot be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// An HTML page. Its scripts and styles are [`asset`]s; [`POLICY`] blocks inline ones.
pub(super) fn html(text: impl Into<Bytes>) -> Response {
    let mut response = asset("text/html; charset=utf-8", text);
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A file of a page. Browsers treat it only as `kind`, and other sites cannot embed it.
pub(super) fn asset(kind: &'static str, content: impl Into<Bytes>) -> Response {
    let mut response = Response::new(ResponseBody::whole(content));
    *response.status_mut() = StatusCode::OK;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
