//! Who may do what, and how often.

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

/// Credentials of one address that may be no good: so many a second, and at once after a pause.
const FAILURES_PER_SECOND: u32 = 10;
const FAILURES_BURST: u32 = 100;

/// Signatures that are checked at once for addresses that are over that limit. A signature takes
/// some 0.1 ms, so a flood of forged tokens takes one core at most, and a good token among them
/// waits for its turn: at most one check for each open connection.
const SUSPECTS_AT_ONCE: usize = 1;

/// The rules in force, which may be replaced while the server runs.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<ActiveRules>,
    /// Credentials that were no good, by address.
    failures: Limiter,
    suspects: Semaphore,
    /// Whether the log has named a proxy that is missing in `trusted_proxies`.
    proxy_named: AtomicBool,
}

impl Access {
    pub fn new(rules: AccessRules) -> Arc<Self> {
        let failures = Rate { per_second: FAILURES_PER_SECOND, burst: FAILURES_BURST };
        let rules = ArcSwap::from_pointee(ActiveRules::new(rules, None));
        Arc::new(Self {
            rules,
            failures: Limiter::new(failures),
            suspects: Semaphore::new(SUSPECTS_AT_ONCE),
            proxy_named: AtomicBool::new(false),
        })
    }

    /// Nobody needs a key to buy, and nobody is the admin.
    pub fn open() -> Arc<Self> {
        Self::new(AccessRules::default())
    }

    /// Requests that come from now on are judged by these, and so are answers that are still going
    /// on: see [`Access::current_caller`].
    pub fn replace(&self, rules: AccessRules) {
        let before = self.rules.load_full();
        self.rules.store(Arc::new(ActiveRules::new(rules, Some(&before))));
    }

    pub(super) fn connections_max(&self) -> Option<usize> {
        self.rules.load().connections
    }

    /// Whether a server at this address is somebody's own: buying takes no key, and nobody else
    /// reaches it.
    pub(super) fn is_private(&self, address: Option<SocketAddr>) -> bool {
        is_alone(address) && !self.rules.load().keys_on()
    }

    /// What whoever runs a server at this address has to know: buying takes no key, and others
    /// reach it.
    pub fn warning(&self, address: Option<SocketAddr>) -> Option<&'static str> {
        (!is_alone(address) && !self.rules.load().keys_on()).then_some(
            "anybody who reaches this address may buy in anybody's name and see who bought what: \
             set buy_key, jwt_secret or jwt_jwks, or listen on 127.0.0.1",
        )
    }
}

fn is_alone(address: Option<SocketAddr>) -> bool {
    address.is_none_or(|address| address.ip().to_canonical().is_loopback())
}

impl Access {
    /// Whether names are shown to the sender of this credential, by the rules in force.
    pub(super) fn shows_names_to(&self, credential: Option<&[u8]>) -> bool {
        let rules = self.rules.load();
        !rules.keys_on() || credential.is_some_and(|given| rules.admin_keys.contain(given))
    }

    /// Logs once per process that a proxy is not trusted: its clients then share one address, and
    /// with it every limit by address.
    fn name_proxy(&self, rules: &ActiveRules, peer: IpAddr, headers: &HeaderMap) {
        if self.proxy_named.load(Ordering::Relaxed)
            || !address::is_forwarded(headers)
            || rules.trusted_proxies.contain(peer.to_canonical())
            || self.proxy_named.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let peer = peer.to_canonical();
        tracing::warn!(
            "{peer} sent X-Forwarded-For or Forwarded and is not in trusted_proxies: the header is \
             ignored, and all clients behind {peer} count as one address; if it is your proxy, add \
             it to trusted_proxies"
        );
    }

    /// Finds out who sent a request, once, for [`caller`]. A good credential always passes. Bad ones
    /// of one address are limited: beyond the limit the request that carries one is answered 429.
    pub(super) async fn identify(
        &self,
        head: &mut request::Parts,
        peer: IpAddr,
    ) -> Result<(), Problem> {
        let rules = self.rules.load();
        self.name_proxy(&rules, peer, &head.headers);
        if rules.admin_keys.is_empty() && !rules.keys_on() {
            return Ok(());
        }
        let Some(authorization) = head.headers.get(header::AUTHORIZATION) else { return Ok(()) };
        let Some(credential) = bearer(authorization) else { return Ok(()) };
        let rules = Guard::into_inner(rules);
        let address = rules.address(peer, &head.headers);
        let check = match self.failures.wait(address) {
            Some(_) => Check::InTurn(&self.suspects),
            None => Check::AtOnce,
        };
        let judgement = rules.recognize(credential, check).await;
        if matches!(judgement.caller, Caller::Refused(_)) {
            let what = "too many keys or tokens from this address were no good; Retry-After says \
                        when to come again";
            self.failures.take(address).map_err(|wait| too_many(what, wait))?;
        }
        let session = Session::new(authorization.clone(), judgement, rules.generation);
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
            let judgement = rules.recognize(credential, Check::AtOnce).await;
            *session = Session::new(authorization, judgement, rules.generation);
        }
        &session.caller
    }

    /// Lets the holder of the admin key in, and nobody while there is none.
    pub(super) fn admit_admin(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.rules.load().admin_keys.is_empty() {
            let what = "closed: no admin_key is configured";
            return Err(Problem::new(StatusCode::FORBIDDEN, what));
        }
        match caller(head) {
            Caller::Admin => Ok(()),
            Caller::Shop | Caller::User(_) => {
                let what = "this takes the admin key";
                Err(Problem::new(StatusCode::FORBIDDEN, what))
            }
            Caller::Nobody | Caller::Refused(_) => {
                Err(unauthorized("send the admin key: Authorization: Bearer ..."))
            }
        }
    }

    /// Whether owners and buyers are shown by name: to anybody while no keys are needed to buy, and
    /// else to the admin.
    pub(super) fn sees_names(&self, head: &request::Parts) -> bool {
        self.names_are_public() || is_admin(head)
    }

    pub(super) fn names_are_public(&self) -> bool {
        !self.rules.load().keys_on()
    }

    /// Lets those in who see names.
    pub(super) fn admit_to_names(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.sees_names(head) { Ok(()) } else { self.admit_admin(head) }
    }

    /// Lets those in who may buy for this user, as often as a user may.
    pub(super) fn admit_buyer_for(
        &self,
        user: &UserId,
        head: &request::Parts,
    ) -> Result<(), Problem> {
        match caller(head) {
            Caller::User(subject) if !same(subject, user) => {
                let what = "user_id is not the token's subject: a user buys for themselves only";
                Err(Problem::new(StatusCode::FORBIDDEN, what))
            }
            _ => {
                let rules = self.rules.load();
                let Some(users) = &rules.users else { return Ok(()) };
                let what = "too many orders of this user; Retry-After says when to come again";
                users.take(user).map_err(|wait| too_many(what, wait))
            }
        }
    }

    /// Lets those in who may buy for somebody, as often as an address may.
    pub(super) fn admit_buyer(&self, head: &request::Parts, peer: IpAddr) -> Result<(), Problem> {
        let rules = self.rules.load();
        match caller(head) {
            Caller::Admin | Caller::Shop => return Ok(()),
            Caller::User(_) => {}
            Caller::Nobody | Caller::Refused(_) if !rules.keys_on() => {}
            Caller::Refused(why) => return Err(unauthorized(why)),
            Caller::Nobody => {
                return Err(unauthorized("to buy, send a key: Authorization: Bearer ..."));
            }
        }
        let Some(addresses) = &rules.addresses else { return Ok(()) };
        let what = "too many orders from this address; Retry-After says when to come again";
        addresses.take(rules.address(peer, &head.headers)).map_err(|wait| too_many(what, wait))
    }

    /// The address that a client counts as, of IPv6 its network.
    pub(super) fn counted_address(&self, head: &request::Parts, peer: IpAddr) -> IpAddr {
        self.rules.load().address(peer, &head.headers)
    }

    /// Tells pages of other sites' whether they may read an answer.
    pub(super) fn allow_origin(&self, asked: &HeaderMap, answered: &mut HeaderMap) {
        self.rules.load().origins.allow(asked, answered);
    }

    /// Lets those in who may see some order, and tells the others at once that a key is needed:
    /// what they hear is the same for every id.
    pub(super) fn admit_to_orders(&self, caller: &Caller) -> Result<(), Problem> {
        match caller {
            Caller::Refused(why) if !self.names_are_public() => Err(unauthorized(why)),
            Caller::Nobody if !self.names_are_public() => {
                Err(unauthorized("to see an order, send a key: Authorization: Bearer ..."))
            }
            _ => Ok(()),
        }
    }

    /// Whether an order of this user may be shown.
    pub(super) fn sees_order_of(&self, user: &UserId, caller: &Caller) -> bool {
        let sees = match caller {
            Caller::Admin | Caller::Shop => true,
            Caller::User(subject) => same(subject, user),
            Caller::Nobody | Caller::Refused(_) => false,
        };
        sees || !self.rules.load().keys_on()
    }

    /// The path of the API that a request asks for. A proxy may take the path of `public_url` away or
    /// leave it.
    pub(super) fn path<'a>(&self, head: &'a request::Parts) -> &'a str {
        let path = head.uri.path();
        let rules = self.rules.load();
        let below = path.strip_prefix(rules.prefix()).filter(|below| below.starts_with('/'));
        below.unwrap_or(path)
    }

    /// A path of the API as clients have to ask for it.
    pub(super) fn location(&self, path: fmt::Arguments<'_>) -> HeaderValue {
        let rules = self.rules.load();
        let location = HeaderValue::try_from(format!("{}{path}", rules.prefix()));
        location.expect("paths of the API are visible ASCII")
    }

    /// Where to go instead, for a request that asks for the path of `public_url` without the slash
    /// that relative addresses need.
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

/// Compares in a time that tells nothing but the names' lengths.
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
