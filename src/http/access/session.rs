//! Who sent a request, and whether that holds for as long as it is being answered.

use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::time::Instant;

use super::{Access, Check};
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
    authorization: Option<HeaderValue>,
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

    /// The key or token.
    pub fn credential(&self) -> Option<&[u8]> {
        self.authorization.as_ref().and_then(bearer)
    }

    /// Who it is now: judged again when the rules were replaced, the token has expired, or the last
    /// judgement is 30 s old.
    pub async fn caller(&mut self, access: &Access) -> &Caller {
        let rules = access.rules.load_full();
        let stale = rules.generation != self.generation || Instant::now() >= self.judge_at;
        if let Some(authorization) = self.authorization.as_ref().filter(|_| stale)
            && let Some(credential) = bearer(authorization)
        {
            let judgement = rules.recognize(credential, Check::AtOnce).await;
            *self = Self::new(authorization.clone(), judgement, rules.generation);
        }
        &self.caller
    }
}

/// What an `Authorization: Bearer ...` holds.
pub(super) fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, credential) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(credential)
}
