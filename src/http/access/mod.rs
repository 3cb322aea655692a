//! Access control: credentials, rate limits, and checks of where a request comes from.

mod address;
mod cors;
mod key_set;
mod keys;
mod public_url;
mod rates;
mod rules;
mod session;
mod signatures;
mod site;
mod tokens;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use rates::Limiter;
use rules::ActiveRules;
use session::bearer;
pub(super) use session::{Caller, Session};
use tokens::Check;

use super::problem::Problem;
use crate::core::model::UserId;
pub use address::Proxies;
pub use cors::Origins;
pub use key_set::{KeySet, KeySource};
pub use keys::Keys;
pub use public_url::PublicUrl;
pub use rates::Rate;
pub use rules::AccessRules;
pub use tokens::TokenRules;

/// Limit on invalid credentials from one address.
const FAILURES_PER_SECOND: u32 = 10;
const FAILURES_BURST: u32 = 100;

/// Concurrent signature checks for addresses that are over that limit. A check takes about 0.1 ms of
/// CPU, so a flood of forged tokens uses at most one core. A valid token from such an address waits
/// for at most one check per open connection.
const SERIAL_CHECKS: usize = 1;

/// The access rules, which can be replaced while the server runs.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<ActiveRules>,
    /// Invalid credentials by address.
    failures: Limiter,
    serial_checks: Semaphore,
    /// True once an untrusted proxy was logged.
    proxy_warned: AtomicBool,
}

impl Access {
    pub fn new(rules: AccessRules) -> Arc<Self> {
        let failures = Rate { per_second: FAILURES_PER_SECOND, burst: FAILURES_BURST };
        let rules = ArcSwap::from_pointee(ActiveRules::new(rules, None));
        Arc::new(Self {
            rules,
            failures: Limiter::new(failures),
            serial_checks: Semaphore::new(SERIAL_CHECKS),
            proxy_warned: AtomicBool::new(false),
        })
    }

    /// Buying requires no key, and the admin routes are closed.
    pub fn open() -> Arc<Self> {
        Self::new(AccessRules::default())
    }

    /// Applies new rules to all later requests, and to open streams and waits at their next check
    /// ([`Access::current_caller`]).
    pub fn replace(&self, rules: AccessRules) {
        let before = self.rules.load_full();
        self.rules.store(Arc::new(ActiveRules::new(rules, Some(&before))));
    }

    pub(super) fn connections_max(&self) -> Option<usize> {
        self.rules.load().connections
    }

    /// Whether a server at this address is private: it listens on loopback only, and buying requires
    /// no key.
    pub(super) fn is_private(&self, address: Option<SocketAddr>) -> bool {
        is_loopback_only(address) && !self.rules.load().keys_on()
    }

    /// A warning for the operator if buying requires no key and other machines can reach the server.
    pub fn warning(&self, address: Option<SocketAddr>) -> Option<&'static str> {
        (!is_loopback_only(address) && !self.rules.load().keys_on()).then_some(
            "no keys are configured: any client that can reach this address can buy as any user \
             and see who bought what; set buy_key, jwt_secret or jwt_jwks, or listen on 127.0.0.1",
        )
    }
}

fn is_loopback_only(address: Option<SocketAddr>) -> bool {
    address.is_none_or(|address| address.ip().to_canonical().is_loopback())
}

impl Access {
    /// Whether the current rules show names to the sender of this credential.
    pub(super) fn shows_names_to(&self, credential: Option<&[u8]>) -> bool {
        let rules = self.rules.load();
        !rules.keys_on() || credential.is_some_and(|given| rules.admin_keys.contain(given))
    }

    /// Logs an untrusted proxy, once per process: its clients count as one address and so share
    /// every limit by address.
    fn warn_about_proxy(&self, rules: &ActiveRules, peer: IpAddr, headers: &HeaderMap) {
        if self.proxy_warned.load(Ordering::Relaxed)
            || !address::is_forwarded(headers)
            || rules.trusted_proxies.contain(peer.to_canonical())
            || self.proxy_warned.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let peer = peer.to_canonical();
        tracing::warn!(
            "X-Forwarded-For or Forwarded ignored: {peer} is not in trusted_proxies, so all clients \
             behind it count as one address; if it is your proxy, add it to trusted_proxies"
        );
    }

    /// Determines the caller of a request and records it for [`caller`]. Invalid credentials from one
    /// address are limited: beyond the limit, requests with one are answered 429. Valid credentials
    /// always pass, also from such an address, so the credential has to be checked before the limit;
    /// [`SERIAL_CHECKS`] bounds what that costs.
    pub(super) async fn identify(
        &self,
        head: &mut request::Parts,
        peer: IpAddr,
    ) -> Result<(), Problem> {
        let rules = self.rules.load();
        self.warn_about_proxy(&rules, peer, &head.headers);
        if rules.admin_keys.is_empty() && !rules.keys_on() {
            return Ok(());
        }
        let Some(authorization) = head.headers.get(header::AUTHORIZATION) else { return Ok(()) };
        let Some(credential) = bearer(authorization) else { return Ok(()) };
        let rules = Guard::into_inner(rules);
        let address = rules.address(peer, &head.headers);
        let check = match self.failures.wait(address) {
            Some(_) => Check::Serialized(&self.serial_checks),
            None => Check::Immediate,
        };
        let identity = rules.identify(credential, check).await;
        if matches!(identity.caller, Caller::Refused(_)) {
            let what =
                "too many invalid keys or tokens from this address; wait for Retry-After seconds";
            self.failures.take(address).map_err(|wait| too_many(what, wait))?;
        }
        let session = Session::new(authorization.clone(), identity, rules.generation);
        head.extensions.insert(session);
        Ok(())
    }

    /// The caller of a session. The credential is checked again if the rules were replaced, the token
    /// has expired, or the last check is 30 s old.
    pub(super) async fn current_caller<'a>(&self, session: &'a mut Session) -> &'a Caller {
        let rules = self.rules.load_full();
        if session.is_stale(rules.generation)
            && let Some(authorization) = session.authorization.clone()
            && let Some(credential) = bearer(&authorization)
        {
            let identity = rules.identify(credential, Check::Immediate).await;
            *session = Session::new(authorization, identity, rules.generation);
        }
        &session.caller
    }

    /// Admits the holder of the admin key. Without a configured admin key, nobody.
    pub(super) fn admit_admin(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.rules.load().admin_keys.is_empty() {
            let what = "admin requests are disabled: no admin_key is configured";
            return Err(Problem::new(StatusCode::FORBIDDEN, what));
        }
        match caller(head) {
            Caller::Admin => Ok(()),
            Caller::Shop | Caller::User(_) => {
                let what = "this request requires the admin key";
                Err(Problem::new(StatusCode::FORBIDDEN, what))
            }
            Caller::Nobody | Caller::Refused(_) => {
                let what = "this request requires the admin key: send Authorization: Bearer KEY";
                Err(unauthorized(what))
            }
        }
    }

    /// Whether owners and buyers are shown by name: to the admin, and to everybody if buying requires
    /// no key.
    pub(super) fn can_see_names(&self, head: &request::Parts) -> bool {
        self.names_are_public() || is_admin(head)
    }

    pub(super) fn names_are_public(&self) -> bool {
        !self.rules.load().keys_on()
    }

    /// Admits those to whom names are shown.
    pub(super) fn admit_to_names(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.can_see_names(head) { Ok(()) } else { self.admit_admin(head) }
    }

    /// Admits those who may buy for this user, within the rate limit of a user.
    pub(super) fn admit_buyer_for(
        &self,
        user: &UserId,
        head: &request::Parts,
    ) -> Result<(), Problem> {
        match caller(head) {
            Caller::User(subject) if !same(subject, user) => {
                let what = "user_id must be the subject of the token";
                Err(Problem::new(StatusCode::FORBIDDEN, what))
            }
            _ => {
                let rules = self.rules.load();
                let Some(users) = &rules.users else { return Ok(()) };
                let what = "too many orders for this user; wait for Retry-After seconds";
                users.take(user).map_err(|wait| too_many(what, wait))
            }
        }
    }

    /// Admits those who may buy at all, within the rate limit of an address.
    pub(super) fn admit_buyer(&self, head: &request::Parts, peer: IpAddr) -> Result<(), Problem> {
        let rules = self.rules.load();
        match caller(head) {
            Caller::Admin | Caller::Shop => return Ok(()),
            Caller::User(_) => {}
            Caller::Nobody | Caller::Refused(_) if !rules.keys_on() => {}
            Caller::Refused(why) => return Err(unauthorized(why)),
            Caller::Nobody => {
                let what = "buying requires a key: send Authorization: Bearer KEY";
                return Err(unauthorized(what));
            }
        }
        let Some(addresses) = &rules.addresses else { return Ok(()) };
        let what = "too many orders from this address; wait for Retry-After seconds";
        addresses.take(rules.address(peer, &head.headers)).map_err(|wait| too_many(what, wait))
    }

    /// The address under which limits count a client; for IPv6, its network.
    pub(super) fn counted_address(&self, head: &request::Parts, peer: IpAddr) -> IpAddr {
        self.rules.load().address(peer, &head.headers)
    }

    /// Adds the CORS headers for the origin of the request.
    pub(super) fn allow_origin(&self, request: &HeaderMap, response: &mut HeaderMap) {
        self.rules.load().origins.allow(request, response);
    }

    /// Admits those who may see at least some orders. The others get the same 401 for every id,
    /// which reveals no existing id.
    pub(super) fn admit_to_orders(&self, caller: &Caller) -> Result<(), Problem> {
        match caller {
            Caller::Refused(why) if !self.names_are_public() => Err(unauthorized(why)),
            Caller::Nobody if !self.names_are_public() => {
                Err(unauthorized("reading an order requires a key: send Authorization: Bearer KEY"))
            }
            _ => Ok(()),
        }
    }

    /// Whether an order of this user may be shown.
    pub(super) fn can_see_order_of(&self, user: &UserId, caller: &Caller) -> bool {
        let may_see = match caller {
            Caller::Admin | Caller::Shop => true,
            Caller::User(subject) => same(subject, user),
            Caller::Nobody | Caller::Refused(_) => false,
        };
        may_see || !self.rules.load().keys_on()
    }

    /// The API path of a request. A proxy may or may not have removed the path of `public_url`.
    pub(super) fn path<'a>(&self, head: &'a request::Parts) -> &'a str {
        let path = head.uri.path();
        let rules = self.rules.load();
        let below = path.strip_prefix(rules.prefix()).filter(|below| below.starts_with('/'));
        below.unwrap_or(path)
    }

    /// The path under which clients reach an API path.
    pub(super) fn location(&self, path: fmt::Arguments<'_>) -> HeaderValue {
        let rules = self.rules.load();
        let location = HeaderValue::try_from(format!("{}{path}", rules.prefix()));
        location.expect("paths of the API are visible ASCII")
    }

    /// The redirect target if a request is for the path of `public_url` without its final slash,
    /// which relative URLs need.
    pub(super) fn base_without_slash(&self, head: &request::Parts) -> Option<HeaderValue> {
        let rules = self.rules.load();
        let prefix = rules.prefix();
        if prefix.is_empty() || head.uri.path() != prefix {
            return None;
        }
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        HeaderValue::try_from(format!("{prefix}/{query}")).ok()
    }

    /// `public_url`, without a slash at its end.
    pub(super) fn public_base(&self) -> Option<String> {
        self.rules.load().public_url.as_ref().map(PublicUrl::base)
    }
}

/// The sender of a request, as recorded by [`Access::identify`].
pub(super) fn caller(head: &request::Parts) -> &Caller {
    head.extensions.get().map_or(&Caller::Nobody, |session: &Session| &session.caller)
}

/// Whether the request carries the admin key.
pub(super) fn is_admin(head: &request::Parts) -> bool {
    *caller(head) == Caller::Admin
}

/// Compares in a time that reveals only the lengths of the names.
fn same(one: &UserId, other: &UserId) -> bool {
    one.as_str().as_bytes().ct_eq(other.as_str().as_bytes()).into()
}

fn too_many(what: &'static str, wait: Duration) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, what).with_retry_after(wait)
}

fn unauthorized(what: &'static str) -> Problem {
    let problem = Problem::new(StatusCode::UNAUTHORIZED, what);
    problem.with_header(header::WWW_AUTHENTICATE, "Bearer")
}
