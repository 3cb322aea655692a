//! Percent-decoding of path segments and query values (RFC 3986, 2.1).

use std::borrow::Cow;

use super::problem::Problem;

/// The text that a path segment or query value stands for; `None` when it is not UTF-8 or an
/// escape is broken. `+` is itself.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' { hex(rest.next()?)? << 4 | hex(rest.next()?)? } else { byte };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().map(Cow::from)
}

/// Makes any text fit for a query value.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The first value of `name` in a query, decoded; `Some(None)` when it cannot be decoded.
pub(super) fn value<'a>(query: Option<&'a str>, name: &str) -> Option<Option<Cow<'a, str>>> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.into_iter().find(|(n, _)| *n == name)?;
    Some(decode(value))
}

/// `limit`, from 1 to `most`.
pub(super) fn limit(query: Option<&str>, default: usize, most: usize) -> Result<usize, Problem> {
    let Some(value) = value(query, "limit") else { return Ok(default) };
    value
        .and_then(|text| text.parse().ok())
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| Problem::bad_request(format!("limit must be from 1 to {most}")))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_and_broken_escapes_are_nothing() {
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
