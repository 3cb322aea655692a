//! Requests that pages of other sites make a browser send. Where buying takes a credential they are
//! no danger, because a browser adds none by itself; where it takes none, they are refused.

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
    /// Refuses a request that a page of another site may have sent: for whatever changes something
    /// without a credential. A program like curl sends neither `Sec-Fetch-Site` nor `Origin`, and
    /// passes.
    pub(in crate::http) fn admit_site(
        &self,
        head: &request::Parts,
        peer: IpAddr,
    ) -> Result<(), Problem> {
        let rules = self.rules.load();
        if !takes_no_credential(&rules, head) || rules.is_own_site(&head.headers, peer) {
            return Ok(());
        }
        let what = "a page of another site sent this: to allow it, add its origin to cors_origins; \
                    if it is this server's own page, set public_url to its address";
        Err(Problem::new(StatusCode::FORBIDDEN, what))
    }

    /// If the server listens on a loopback address, refuses a request for a host that is not this
    /// one: a page whose name was made to resolve to 127.0.0.1 counts as this server's own in a
    /// browser.
    pub(in crate::http) fn admit_host(
        &self,
        head: &request::Parts,
        peer: IpAddr,
        listening: Option<SocketAddr>,
    ) -> Result<(), Problem> {
        let rules = self.rules.load();
        let on_loopback = listening.is_some_and(|at| at.ip().to_canonical().is_loopback());
        let judged = on_loopback && takes_no_credential(&rules, head);
        if !judged || rules.is_proxy(peer) || rules.is_own_host(&head.headers) {
            return Ok(());
        }
        let what = "this Host is not answered on a loopback address without keys: ask for \
                    localhost, set public_url to the address that you use, or name your proxy in \
                    trusted_proxies";
        Err(Problem::new(StatusCode::FORBIDDEN, what))
    }

    /// Whether a body must say that it is JSON, which a page of another site cannot say without
    /// being allowed to.
    pub(in crate::http) fn wants_content_type(&self, head: &request::Parts) -> bool {
        takes_no_credential(&self.rules.load(), head)
    }
}

/// Whether this request is taken without a credential. The admin's carries one.
fn takes_no_credential(rules: &ActiveRules, head: &request::Parts) -> bool {
    !rules.keys_on() && *caller(head) != Caller::Admin
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
                self.origins.list(origin)
                    || self.public_url.as_ref().is_some_and(|url| url.is_origin(origin))
                    // A browser that says which site it is knows better than the headers.
                    || site.is_none() && self.is_asked_host(origin, headers, peer)
            }
        }
    }

    /// Whether this origin's host is the one that was asked.
    fn is_asked_host(&self, origin: &HeaderValue, headers: &HeaderMap, peer: IpAddr) -> bool {
        let origin = Uri::try_from(origin.as_bytes());
        let Some((origin, port)) = origin.ok().and_then(|o| default_port(&o).map(|p| (o, p)))
        else {
            return false;
        };
        let forwarded = headers.get_all(X_FORWARDED_HOST).iter().filter(|_| self.is_proxy(peer));
        let asked = headers.get_all(header::HOST).iter().chain(forwarded);
        let mut asked =
            asked.filter_map(|host| host.to_str().ok()).flat_map(|host| host.split(','));
        asked.any(|host| {
            host.trim().parse::<Authority>().is_ok_and(|host| {
                let same_port =
                    host.port_u16().unwrap_or(port) == origin.port_u16().unwrap_or(port);
                same_port
                    && origin.host().is_some_and(|name| name.eq_ignore_ascii_case(host.host()))
            })
        })
    }

    /// Whether each `Host` is a name of this machine alone, or one that the settings name. No
    /// browser leaves it out.
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

/// `localhost`, what ends in it (RFC 6761, 6.3), and addresses of this machine.
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
