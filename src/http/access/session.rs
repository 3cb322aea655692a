//! Who sent a request, and whether that holds for as long as it is being answered.

use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::request;
use tokio::time::Instant;

use crate::core::model::UserId;

/// How long a caller of an answer that goes on is taken for who it was: keys are withdrawn at an
/// identity provider without a word.
const JUDGED_FOR: Duration = Duration::from_secs(30);

/// Who sent a request, by the credential that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Caller {
    Nobody,
    /// Sent a credential that is no good; why.
    Refused(&'static str),
    /// Holds the buy key.
    Shop,
    /// The subject of a token.
    User(UserId),
    Admin,
}

/// A caller, and until when at most.
#[derive(Debug)]
pub(super) struct Judgement {
    pub caller: Caller,
    /// When the token expires.
    pub until: Option<Instant>,
}

impl Judgement {
    pub fn of(caller: Caller) -> Self {
        Self { caller, until: None }
    }
}

/// A caller with the credential, so that it can be judged again.
#[derive(Debug, Clone)]
pub(in super::super) struct Session {
    pub(super) caller: Caller,
    /// The header `Authorization`, if it holds a key or token.
    pub(super) authorization: Option<HeaderValue>,
    /// Of the rules that the caller was judged by.
    generation: u64,
    judge_at: Instant,
}

impl Default for Session {
    /// Of a request without a credential.
    fn default() -> Self {
        let judge_at = Instant::now();
        Self { caller: Caller::Nobody, authorization: None, generation: 0, judge_at }
    }
}

impl Session {
    pub(super) fn new(authorization: HeaderValue, judgement: Judgement, generation: u64) -> Self {
        let later = Instant::now() + JUDGED_FOR;
        let judge_at = judgement.until.map_or(later, |until| until.min(later));
        let authorization = Some(authorization);
        Self { caller: judgement.caller, authorization, generation, judge_at }
    }

    /// The session of a request, for an answer that takes long.
    pub fn of(head: &request::Parts) -> Self {
        head.extensions.get().cloned().unwrap_or_default()
    }

    /// Whether the credential must be checked again, by the rules of this generation.
    pub(super) fn is_stale(&self, generation: u64) -> bool {
        generation != self.generation || Instant::now() >= self.judge_at
    }

    /// The key or token.
    pub fn credential(&self) -> Option<&[u8]> {
        self.authorization.as_ref().and_then(bearer)
    }
}

/// What an `Authorization: Bearer ...` holds.
pub(super) fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, credential) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(credential)
}
