//! Query parameters, and percent-encoding of path segments and query values (RFC 3986, 2.1).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::problem::Problem;
use crate::core::model::text::percent_decoded;

/// All but the unreserved characters (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Decodes a path segment or query value; `None` if an escape is broken or the result is not UTF-8.
/// `+` stays `+`.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    percent_decoded(text)?.decode_utf8().ok()
}

/// Encodes any text as a query value.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The first value of `name` in a query, decoded; `Some(None)` if it cannot be decoded.
pub(super) fn value<'a>(query: Option<&'a str>, name: &str) -> Option<Option<Cow<'a, str>>> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.into_iter().find(|(n, _)| *n == name)?;
    Some(decode(value))
}

/// The parameter `limit`, from 1 to `max`.
pub(super) fn limit(query: Option<&str>, default: usize, max: usize) -> Result<usize, Problem> {
    let Some(value) = value(query, "limit") else { return Ok(default) };
    value
        .and_then(|text| text.parse().ok())
        .filter(|limit| (1..=max).contains(limit))
        .ok_or_else(|| Problem::bad_request(format!("limit must be from 1 to {max}")))
}

/// The parameter `after`, decoded: the end of the previous page.
pub(super) fn after(query: Option<&str>) -> Result<Option<String>, Problem> {
    match value(query, "after") {
        None => Ok(None),
        Some(Some(after)) => Ok(Some(after.into_owned())),
        Some(None) => Err(Problem::bad_request("after must be percent-encoded UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_round_trips_and_broken_escapes_are_refused() {
        let odd = "a b&c=d/é%🎟+";
        assert_eq!(decode(&encode(odd)).as_deref(), Some(odd));
        assert_eq!(decode("a%3Ab").as_deref(), Some("a:b"));
        for broken in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
        assert_eq!(value(Some("x=1&after=a%3Ab"), "after"), Some(Some("a:b".into())));
        assert_eq!(value(Some("wait"), "wait"), Some(Some("".into())));
        assert_eq!(value(None, "wait"), None);
    }
}
