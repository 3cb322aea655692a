//! JSON Web Tokens (RFC 7519). The subject is the user.

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::key_set::KeySet;
use super::session::{Caller, Identity};
use super::signatures;
use crate::core::model::UserId;

/// Tolerated difference, in seconds, between the issuer's clock and this one.
const LEEWAY_S: u64 = 30;

const EXPIRED: &str = "the token has expired";
const ALGORITHM: &str = "the token's algorithm is not accepted by this server";

/// Which tokens are valid.
#[derive(Debug, Default)]
pub struct TokenRules {
    /// Secret of HS256 tokens, at least 32 bytes (RFC 7518, 3.2).
    pub secret: Option<SecretString>,
    /// Public keys of RS256, ES256 and EdDSA tokens.
    pub keys: Option<Arc<KeySet>>,
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Required `aud`, or one of several.
    pub audience: Option<String>,
}

/// When a token's signature is checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check<'a> {
    Immediate,
    /// After its expiry, and one at a time: the token's address has sent many invalid ones.
    Serialized(&'a Semaphore),
}

impl Check<'_> {
    /// Waits until the check may run; the check must end before the permit is dropped.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        match self {
            Check::Immediate => None,
            Check::Serialized(permits) => permits.acquire().await.ok(),
        }
    }
}

/// Checks tokens. The algorithm in a token's header only selects among the configured keys, and each
/// key is valid for one algorithm. So a token with the algorithm `none` is refused, and so is one
/// signed with a public key as if that were the HS256 secret.
#[derive(Debug)]
pub(super) struct Tokens {
    secret: Option<DecodingKey>,
    keys: Option<Arc<KeySet>>,
    /// All rules except the algorithm.
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since 1970, possibly with a fraction.
    #[serde(default)]
    exp: Option<f64>,
}

#[derive(Deserialize)]
struct Expiry {
    #[serde(default)]
    exp: Option<f64>,
}

impl Tokens {
    /// `None` if neither a secret nor keys are configured.
    pub fn new(rules: TokenRules) -> Option<Self> {
        if rules.secret.is_none() && rules.keys.is_none() {
            return None;
        }
        signatures::install();
        let mut validation = Validation::default();
        validation.algorithms.clear();
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.validate_aud = rules.audience.is_some();
        validation.required_spec_claims.insert("sub".to_owned());
        if let Some(issuer) = rules.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = rules.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let secret = rules.secret.as_ref().map(|secret| secret.expose_secret().as_bytes());
        Some(Self { secret: secret.map(DecodingKey::from_secret), keys: rules.keys, validation })
    }

    /// The user of a token and when the token expires, or why it is refused.
    pub async fn identify(&self, token: &[u8], check: Check<'_>) -> Identity {
        match self.verify(token, check).await {
            Ok((user, left)) => {
                let expires_at = left.and_then(|left| Instant::now().checked_add(left));
                Identity { caller: Caller::User(user), expires_at }
            }
            Err(why) => Identity::of(Caller::Refused(why)),
        }
    }

    async fn verify(
        &self,
        token: &[u8],
        check: Check<'_>,
    ) -> Result<(UserId, Option<Duration>), &'static str> {
        let head = decode_header(token).map_err(|e| reason(&e))?;
        if head.crit.is_some() {
            // RFC 7515, 4.1.11: a token with an unsupported critical extension must be refused.
            return Err("the token requires extensions (crit) that this server does not support");
        }
        if matches!(check, Check::Serialized(_)) {
            let expiry: Expiry = insecure_decode_claims(token).map_err(|e| reason(&e))?;
            if time_left(expiry.exp).is_some_and(|left| left.is_zero()) {
                return Err(EXPIRED);
            }
        }
        let claims = match (head.alg, &self.secret, &self.keys) {
            (Algorithm::HS256, Some(secret), _) => {
                let _permit = check.permit().await;
                self.claims(token, head.alg, secret)?
            }
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(keys)) => {
                let key = keys.find(head.alg, head.kid.as_deref()).await;
                let key = key.ok_or("the token's signing key is unknown to this server")?;
                let _permit = check.permit().await;
                self.claims(token, head.alg, &key.key)?
            }
            _ => return Err(ALGORITHM),
        };
        let user = UserId::parse_new(&claims.sub);
        let user = user.map_err(|_| "the token's subject is not a valid user_id")?;
        Ok((user, time_left(claims.exp)))
    }

    fn claims(
        &self,
        token: &[u8],
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<Claims, &'static str> {
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let decoded = decode::<Claims>(token, key, &validation);
        decoded.map(|token| token.claims).map_err(|e| reason(&e))
    }
}

/// Time until a token with this `exp` is refused; `None` if it has no `exp`, or one too late for a
/// `Duration`.
#[expect(clippy::disallowed_methods, reason = "jsonwebtoken compares `exp` with this clock")]
fn time_left(exp: Option<f64>) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let left = exp? + LEEWAY_S as f64 + 1.0 - now;
    Duration::try_from_secs_f64(left.max(0.0)).ok()
}

/// The error text for the client, who need not be the token's subject.
fn reason(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::ExpiredSignature => EXPIRED,
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token's issuer is not accepted by this server",
        ErrorKind::InvalidAudience => "the token's audience is not accepted by this server",
        ErrorKind::MissingRequiredClaim(_) => {
            "the token lacks a required claim: exp and sub, and iss and aud if the server checks them"
        }
        ErrorKind::InvalidSignature => "the token's signature is invalid",
        ErrorKind::InvalidAlgorithm => ALGORITHM,
        _ => "the credential is neither a known key nor a valid token",
    }
}
