//! `/dead-letters`: what could not be decided. For the admin only.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::body;
use super::body::RequestBody;
use super::problem::{Problem, json};
use super::query;
use super::response::Response;
use super::state::AppState;
use crate::core::engine::redrive;
use crate::core::engine::redrive::{DlqAction, DlqResult, RedriveOptions};
use crate::core::model::rfc3339;
use crate::core::model::{OrderId, Timestamp};
use crate::core::ports::dead_letters::DlqFilter;
use crate::core::ports::dead_letters::{DeadLetter, LetterPlace};
use crate::core::ports::queue::QueueError;

const PAGE: usize = 100;
/// Letters in a page, and those that one request does something with.
const LETTERS_MAX: usize = 1_000;
/// Room for that many order ids.
const BODY_MAX: usize = 64 * 1024;

/// A page of dead letters.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetters")]
pub(super) struct PageJson<'a> {
    dead_letters: Vec<LetterJson<'a>>,
    /// What `after` is to be for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What could not be decided, and why.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
struct LetterJson<'a> {
    order_id: OrderId,
    reason: &'a str,
    body: &'a str,
    at: String,
}

/// Which letters are meant: those of some orders, or all, or all with a reason.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WhichDeadLetters", extend("oneOf" = [
    {"required": ["order_ids"], "properties": {
        "order_ids": {"type": "array"}, "all": {"const": false}, "reason": {"type": "null"},
    }},
    {"required": ["all"], "properties": {"all": {"const": true}, "order_ids": {"type": "null"}}},
]))]
pub(super) struct WhichJson {
    #[schemars(length(max = 1_000))]
    order_ids: Option<Vec<OrderId>>,
    #[serde(default)]
    all: bool,
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// What became of letters.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLettersDone")]
pub(super) struct DoneJson {
    dry_run: bool,
    dead_letters: Vec<FateJson>,
    /// There may be letters that were meant and not met: the same again goes on from there.
    more: bool,
    /// Letters that are there now, about.
    left: u64,
}

/// What became of a letter.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterFate")]
struct FateJson {
    order_id: OrderId,
    #[serde(flatten)]
    result: DlqResult,
}

/// A page of letters, oldest first as far as the queue knows.
pub(super) async fn list(state: &AppState, head: &request::Parts) -> Result<Response, Problem> {
    state.access.admit_admin(head)?;
    let query = head.uri.query();
    let reason = match query::value(query, "reason") {
        Some(None) => return Err(Problem::bad_request("reason must be percent-encoded UTF-8")),
        reason => reason.flatten(),
    };
    let after = match query::value(query, "after") {
        None => None,
        Some(text) => Some(text.and_then(|text| place(&text)).ok_or_else(|| {
            Problem::bad_request("after must be what a page before had as \"next\"")
        })?),
    };
    let limit = query::limit(query, PAGE, LETTERS_MAX)?;
    let _access = exclusive_access(state)?;
    let page = redrive::page(&state.api.ports, reason.as_deref(), after, limit).await?;
    let next = page.next.map(|(at, order)| format!("{}-{order}", at.0));
    let dead_letters = page.letters.iter().map(shown).collect();
    Ok(json(StatusCode::OK, &PageJson { dead_letters, next }))
}

pub(super) async fn redrive(
    state: &AppState,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    act(state, DlqAction::Redrive { body: None }, head, body).await
}

pub(super) async fn discard(
    state: &AppState,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    act(state, DlqAction::Drop, head, body).await
}

/// Goes on when the client hangs up: what was begun is not left hidden.
async fn act(
    state: &AppState,
    action: DlqAction,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    state.access.admit_admin(head)?;
    body::expect_json(head, &state.access)?;
    let bytes = body.read_at_most(BODY_MAX).await?;
    let (which, dry_run) = which(&bytes)?;
    let access = exclusive_access(state)?;
    let stop = state.stop.child_token();
    let options = RedriveOptions { dry_run, rate: None, most: Some(LETTERS_MAX), stop };
    let ports = state.api.ports.clone();
    let doing = tokio::spawn(async move {
        let _access = access;
        let mut dead_letters = Vec::new();
        let mut tell = |order_id, result| dead_letters.push(FateJson { order_id, result });
        let done = redrive::act(&ports, &which, &action, &options, &mut tell).await;
        let more = match done {
            Ok(more) => more,
            // What was done has to be told, even if not all could be.
            Err(_) if !dead_letters.is_empty() => true,
            Err(e) => return Err(e),
        };
        let left = ports.queue.backlog().await.map_or(0, |backlog| backlog.dead_letters);
        Ok(DoneJson { dry_run, dead_letters, more, left })
    });
    let broke = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault; the log says more");
    Ok(json(StatusCode::OK, &doing.await.map_err(broke)??))
}

/// Two requests at once would hide letters from each other.
fn exclusive_access(state: &AppState) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&state.dead_letter_access).try_acquire_owned().map_err(|_| {
        Problem::unavailable("the dead letters are being looked at; try again in a moment")
    })
}

impl From<QueueError> for Problem {
    /// Logs the cause, which is not for the client.
    fn from(error: QueueError) -> Self {
        tracing::warn!("answered 503: {error}");
        Self::unavailable("the queue does not answer; try again")
    }
}

fn which(bytes: &[u8]) -> Result<(DlqFilter, bool), Problem> {
    const WHICH: &str =
        r#"{"order_ids":[...]} or {"all":true,"reason"?:TEXT}, and "dry_run"?:true"#;
    // serde would read a list of the fields' values too.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request(format!("the body is not {WHICH} but a list")));
    }
    let WhichJson { order_ids, all, reason, dry_run } = serde_json::from_slice(bytes)
        .map_err(|e| Problem::bad_request(format!("the body is not {WHICH}: {e}")))?;
    let which = match (order_ids, all, reason) {
        (Some(orders), false, None) if orders.len() > LETTERS_MAX => {
            let what = format!("order_ids must be at most {LETTERS_MAX}");
            return Err(Problem::bad_request(what));
        }
        (Some(orders), false, None) => DlqFilter::These(orders),
        (None, true, reason) => DlqFilter::All { reason },
        _ => return Err(Problem::bad_request(format!("the body must be {WHICH}"))),
    };
    Ok((which, dry_run))
}

fn place(text: &str) -> Option<LetterPlace> {
    let (at, order) = text.split_once('-')?;
    Some((Timestamp(at.parse().ok()?), OrderId::parse(order).ok()?))
}

fn shown(letter: &DeadLetter) -> LetterJson<'_> {
    let DeadLetter { order_id, reason, body, at } = letter;
    LetterJson { order_id: *order_id, reason, body, at: rfc3339(*at) }
}
