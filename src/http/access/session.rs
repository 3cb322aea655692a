//! The caller of a request, which is checked again during long responses.

use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::request;
use tokio::time::Instant;

use crate::core::model::UserId;

/// How often the credential of an open stream or wait is checked again: identity providers withdraw
/// keys without notice.
const RECHECK_EVERY: Duration = Duration::from_secs(30);

/// The sender of a request, according to its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Caller {
    /// Sent no credential.
    Nobody,
    /// Sent an invalid credential; with the reason.
    Refused(&'static str),
    /// Holds the buy key.
    Shop,
    /// The subject of a token.
    User(UserId),
    Admin,
}

/// A caller, as identified by a credential.
#[derive(Debug)]
pub(super) struct Identity {
    pub caller: Caller,
    /// When the token expires; `None` for keys.
    pub expires_at: Option<Instant>,
}

impl Identity {
    pub fn of(caller: Caller) -> Self {
        Self { caller, expires_at: None }
    }
}

/// A caller with its credential, so that the credential can be checked again.
#[derive(Debug, Clone)]
pub(in super::super) struct Session {
    pub(super) caller: Caller,
    /// The `Authorization` header, if it has a key or token.
    pub(super) authorization: Option<HeaderValue>,
    /// Generation of the rules that identified the caller.
    generation: u64,
    recheck_at: Instant,
}

impl Default for Session {
    /// The session of a request without a credential.
    fn default() -> Self {
        let recheck_at = Instant::now();
        Self { caller: Caller::Nobody, authorization: None, generation: 0, recheck_at }
    }
}

impl Session {
    pub(super) fn new(authorization: HeaderValue, identity: Identity, generation: u64) -> Self {
        let next = Instant::now() + RECHECK_EVERY;
        let recheck_at = identity.expires_at.map_or(next, |expires_at| expires_at.min(next));
        let authorization = Some(authorization);
        Self { caller: identity.caller, authorization, generation, recheck_at }
    }

    /// The session of a request, for a stream or a wait.
    pub fn of(head: &request::Parts) -> Self {
        head.extensions.get().cloned().unwrap_or_default()
    }

    /// Whether the credential must be checked again; `generation` is that of the current rules.
    pub(super) fn is_stale(&self, generation: u64) -> bool {
        generation != self.generation || Instant::now() >= self.recheck_at
    }

    /// The key or token of the request.
    pub fn credential(&self) -> Option<&[u8]> {
        self.authorization.as_ref().and_then(bearer)
    }
}

/// The credential of `Authorization: Bearer ...`.
pub(super) fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, credential) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(credential)
}
