//! JSON Web Tokens (RFC 7519), whose subject is the user.

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
use super::session::{Caller, Judgement};
use super::signatures;
use crate::core::model::UserId;

/// How far the clocks of who signs and of who checks may be apart, in seconds.
const LEEWAY_S: u64 = 30;

const EXPIRED: &str = "this token has expired";

/// Which tokens are good.
#[derive(Debug, Default)]
pub struct TokenRules {
    /// Signs tokens of HS256. At least 32 bytes (RFC 7518, 3.2).
    pub secret: Option<SecretString>,
    /// Keys for tokens of RS256, ES256 and EdDSA.
    pub keys: Option<Arc<KeySet>>,
    /// Must be the token's `iss`.
    pub issuer: Option<String>,
    /// Must be the token's `aud`, or among them.
    pub audience: Option<String>,
}

/// How a token's signature is checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check<'a> {
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

/// Checks tokens. The algorithm that a token names only chooses among those that there is a key
/// for, and each key is good for one algorithm: a token of none, or one signed with a public key as
/// if it were the secret, is not.
#[derive(Debug)]
pub(super) struct Tokens {
    secret: Option<DecodingKey>,
    keys: Option<Arc<KeySet>>,
    /// But for the algorithm.
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// In seconds since 1970, maybe with a fraction.
    #[serde(default)]
    exp: Option<f64>,
}

#[derive(Deserialize)]
struct Expiry {
    #[serde(default)]
    exp: Option<f64>,
}

impl Tokens {
    /// `None` when there is nothing to check tokens with.
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

    /// Whose token it is, until it expires; or why it is no good.
    pub async fn judge(&self, token: &[u8], check: Check<'_>) -> Judgement {
        match self.verified(token, check).await {
            Ok((user, left)) => {
                let until = left.and_then(|left| Instant::now().checked_add(left));
                Judgement { caller: Caller::User(user), until }
            }
            Err(why) => Judgement::of(Caller::Refused(why)),
        }
    }

    async fn verified(
        &self,
        token: &[u8],
        check: Check<'_>,
    ) -> Result<(UserId, Option<Duration>), &'static str> {
        let head = decode_header(token).map_err(|e| reason(&e))?;
        if head.crit.is_some() {
            // RFC 7515, 4.1.11: what must be understood, and is not here.
            return Err("this token asks for extensions that are not known here");
        }
        if matches!(check, Check::InTurn(_)) {
            let expiry: Expiry = insecure_decode_claims(token).map_err(|e| reason(&e))?;
            if left(expiry.exp).is_some_and(|left| left.is_zero()) {
                return Err(EXPIRED);
            }
        }
        let claims = match (head.alg, &self.secret, &self.keys) {
            (Algorithm::HS256, Some(secret), _) => {
                let _turn = check.turn().await;
                self.claims(token, head.alg, secret)?
            }
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(keys)) => {
                let key = keys.find(head.alg, head.kid.as_deref()).await;
                let key = key.ok_or("this token's key is not known here")?;
                let _turn = check.turn().await;
                self.claims(token, head.alg, &key.key)?
            }
            _ => return Err("tokens of this algorithm are not taken here"),
        };
        let user = UserId::parse_new(&claims.sub);
        let user = user.map_err(|_| "this token's subject cannot be a user_id")?;
        Ok((user, left(claims.exp)))
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

/// Time until a token with this `exp` is refused; `None` if never, or beyond what a clock holds.
#[expect(clippy::disallowed_methods, reason = "jsonwebtoken compares `exp` with this clock")]
fn left(exp: Option<f64>) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let left = exp? + LEEWAY_S as f64 + 1.0 - now;
    Duration::try_from_secs_f64(left.max(0.0)).ok()
}

/// What to tell the client, who may not be who the token is for.
fn reason(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::ExpiredSignature => EXPIRED,
        ErrorKind::ImmatureSignature => "this token is not yet valid",
        ErrorKind::InvalidIssuer => "this token is of another issuer",
        ErrorKind::InvalidAudience => "this token is for another audience",
        ErrorKind::MissingRequiredClaim(_) => {
            "this token lacks a claim: exp and sub are needed, \
                                               and iss and aud where they are checked"
        }
        ErrorKind::InvalidSignature => "this token's signature is wrong",
        ErrorKind::InvalidAlgorithm => "tokens of this algorithm are not taken here",
        _ => "this is neither a key nor a token that is known here",
    }
}
