//! The rules by which a server lets callers in.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::HeaderMap;

use super::address;
use super::address::Proxies;
use super::cors::Origins;
use super::keys::Keys;
use super::public_url::PublicUrl;
use super::rates::{Limiter, Rate};
use super::session::{Caller, Judgement};
use super::tokens::{Check, TokenRules, Tokens};

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
    /// Open connections; `None` for [`Limits::connections`](crate::http::Limits::connections).
    pub connections: Option<usize>,
}

/// [`AccessRules`] made ready to judge by.
#[derive(Debug)]
pub(super) struct ActiveRules {
    /// Counts the replacements.
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
    /// Rates that are as they were go on where they are.
    pub fn new(rules: AccessRules, before: Option<&ActiveRules>) -> Self {
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
    pub async fn recognize(&self, credential: &[u8], check: Check<'_>) -> Judgement {
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
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        address::counted(self.trusted_proxies.client(peer, headers))
    }

    /// The path below which the server is; empty if it has a host of its own.
    pub fn prefix(&self) -> &str {
        self.public_url.as_ref().map_or("", PublicUrl::prefix)
    }
}
