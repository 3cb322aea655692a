//! Who may do what, and how often.

mod address;
mod cors;
mod key_set;
mod keys;
mod public_url;
mod rates;
mod session;
mod signatures;
mod site;
mod tokens;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use hyper::http::request;
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, SemaphorePermit};

use rates::Limiter;
pub(super) use session::{Caller, Session};
use session::{Judgement, bearer};
use tokens::Tokens;

use super::problem::Problem;
use super::server::Server;
use crate::core::model::UserId;
pub use address::Proxies;
pub use cors::Origins;
pub use key_set::{KeySet, KeySource};
pub use keys::Keys;
pub use public_url::PublicUrl;
pub use rates::Rate;
pub use tokens::TokenRules;

/// By what a server lets callers in. The default asks nobody for a key.
#[derive(Debug, Default)]
pub struct AccessRules {
    /// Who holds one of these may do everything. Without any, what is the admin's is closed.
    pub admin_keys: Keys,
    /// Who holds one of these may buy for any user and look at any order: a shop's own server.
    pub buy_keys: Keys,
    /// Who sends one of these tokens may buy for its subject, and look at the subject's orders.
    pub tokens: TokenRules,
    /// How often one user may send orders, repeats too.
    pub user_rate: Option<Rate>,
    /// How often orders may come from one address. Holders of a buy key or admin key, who buy for
    /// many, are free of it.
    pub address_rate: Option<Rate>,
    pub trusted_proxies: Proxies,
    pub origins: Origins,
    /// Where clients find the server, if that is not where it listens.
    pub public_url: Option<PublicUrl>,
    /// The host that the server was told to listen on. Without keys, a server on a loopback address
    /// answers to this name too.
    pub listen_host: Option<String>,
    /// Open connections; `None` for [`super::Limits::connections`].
    pub connections: Option<usize>,
}

/// [`AccessRules`] made ready to judge by.
#[derive(Debug)]
struct Rules {
    /// Counts the replacements.
    generation: u64,
    admin_keys: Keys,
    buy_keys: Keys,
    tokens: Option<Tokens>,
    users: Option<Arc<Limiter>>,
    addresses: Option<Arc<Limiter>>,
    trusted_proxies: Proxies,
    origins: Origins,
    public_url: Option<PublicUrl>,
    listen_host: Option<String>,
    connections: Option<usize>,
}

impl Rules {
    /// Rates that are as they were go on where they are.
    fn new(rules: AccessRules, before: Option<&Rules>) -> Self {
        let limiter = |rate: Option<Rate>, before: Option<&Arc<Limiter>>| {
            let same = before.filter(|before| Some(before.rate) == rate).cloned();
            rate.map(|rate| same.unwrap_or_else(|| Arc::new(Limiter::new(rate))))
        };
        Self {
            generation: before.map_or(0, |before| before.generation + 1),
            admin_keys: rules.admin_keys,
            buy_keys: rules.buy_keys,
            tokens: Tokens::new(rules.tokens),
            users: limiter(rules.user_rate, before.and_then(|b| b.users.as_ref())),
            addresses: limiter(rules.address_rate, before.and_then(|b| b.addresses.as_ref())),
            trusted_proxies: rules.trusted_proxies,
            origins: rules.origins,
            public_url: rules.public_url,
            listen_host: rules.listen_host,
            connections: rules.connections,
        }
    }

    /// Whether buying takes a key. Then owners are the admin's to see, an order its user's.
    pub fn keys_on(&self) -> bool {
        !self.buy_keys.is_empty() || self.tokens.is_some()
    }

    /// Keys are compared first, all of them, so that no flood of tokens is in a key's way.
    async fn recognize(&self, credential: &[u8], check: Check<'_>) -> Judgement {
        let is_admin = self.admin_keys.contain(credential);
        let is_shop = self.buy_keys.contain(credential);
        match &self.tokens {
            _ if is_admin => Judgement::of(Caller::Admin),
            _ if is_shop => Judgement::of(Caller::Shop),
            Some(tokens) => tokens.judge(credential, check).await,
            None => Judgement::of(Caller::Refused("this key is not known here")),
        }
    }

    /// The address that a request's sender is counted under.
    fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        address::counted(self.trusted_proxies.client(peer, headers))
    }
}

/// How a token's signature is checked.
#[derive(Debug, Clone, Copy)]
enum Check<'a> {
    AtOnce,
    /// After all else about the token, and one at a time: its address has sent many bad ones.
    InTurn(&'a Semaphore),
}

impl Check<'_> {
    /// Waits for the turn, which lasts until this is dropped.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        match self {
            Check::AtOnce => None,
            Check::InTurn(turns) => turns.acquire().await.ok(),
        }
    }
}

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
    rules: ArcSwap<Rules>,
    /// Credentials that were no good, by address.
    failures: Limiter,
    suspects: Semaphore,
    /// Whether the log has named a proxy that is missing in `trusted_proxies`.
    proxy_named: AtomicBool,
}

impl Access {
    pub fn new(rules: AccessRules) -> Arc<Self> {
        let failures = Rate { per_second: FAILURES_PER_SECOND, burst: FAILURES_BURST };
        let rules = ArcSwap::from_pointee(Rules::new(rules, None));
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
    /// on: see [`Session::caller`].
    pub fn replace(&self, rules: AccessRules) {
        let before = self.rules.load_full();
        self.rules.store(Arc::new(Rules::new(rules, Some(&before))));
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
    fn name_proxy(&self, rules: &Rules, peer: IpAddr, headers: &HeaderMap) {
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
}

impl Server {
    /// Finds out who sent a request, once, for [`Server::caller`]. A good credential always passes.
    /// Bad ones of one address are limited: beyond the limit the request that carries one is
    /// answered 429.
    pub(super) async fn identify(
        &self,
        head: &mut request::Parts,
        peer: IpAddr,
    ) -> Result<(), Problem> {
        let access = &self.api.access;
        let rules = access.rules.load();
        access.name_proxy(&rules, peer, &head.headers);
        if rules.admin_keys.is_empty() && !rules.keys_on() {
            return Ok(());
        }
        let Some(authorization) = head.headers.get(header::AUTHORIZATION) else { return Ok(()) };
        let Some(credential) = bearer(authorization) else { return Ok(()) };
        let rules = Guard::into_inner(rules);
        let address = rules.address(peer, &head.headers);
        let check = match access.failures.wait(address) {
            Some(_) => Check::InTurn(&access.suspects),
            None => Check::AtOnce,
        };
        let judgement = rules.recognize(credential, check).await;
        if matches!(judgement.caller, Caller::Refused(_)) {
            let what = "too many keys or tokens from this address were no good; Retry-After says \
                        when to come again";
            access.failures.take(address).map_err(|wait| too_many(what, wait))?;
        }
        let session = Session::new(authorization.clone(), judgement, rules.generation);
        head.extensions.insert(session);
        Ok(())
    }

    pub(super) fn caller<'a>(&self, head: &'a request::Parts) -> &'a Caller {
        head.extensions.get().map_or(&Caller::Nobody, |session: &Session| &session.caller)
    }

    /// For an answer that takes long.
    pub(super) fn session(&self, head: &request::Parts) -> Session {
        head.extensions.get().cloned().unwrap_or_default()
    }

    /// Lets the holder of the admin key in, and nobody while there is none.
    pub(super) fn admit_admin(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.api.access.rules.load().admin_keys.is_empty() {
            let what = "closed: no admin_key is configured";
            return Err(Problem::new(StatusCode::FORBIDDEN, what));
        }
        match self.caller(head) {
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

    /// Whether the request carries the admin key.
    pub(super) fn is_admin(&self, head: &request::Parts) -> bool {
        *self.caller(head) == Caller::Admin
    }

    /// Whether owners and buyers are shown by name: to anybody while no keys are needed to buy, and
    /// else to the admin.
    pub(super) fn sees_names(&self, head: &request::Parts) -> bool {
        self.names_are_public() || self.is_admin(head)
    }

    pub(super) fn names_are_public(&self) -> bool {
        !self.api.access.rules.load().keys_on()
    }

    /// Whether orders for items that nobody listed are accepted.
    pub(super) fn sells_unlisted(&self) -> bool {
        let by_default = || self.api.access.is_private(self.address);
        self.api.unlisted_stock.map_or_else(by_default, |stock| stock > 0)
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
        match self.caller(head) {
            Caller::User(subject) if !same(subject, user) => {
                let what = "user_id is not the token's subject: a user buys for themselves only";
                Err(Problem::new(StatusCode::FORBIDDEN, what))
            }
            _ => {
                let rules = self.api.access.rules.load();
                let Some(users) = &rules.users else { return Ok(()) };
                let what = "too many orders of this user; Retry-After says when to come again";
                users.take(user).map_err(|wait| too_many(what, wait))
            }
        }
    }

    /// Lets those in who may buy for somebody, as often as an address may.
    pub(super) fn admit_buyer(&self, head: &request::Parts, peer: IpAddr) -> Result<(), Problem> {
        let rules = self.api.access.rules.load();
        match self.caller(head) {
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
        self.api.access.rules.load().address(peer, &head.headers)
    }

    /// Tells pages of other sites' whether they may read an answer.
    pub(super) fn allow_origin(&self, asked: &HeaderMap, answered: &mut HeaderMap) {
        self.api.access.rules.load().origins.allow(asked, answered);
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
        sees || !self.api.access.rules.load().keys_on()
    }
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
