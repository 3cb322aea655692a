//! Pages for browsers: HTML, and the files that it names.

use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::response::{Answer, AnswerBody};

/// A page runs only the scripts and shows only the styles and pictures that this server gives out
/// as files of their own, talks to this server alone, and stands in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// An HTML page. Its scripts and styles are [`asset`]s: what is written inline does not run.
pub(super) fn page(html: impl Into<Bytes>) -> Answer {
    let mut answer = asset("text/html; charset=utf-8", html);
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A file that a page names; taken for nothing but what `kind` says, and by no other site.
pub(super) fn asset(kind: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(AnswerBody::whole(content));
    *answer.status_mut() = StatusCode::OK;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
