//! Refuses requests that a browser sends for a page of another site. They are harmless where buying
//! requires a credential, because a browser does not add one by itself.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::http::uri::Authority;
use hyper::{StatusCode, Uri};

use super::public_url::default_port;
use super::rules::ActiveRules;
use super::{Access, Caller, caller};
use crate::http::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

impl Access {
    /// Refuses a request that may come from a page of another site, where no credential is required.
    /// Call it for every request that changes something. Programs like curl send neither
    /// `Sec-Fetch-Site` nor `Origin` and pass.
    pub(in crate::http) fn admit_site(
        &self,
        head: &request::Parts,
        peer: IpAddr,
    ) -> Result<(), Problem> {
        let rules = self.rules.load();
        if requires_credential(&rules, head) || rules.is_own_site(&head.headers, peer) {
            return Ok(());
        }
        let what = "request from a page of another site: to allow it, add the page's origin to \
                    cors_origins; if the page is this server's own, set public_url to its address";
        Err(Problem::new(StatusCode::FORBIDDEN, what))
    }

    /// On a loopback address without keys, refuses requests for a foreign `Host`: if the name of a
    /// site resolves to 127.0.0.1 (DNS rebinding), a browser treats this server as that site.
    pub(in crate::http) fn admit_host(
        &self,
        head: &request::Parts,
        peer: IpAddr,
        listening: Option<SocketAddr>,
    ) -> Result<(), Problem> {
        let rules = self.rules.load();
        let on_loopback = listening.is_some_and(|at| at.ip().to_canonical().is_loopback());
        let is_checked = on_loopback && !requires_credential(&rules, head);
        if !is_checked || rules.is_proxy(peer) || rules.is_own_host(&head.headers) {
            return Ok(());
        }
        let what = "Host not accepted: without keys, a server on a loopback address accepts only \
                    local names; use localhost, set public_url to the address that you use, or add \
                    your proxy to trusted_proxies";
        Err(Problem::new(StatusCode::FORBIDDEN, what))
    }

    /// Whether a body must have a `Content-Type` of JSON, which a page of another site cannot send
    /// without a CORS preflight.
    pub(in crate::http) fn requires_content_type(&self, head: &request::Parts) -> bool {
        !requires_credential(&self.rules.load(), head)
    }
}

/// Whether this request is accepted only with a credential, or has the admin's.
fn requires_credential(rules: &ActiveRules, head: &request::Parts) -> bool {
    rules.keys_on() || *caller(head) == Caller::Admin
}

impl ActiveRules {
    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.contain(peer.to_canonical())
    }

    fn is_own_site(&self, headers: &HeaderMap, peer: IpAddr) -> bool {
        let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        let origin = headers.get(header::ORIGIN);
        match (site, origin) {
            (Some(b"same-origin" | b"none"), _) | (None, None) => true,
            (Some(_), None) => false,
            (site, Some(origin)) => {
                self.origins.contain(origin)
                    || self.public_url.as_ref().is_some_and(|url| url.is_origin(origin))
                    // `Sec-Fetch-Site`, where a browser sends it, is more reliable than the host.
                    || site.is_none() && self.is_requested_host(origin, headers, peer)
            }
        }
    }

    /// Whether the origin's host is the host that the request names.
    fn is_requested_host(&self, origin: &HeaderValue, headers: &HeaderMap, peer: IpAddr) -> bool {
        let origin = Uri::try_from(origin.as_bytes());
        let Some((origin, port)) = origin.ok().and_then(|o| default_port(&o).map(|p| (o, p)))
        else {
            return false;
        };
        let forwarded = headers.get_all(X_FORWARDED_HOST).iter().filter(|_| self.is_proxy(peer));
        let hosts = headers.get_all(header::HOST).iter().chain(forwarded);
        let mut hosts =
            hosts.filter_map(|host| host.to_str().ok()).flat_map(|host| host.split(','));
        hosts.any(|host| {
            host.trim().parse::<Authority>().is_ok_and(|host| {
                let same_port =
                    host.port_u16().unwrap_or(port) == origin.port_u16().unwrap_or(port);
                same_port
                    && origin.host().is_some_and(|name| name.eq_ignore_ascii_case(host.host()))
            })
        })
    }

    /// Whether each `Host` is a loopback name or a configured one. Every browser sends `Host`.
    fn is_own_host(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::HOST).iter().all(|host| {
            let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            host.is_some_and(|host| {
                let name = host.host().strip_suffix('.').unwrap_or(host.host());
                is_loopback(name)
                    || self.listen_host.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name))
                    || self.public_url.as_ref().is_some_and(|url| url.is_host(name))
            })
        })
    }
}

/// Whether it is `localhost`, a name below it (RFC 6761, 6.3), or a loopback address.
fn is_loopback(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let name = name.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}
