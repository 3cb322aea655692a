//! Which other sites' pages may ask (CORS, as the Fetch standard has it).

use hyper::header::{self, HeaderMap, HeaderValue};

/// What a page may send along: what the API reads, and what common clients add by themselves.
const SENT: &str = "accept, authorization, baggage, cache-control, content-type, idempotency-key, \
                    if-none-match, last-event-id, pragma, traceparent, tracestate, x-request-id, \
                    x-requested-with";
/// What a page may read of an answer, beyond what it always may.
const READ: &str = "allow, date, etag, link, location, retry-after, www-authenticate, x-request-id";
/// How long a browser need not ask again, in seconds: the most that Chromium takes.
const MAX_AGE: &str = "7200";

/// Origins whose pages may ask; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    listed: Vec<HeaderValue>,
}

impl Origins {
    /// `*`, or origins like `https://shop.example`, separated by commas; the error names the one
    /// that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut origins = Self::default();
        for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            if origin == "*" {
                origins.any = true;
                continue;
            }
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let plain = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && c != '/';
            match host.filter(|host| !host.is_empty() && host.chars().all(plain)) {
                Some(_) => origins.listed.extend(HeaderValue::from_str(origin)),
                None => return Err(format!("{origin} is no origin, like https://shop.example")),
            }
        }
        Ok(origins)
    }

    /// Whether a page of this origin may ask.
    pub(super) fn list(&self, origin: &HeaderValue) -> bool {
        self.any || self.listed.contains(origin)
    }

    /// Adds to an answer what lets the page read it, if it may; to one that names the methods of its
    /// path (Allow), for a browser that asks first, what else the page may do there.
    pub(super) fn allow(&self, asked: &HeaderMap, answered: &mut HeaderMap) {
        if !self.any && self.listed.is_empty() {
            return;
        }
        if !self.any {
            // Caches must not give one site's answer to another, nor to nobody's.
            answered.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = asked.get(header::ORIGIN) else { return };
        let allowed = match self.any {
            true => HeaderValue::from_static("*"),
            false if self.list(origin) => origin.clone(),
            false => return,
        };
        answered.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        let methods = answered.get(header::ALLOW).cloned();
        match methods.filter(|_| asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)) {
            Some(methods) => {
                answered.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
                answered
                    .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
                answered.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
            }
            None => {
                let read = HeaderValue::from_static(READ);
                answered.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, read);
            }
        }
    }
}
