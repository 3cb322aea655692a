//! Who may do what.

mod keys;

use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use hyper::http::request;

use super::problem::Problem;
use super::server::Server;
use crate::core::order::UserId;
pub use keys::Keys;

/// By what a server lets callers in. The default asks nobody for a key.
#[derive(Debug, Default)]
pub struct AccessRules {
    /// Who holds one of these may do everything. Without any, what is the admin's is closed.
    pub admin_keys: Keys,
    /// Who holds one of these may buy for any user and look at any order: a shop's own server.
    pub buy_keys: Keys,
}

impl AccessRules {
    /// Whether buying takes a key. Then owners are the admin's to see, an order its user's.
    pub fn keys_on(&self) -> bool {
        !self.buy_keys.is_empty()
    }

    fn recognize(&self, credential: &[u8]) -> Caller {
        if self.admin_keys.contain(credential) {
            Caller::Admin
        } else if self.buy_keys.contain(credential) {
            Caller::Shop
        } else {
            Caller::Refused("this key is not known here")
        }
    }
}

/// The rules in force, which may be replaced while the server runs.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<AccessRules>,
}

impl Access {
    pub fn new(rules: AccessRules) -> Arc<Self> {
        Arc::new(Self { rules: ArcSwap::from_pointee(rules) })
    }

    /// Nobody needs a key to buy, and nobody is the admin.
    pub fn open() -> Arc<Self> {
        Self::new(AccessRules::default())
    }

    /// Requests that come from now on are judged by these.
    pub fn replace(&self, rules: AccessRules) {
        self.rules.store(Arc::new(rules));
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
    Admin,
}

impl Server {
    /// Works out who sent a request, once, for [`Server::caller`].
    pub(super) fn identify(&self, head: &mut request::Parts) {
        let rules = self.api.access.rules.load();
        if rules.admin_keys.is_empty() && !rules.keys_on() {
            return;
        }
        if let Some(credential) = bearer(head) {
            let caller = rules.recognize(credential);
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
            Caller::Shop => {
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

    /// Lets those in who may buy for somebody.
    pub(super) fn admit_buyer(&self, head: &request::Parts) -> Result<(), Problem> {
        if !self.api.access.rules.load().keys_on() {
            return Ok(());
        }
        match self.caller(head) {
            Caller::Admin | Caller::Shop => Ok(()),
            Caller::Refused(why) => Err(unauthorized(why)),
            Caller::Nobody => Err(unauthorized("to buy, send a key: Authorization: Bearer ...")),
        }
    }

    /// Whether an order of this user may be shown.
    pub(super) fn sees_order_of(&self, _user: &UserId, caller: &Caller) -> bool {
        let sees = matches!(caller, Caller::Admin | Caller::Shop);
        sees || !self.api.access.rules.load().keys_on()
    }
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
