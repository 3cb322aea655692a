//! Entity tags (RFC 9110, 8.8.3 and 13.1.2), so that clients do not download what they have.

use std::hash::Hasher;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use siphasher::sip128::{Hasher128, SipHasher24};

use super::response::{Response, ResponseBody};

/// A strong entity tag. The same content has the same tag on every server.
pub(super) fn of(content: &[u8]) -> HeaderValue {
    let mut hasher = SipHasher24::new();
    hasher.write(content);
    let tag = format!("\"{:032x}\"", hasher.finish128().as_u128());
    HeaderValue::try_from(tag).expect("hex digits are visible ASCII")
}

/// Adds the tag; if the client has the content, the response becomes a 304 without a body.
pub(super) fn with_etag(
    mut response: Response,
    etag: HeaderValue,
    head: &request::Parts,
) -> Response {
    if has(head, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = ResponseBody::whole(Bytes::new());
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response.headers_mut().insert(header::ETAG, etag);
    response
}

/// Whether `If-None-Match` contains the tag or `*`, by weak comparison.
fn has(head: &request::Parts, tag: &HeaderValue) -> bool {
    let given = head.headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = given.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    tags.any(|given| {
        let given = given.trim_ascii();
        given == b"*" || given.strip_prefix(b"W/").unwrap_or(given) == tag.as_bytes()
    })
}
