//! The public URL of a server behind a proxy.

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::http::route::ROUTES;

/// The setting `public_url`: `https://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// The origin in the form of a browser's `Origin` header.
    origin: String,
    host: String,
    /// The path under which the server is reached, like `/flux`; empty for `/`.
    prefix: String,
}

impl PublicUrl {
    /// The error completes "`public_url` ...".
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("must be like https://shop.example or https://shop.example/flux, not {text}")
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let default_port = default_port(&uri).ok_or_else(wrong)?;
        if text.contains(['?', '#', '@']) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return Err(wrong());
        }
        let host = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().filter(|port| *port != default_port);
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let scheme = uri.scheme_str().unwrap_or_default();
        let prefix = uri.path().trim_end_matches('/');
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if !prefix.chars().all(is_allowed) || prefix.contains("//") {
            return Err(wrong());
        }
        let first = |path: &str| path.split('/').nth(1).unwrap_or_default().to_owned();
        if ROUTES.iter().any(|(path, _)| *path != "/" && first(path) == first(prefix)) {
            return Err(format!("must not begin with a path of the API itself, like {prefix}"));
        }
        Ok(Self { origin: format!("{scheme}://{host}{port}"), host, prefix: prefix.to_owned() })
    }

    pub(super) fn is_origin(&self, origin: &HeaderValue) -> bool {
        origin == self.origin.as_str()
    }

    /// The URL without a final slash, like `https://shop.example/flux`.
    pub(super) fn base(&self) -> String {
        format!("{}{}", self.origin, self.prefix)
    }

    /// The path under which the server is reached; empty for `/`.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn is_host(&self, name: &str) -> bool {
        self.host.eq_ignore_ascii_case(name)
    }
}

/// The default port of an `http` or `https` URL.
pub(super) fn default_port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_url_is_an_origin_and_a_path() {
        let parsed = |text| PublicUrl::parse(text).map(|url| (url.origin, url.prefix));
        for (text, origin, prefix) in [
            ("https://shop.example", "https://shop.example", ""),
            ("https://Shop.example:443/", "https://shop.example", ""),
            ("http://shop.example:8080/flux/", "http://shop.example:8080", "/flux"),
            ("https://[2001:db8::1]/a/b", "https://[2001:db8::1]", "/a/b"),
        ] {
            assert_eq!(parsed(text), Ok((origin.to_owned(), prefix.to_owned())), "{text}");
        }
        for wrong in [
            "",
            "shop.example",
            "/flux",
            "ftp://shop.example",
            "https://",
            "https://a@shop.example",
            "https://shop.example/?a",
            "https://shop.example/#a",
            "https://shop.example/a//b",
            "https://shop.example/buy",
            "https://shop.example/orders/flux",
            "https://shop.example/a b",
            "https://shop.example/%66",
            "https://shop.example:port",
        ] {
            assert!(PublicUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
