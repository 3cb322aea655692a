//! CORS (Fetch standard): which pages of other sites may call the API.

use hyper::header::{self, HeaderMap, HeaderValue};

/// Headers that a page may send: those that the API reads, and those that common clients add.
const REQUEST_HEADERS: &str = "accept, authorization, baggage, cache-control, content-type, idempotency-key, \
                    if-none-match, last-event-id, pragma, traceparent, tracestate, x-request-id, \
                    x-requested-with";
/// Response headers that a page may read, besides those that every page may.
const RESPONSE_HEADERS: &str =
    "allow, date, etag, link, location, retry-after, www-authenticate, x-request-id";
/// How long a browser caches the preflight, in seconds: the maximum of Chromium.
const MAX_AGE: &str = "7200";

/// Origins whose pages may call the API; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    listed: Vec<HeaderValue>,
}

impl Origins {
    /// Parses `*` or origins like `https://shop.example`, separated by commas; the error names an
    /// invalid one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut origins = Self::default();
        for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            if origin == "*" {
                origins.any = true;
                continue;
            }
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let is_allowed = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && c != '/';
            match host.filter(|host| !host.is_empty() && host.chars().all(is_allowed)) {
                Some(_) => origins.listed.extend(HeaderValue::from_str(origin)),
                None => return Err(format!("{origin} is not an origin like https://shop.example")),
            }
        }
        Ok(origins)
    }

    /// Whether pages of this origin may call the API.
    pub(super) fn contain(&self, origin: &HeaderValue) -> bool {
        self.any || self.listed.contains(origin)
    }

    /// Adds the headers that let a page of an allowed origin read the response. A preflight response,
    /// which has the path's methods in `Allow`, also gets the methods and headers that the page may
    /// send.
    pub(super) fn allow(&self, request: &HeaderMap, response: &mut HeaderMap) {
        if !self.any && self.listed.is_empty() {
            return;
        }
        if !self.any {
            // A cache must not use the response for one origin for another, or for none.
            response.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = request.get(header::ORIGIN) else { return };
        let allowed = match self.any {
            true => HeaderValue::from_static("*"),
            false if self.contain(origin) => origin.clone(),
            false => return,
        };
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        let methods = response.get(header::ALLOW).cloned();
        let mut set = |name, text| response.insert(name, HeaderValue::from_static(text));
        match methods.filter(|_| request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)) {
            Some(methods) => {
                set(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
                set(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                response.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            }
            None => {
                set(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
            }
        }
    }
}
