//! Checks of the settings beyond their types.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use secrecy::ExposeSecret;
use tracing_subscriber::EnvFilter;

use super::{Backend, ConfigError, Settings, needs_feature};
use crate::clear_text::{Tls, confidential_url};
use crate::core::model::event::Kinds;
use crate::webhooks::{EndpointUrl, Secrets};

impl Settings {
    /// Checks that values are within their bounds and consistent with each other.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_bounds()?;
        below(("lease_ms", self.lease_ms), ("visibility_timeout_ms", self.visibility_timeout_ms))?;
        // A stop waits for the current receive.
        below(("receive_wait_ms", self.receive_wait_ms), ("grace_ms", self.grace_ms))?;
        let queue = self.retention_days;
        let dlq = self.dlq_retention_days;
        if dlq < queue {
            return Err(ConfigError(format!(
                "dlq_retention_days ({dlq}) must be at least retention_days ({queue}), because \
                 a dead-lettered message keeps its age: raise the former or lower the latter"
            )));
        }
        self.check_names()?;
        self.check_webhooks()?;
        self.check_secrets()?;
        self.check_tokens()?;
        let addresses =
            [("listen", Some(&self.listen)), ("metrics_listen", self.metrics_listen.as_ref())];
        for (key, address) in addresses {
            let port = address.map(|a| a.rsplit_once(':').map(|(_, port)| port.parse::<u16>()));
            if !matches!(port, None | Some(Some(Ok(_)))) {
                return Err(ConfigError(format!("{key} must be HOST:PORT, like 127.0.0.1:5000")));
            }
        }
        Ok(())
    }

    /// Checks that this build has the cargo features that the settings need.
    pub(super) fn check_features(&self) -> Result<(), ConfigError> {
        if !cfg!(feature = "aws") && self.backend() == Backend::Aws {
            let chosen = match self.backend {
                Some(_) => "backend = aws",
                None => "the aws backend, which sqs_queue_url (SQS_QUEUE_URL) chooses,",
            };
            return Err(ConfigError(needs_feature(chosen, "aws")));
        }
        let redis = [
            ("redis_url (REDIS_URL)", self.redis_url.is_some()),
            ("redis_host (REDIS_HOST)", self.redis_host.is_some()),
        ];
        match redis.iter().find(|(_, set)| *set) {
            Some((key, _)) if !cfg!(feature = "redis") => {
                Err(ConfigError(needs_feature(key, "redis")))
            }
            _ => Ok(()),
        }
    }

    fn check_tokens(&self) -> Result<(), ConfigError> {
        let wrong = |why: &str| Err(ConfigError(why.to_owned()));
        if self.jwt_secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < 32) {
            // RFC 7518, section 3.2: at least as long as the hash.
            return wrong("jwt_secret must be at least 32 bytes: openssl rand -hex 32 makes one");
        }
        if let Some(source) = &self.jwt_jwks
            && source.contains("://")
            && let Err(e) = confidential_url(source, "https://idp.example/keys")
        {
            return wrong(&format!("jwt_jwks must be {e}, or a file"));
        }
        let checks_claims = self.jwt_issuer.is_some() || self.jwt_audience.is_some();
        if checks_claims && self.jwt_secret.is_none() && self.jwt_jwks.is_none() {
            return wrong(
                "jwt_issuer and jwt_audience need jwt_secret or jwt_jwks: set one, or remove them",
            );
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        // Amazon DynamoDB Developer Guide, "Naming rules": 3 to 255 characters, `_items` included.
        let table = &self.dynamodb_table;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !(3..=249).contains(&table.len()) || !table.chars().all(fits) {
            let why = "dynamodb_table must be 3-249 characters out of A-Z a-z 0-9 _ - .";
            return Err(ConfigError(why.to_owned()));
        }
        let url = self.redis_url.as_ref().map(|url| url.expose_secret());
        let is_redis = |url: &str| {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            matches!(scheme, "redis" | "rediss" | "redis-cluster" | "rediss-cluster")
        };
        if url.is_some_and(|url| !is_redis(url)) {
            let why = "redis_url must begin with redis://, or rediss:// for TLS (or \
                       redis-cluster://, rediss-cluster://)";
            return Err(ConfigError(why.to_owned()));
        }
        if self.redis_tls == Tls::Off && url.is_some_and(|url| url.starts_with("rediss")) {
            let why = "redis_tls = off contradicts rediss:// in redis_url: change one of them";
            return Err(ConfigError(why.to_owned()));
        }
        if self.redis_host.as_ref().is_some_and(|host| !is_host(host)) {
            let why = "redis_host must be a host name or address, like 10.0.0.7 (set the port in \
                       redis_port)";
            return Err(ConfigError(why.to_owned()));
        }
        if let Err(e) = EnvFilter::builder().parse(&self.log) {
            let hint = "use error, warn, info, debug or trace";
            return Err(ConfigError(format!("log is not a filter ({e}): {hint}")));
        }
        Ok(())
    }

    fn check_webhooks(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, why: String| Err(ConfigError(format!("{key} {why}")));
        if let Some(url) = &self.webhook_url
            && let Err(e) = EndpointUrl::parse(url.expose_secret())
        {
            return wrong("webhook_url", format!("must be {e}"));
        }
        if let Some(secret) = &self.webhook_secret
            && let Err(e) = Secrets::parse(secret.expose_secret())
        {
            return wrong("webhook_secret", e);
        }
        if let Err(e) = Kinds::parse(&self.webhook_events) {
            return wrong("webhook_events", format!("must be {e}"));
        }
        match (&self.webhook_url, &self.webhook_secret) {
            (Some(_), None) => wrong("webhook_url", "needs a webhook_secret: set both".to_owned()),
            (None, Some(_)) => wrong("webhook_secret", "needs a webhook_url: set both".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Checks that a number is within its bounds, if it is set.
pub(super) fn within<T: PartialOrd + Display>(
    key: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    let Some(value) = value.filter(|value| !range.contains(value)) else { return Ok(()) };
    let (from, to) = range.into_inner();
    Err(ConfigError(format!("{key} is {value}; it must be from {from} to {to}")))
}

/// True for a name, or an address with or without brackets.
fn is_host(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    bare.parse::<IpAddr>().is_ok() || text.chars().all(fits)
}

/// Checks that one setting is below another, each given as name and value.
fn below((a, x): (&str, u64), (b, y): (&str, u64)) -> Result<(), ConfigError> {
    if x < y {
        return Ok(());
    }
    Err(ConfigError(format!("{a} ({x}) must be below {b} ({y}): lower {a} or raise {b}")))
}
