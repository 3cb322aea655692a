//! The access rules of a server.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::HeaderMap;

use super::address;
use super::address::Proxies;
use super::cors::Origins;
use super::keys::Keys;
use super::public_url::PublicUrl;
use super::rates::{Limiter, Rate};
use super::session::{Caller, Identity};
use super::tokens::{Check, TokenRules, Tokens};

/// The access rules, as configured. By default no keys are required.
#[derive(Debug, Default)]
pub struct AccessRules {
    /// Keys that allow everything. Without any, admin requests are refused.
    pub admin_keys: Keys,
    /// Keys that allow buying for any user and reading any order, for a shop's own server.
    pub buy_keys: Keys,
    /// Tokens that allow buying for their subject and reading the subject's orders.
    pub tokens: TokenRules,
    /// Limit on orders of one user, including repeats.
    pub user_rate: Option<Rate>,
    /// Limit on orders from one address. Requests with a buy key or admin key, which buy for many
    /// users, are exempt.
    pub address_rate: Option<Rate>,
    pub trusted_proxies: Proxies,
    pub origins: Origins,
    /// The URL under which clients reach the server, if it differs from where it listens.
    pub public_url: Option<PublicUrl>,
    /// The configured host to listen on. Without keys, a server on a loopback address also accepts
    /// this name as `Host`.
    pub listen_host: Option<String>,
    /// Maximum open connections; `None` for [`Limits::connections`](crate::http::Limits::connections).
    pub connections: Option<usize>,
}

/// [`AccessRules`] with the state that applying them needs.
#[derive(Debug)]
pub(super) struct ActiveRules {
    /// Number of replacements so far.
    pub generation: u64,
    pub admin_keys: Keys,
    pub buy_keys: Keys,
    pub tokens: Option<Tokens>,
    pub users: Option<Arc<Limiter>>,
    pub addresses: Option<Arc<Limiter>>,
    pub trusted_proxies: Proxies,
    pub origins: Origins,
    pub public_url: Option<PublicUrl>,
    pub listen_host: Option<String>,
    pub connections: Option<usize>,
}

impl ActiveRules {
    /// Limiters of `before` whose rate is unchanged keep their state.
    pub fn new(rules: AccessRules, before: Option<&ActiveRules>) -> Self {
        let limiter = |rate: Option<Rate>, before: Option<&Arc<Limiter>>| {
            let unchanged = before.filter(|before| Some(before.rate) == rate).cloned();
            rate.map(|rate| unchanged.unwrap_or_else(|| Arc::new(Limiter::new(rate))))
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

    /// Whether buying requires a key or token. If so, owners are shown only to the admin, and orders
    /// only to their user.
    pub fn keys_on(&self) -> bool {
        !self.buy_keys.is_empty() || self.tokens.is_some()
    }

    /// The sender of a credential. All keys are compared first, so that a flood of tokens does not
    /// delay the holders of keys.
    pub async fn identify(&self, credential: &[u8], check: Check<'_>) -> Identity {
        let is_admin = self.admin_keys.contain(credential);
        let is_shop = self.buy_keys.contain(credential);
        match &self.tokens {
            _ if is_admin => Identity::of(Caller::Admin),
            _ if is_shop => Identity::of(Caller::Shop),
            Some(tokens) => tokens.identify(credential, check).await,
            None => Identity::of(Caller::Refused("the key is unknown to this server")),
        }
    }

    /// The address under which limits count the sender of a request.
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        address::counted(self.trusted_proxies.client(peer, headers))
    }

    /// The path of `public_url`; empty without one.
    pub fn prefix(&self) -> &str {
        self.public_url.as_ref().map_or("", PublicUrl::prefix)
    }
}
