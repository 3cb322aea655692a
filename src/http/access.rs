//! Who may do what.

mod key_set;
mod keys;
mod signatures;
mod tokens;

use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use hyper::http::request;

use subtle::ConstantTimeEq;
use tokens::Tokens;

use super::problem::Problem;
use super::server::Server;
use crate::core::order::UserId;
pub use key_set::{KeySet, KeySource};
pub use keys::Keys;
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
}

/// [`AccessRules`] made ready to judge by.
#[derive(Debug)]
struct Rules {
    admin_keys: Keys,
    buy_keys: Keys,
    tokens: Option<Tokens>,
}

impl Rules {
    fn new(rules: AccessRules) -> Self {
        let AccessRules { admin_keys, buy_keys, tokens } = rules;
        Self { admin_keys, buy_keys, tokens: Tokens::new(tokens) }
    }

    /// Whether buying takes a key. Then owners are the admin's to see, an order its user's.
    pub fn keys_on(&self) -> bool {
        !self.buy_keys.is_empty() || self.tokens.is_some()
    }

    async fn recognize(&self, credential: &[u8]) -> Caller {
        if self.admin_keys.contain(credential) {
            Caller::Admin
        } else if self.buy_keys.contain(credential) {
            Caller::Shop
        } else if let Some(tokens) = &self.tokens {
            tokens.user(credential).await.map_or_else(Caller::Refused, Caller::User)
        } else {
            Caller::Refused("this key is not known here")
        }
    }
}

/// The rules in force, which may be replaced while the server runs.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<Rules>,
}

impl Access {
    pub fn new(rules: AccessRules) -> Arc<Self> {
        Arc::new(Self { rules: ArcSwap::from_pointee(Rules::new(rules)) })
    }

    /// Nobody needs a key to buy, and nobody is the admin.
    pub fn open() -> Arc<Self> {
        Self::new(AccessRules::default())
    }

    /// Requests that come from now on are judged by these.
    pub fn replace(&self, rules: AccessRules) {
        self.rules.store(Arc::new(Rules::new(rules)));
    }
}

/// Who sent a request, by the credential that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    Nobody,
    /// Sent a credential that is no good; why.
    Refused(&'static str),
    /// Holds the buy key.
    Shop,
    /// The subject of a token.
    User(UserId),
    Admin,
}

impl Server {
    /// Works out who sent a request, once, for [`Server::caller`].
    pub(super) async fn identify(&self, head: &mut request::Parts) {
        let rules = self.api.access.rules.load();
        if rules.admin_keys.is_empty() && !rules.keys_on() {
            return;
        }
        if let Some(credential) = bearer(head) {
            let caller = arc_swap::Guard::into_inner(rules).recognize(credential).await;
            head.extensions.insert(caller);
        }
    }

    pub(super) fn caller<'a>(&self, head: &'a request::Parts) -> &'a Caller {
        head.extensions.get().unwrap_or(&Caller::Nobody)
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

    /// Lets those in who see names.
    pub(super) fn admit_to_names(&self, head: &request::Parts) -> Result<(), Problem> {
        if self.sees_names(head) { Ok(()) } else { self.admit_admin(head) }
    }

    /// Lets those in who may buy for this user.
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
            _ => Ok(()),
        }
    }

    /// Lets those in who may buy for somebody.
    pub(super) fn admit_buyer(&self, head: &request::Parts) -> Result<(), Problem> {
        if !self.api.access.rules.load().keys_on() {
            return Ok(());
        }
        match self.caller(head) {
            Caller::Admin | Caller::Shop | Caller::User(_) => Ok(()),
            Caller::Refused(why) => Err(unauthorized(why)),
            Caller::Nobody => Err(unauthorized("to buy, send a key: Authorization: Bearer ...")),
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

fn unauthorized(what: &'static str) -> Problem {
    let problem = Problem::new(StatusCode::UNAUTHORIZED, what);
    problem.with_header(header::WWW_AUTHENTICATE, "Bearer")
}

fn bearer(head: &request::Parts) -> Option<&[u8]> {
    let given = head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let (scheme, credential) = given.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(credential)
}
