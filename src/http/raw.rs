//! Malformed or incomplete request heads, and the bytes of the responses to them.

use std::time::SystemTime;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::request_id::X_REQUEST_ID;
use super::response::Response;

/// Request headers that the error response depends on.
static WANTED: [HeaderName; 2] = [header::ORIGIN, X_REQUEST_ID];

/// The wanted headers in an incomplete or malformed request head.
pub(super) fn headers(head: &[u8]) -> HeaderMap {
    let mut found = HeaderMap::new();
    // The text after the last line feed may be an incomplete line.
    let mut lines: Vec<_> = head.split(|byte| *byte == b'\n').collect();
    lines.pop();
    for line in lines.iter().skip(1).take_while(|line| !line.trim_ascii().is_empty()) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let wanted = WANTED.iter().find(|w| name.eq_ignore_ascii_case(w.as_str().as_bytes()));
        let value = HeaderValue::from_bytes(value[1..].trim_ascii());
        if let (Some(name), Ok(value)) = (wanted, value) {
            found.append(name, value);
        }
    }
    found
}

/// The bytes of a response after which the connection ends.
#[expect(
    clippy::disallowed_methods,
    reason = "the Date header, which hyper too takes from the system"
)]
pub(super) fn bytes(response: Response, request: &[u8]) -> Bytes {
    let (head, body) = response.into_parts();
    let body = body.into_bytes();
    let mut text = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    let date = httpdate::fmt_http_date(SystemTime::now());
    let length = body.len();
    text.extend_from_slice(format!("date: {date}\r\ncontent-length: {length}\r\n").as_bytes());
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    // The method of a request that could not be parsed is unreliable.
    let is_head = head.status != StatusCode::BAD_REQUEST && request.starts_with(b"HEAD ");
    if !is_head {
        text.extend_from_slice(&body);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_of_a_broken_head_are_found() {
        let head =
            b"G\xffT / \0\r\nhost\r\nORIGIN: https://shop.example \r\n: \r\nx-request-id: a\r\n\
                     Origin: https://shop.exa";
        let found = headers(head);
        assert_eq!(found[header::ORIGIN], "https://shop.example");
        assert_eq!(found[X_REQUEST_ID], "a");
        assert_eq!(found.len(), 2, "the last line is cut");
        assert!(headers(b"").is_empty() && headers(b"\n").is_empty());
        let body = b"POST / HTTP/1.1\r\n\r\nOrigin: https://a\r\n";
        assert!(headers(body).is_empty());
    }
}
