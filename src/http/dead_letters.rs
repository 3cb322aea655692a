//! `/dead-letters`: the orders that could not be decided. For the admin only.

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
use crate::core::engine::redrive::{DlqResult, RedriveOptions};
use crate::core::model::rfc3339;
use crate::core::model::{OrderId, Timestamp};
use crate::core::ports::dead_letters::{DeadLetter, DlqAction, DlqFilter, LetterPosition};
use crate::core::ports::queue::QueueError;

/// Letters in a page unless the client sets a limit.
const PAGE: usize = 100;
/// Letters in a page, and letters that one request resolves, at most.
const LETTERS_MAX: usize = 1_000;
/// Enough for [`LETTERS_MAX`] order ids.
const BODY_MAX: usize = 64 * 1024;

/// A page of dead letters.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetters")]
pub(super) struct PageJson<'a> {
    dead_letters: Vec<LetterJson<'a>>,
    /// `after` of the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// An order, or a text that is no order, that could not be decided, with the reason.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
struct LetterJson<'a> {
    order_id: OrderId,
    reason: &'a str,
    body: &'a str,
    at: String,
}

/// Selects letters: those of some orders, all, or all whose reason contains a text.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WhichDeadLetters", extend("oneOf" = [
    {"required": ["order_ids"], "properties": {
        "order_ids": {"type": "array"}, "all": {"const": false}, "reason": {"type": "null"},
    }},
    {"required": ["all"], "properties": {"all": {"const": true}, "order_ids": {"type": "null"}}},
]))]
pub(super) struct FilterJson {
    #[schemars(length(max = 1_000))]
    order_ids: Option<Vec<OrderId>>,
    #[serde(default)]
    all: bool,
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// The results of a redrive or a drop.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLettersDone")]
pub(super) struct ResultsJson {
    dry_run: bool,
    dead_letters: Vec<ResultJson>,
    /// True if there may be further letters to process: repeat the request.
    more: bool,
    /// Approximate number of dead letters that are left.
    left: u64,
}

/// The result for one letter.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterFate")]
struct ResultJson {
    order_id: OrderId,
    #[serde(flatten)]
    result: DlqResult,
}

/// A page of letters, oldest first as far as the queue can tell.
pub(super) async fn list(state: &AppState, head: &request::Parts) -> Result<Response, Problem> {
    state.access.admit_admin(head)?;
    let query = head.uri.query();
    let reason = match query::value(query, "reason") {
        Some(None) => return Err(Problem::bad_request("reason must be percent-encoded UTF-8")),
        reason => reason.flatten(),
    };
    let after =
        match query::value(query, "after") {
            None => None,
            Some(text) => Some(text.and_then(|text| position(&text)).ok_or_else(|| {
                Problem::bad_request("after must be \"next\" of the previous page")
            })?),
        };
    let limit = query::limit(query, PAGE, LETTERS_MAX)?;
    let _access = exclusive_access(state)?;
    let page = redrive::page(&state.api.ports, reason.as_deref(), after, limit).await?;
    let next = page.next.map(|(at, order)| format!("{}-{order}", at.0));
    let dead_letters = page.letters.iter().map(letter_json).collect();
    Ok(json(StatusCode::OK, &PageJson { dead_letters, next }))
}

pub(super) async fn redrive(
    state: &AppState,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    act(state, DlqAction::Redrive, head, body).await
}

pub(super) async fn discard(
    state: &AppState,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    act(state, DlqAction::Drop, head, body).await
}

/// Runs in a task of its own: if the client disconnects, the letters being read must still be made
/// visible to others again.
async fn act(
    state: &AppState,
    action: DlqAction,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    state.access.admit_admin(head)?;
    body::expect_json(head, &state.access)?;
    let bytes = body.read_at_most(BODY_MAX).await?;
    let (filter, dry_run) = parse_filter(&bytes)?;
    let access = exclusive_access(state)?;
    let stop = state.stop.child_token();
    let options =
        RedriveOptions { dry_run, max: Some(LETTERS_MAX), stop, ..RedriveOptions::default() };
    let ports = state.api.ports.clone();
    let results = tokio::spawn(async move {
        let _access = access;
        let mut dead_letters = Vec::new();
        let mut report = |order_id, result| dead_letters.push(ResultJson { order_id, result });
        let done = redrive::act(&ports, &filter, action, &options, &mut report).await;
        let more = match done {
            Ok(more) => more,
            // The client needs the results of the letters that were processed before the error.
            Err(_) if !dead_letters.is_empty() => true,
            Err(e) => return Err(e),
        };
        let left = ports.queue.backlog().await.map_or(0, |backlog| backlog.dead_letters);
        Ok(ResultsJson { dry_run, dead_letters, more, left })
    });
    let panicked =
        |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the server's log");
    Ok(json(StatusCode::OK, &results.await.map_err(panicked)??))
}

/// Two requests at the same time would hide letters from each other.
fn exclusive_access(state: &AppState) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&state.dead_letter_access).try_acquire_owned().map_err(|_| {
        Problem::unavailable("another request is reading the dead letters; try again in a moment")
    })
}

impl From<QueueError> for Problem {
    /// The cause goes to the log only: it names parts of the deployment.
    fn from(error: QueueError) -> Self {
        tracing::warn!("queue call failed, responded 503: {error}");
        Self::unavailable("the queue is unavailable; try again")
    }
}

fn parse_filter(bytes: &[u8]) -> Result<(DlqFilter, bool), Problem> {
    const FORM: &str = r#"{"order_ids":[...]} or {"all":true,"reason"?:TEXT}, and "dry_run"?:true"#;
    // serde would accept a list of the fields' values too.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request(format!("the body must be {FORM}, not a list")));
    }
    let FilterJson { order_ids, all, reason, dry_run } = serde_json::from_slice(bytes)
        .map_err(|e| Problem::bad_request(format!("the body must be {FORM}: {e}")))?;
    let filter = match (order_ids, all, reason) {
        (Some(orders), false, None) if orders.len() > LETTERS_MAX => {
            let what = format!("order_ids must have at most {LETTERS_MAX} entries");
            return Err(Problem::bad_request(what));
        }
        (Some(orders), false, None) => DlqFilter::These(orders),
        (None, true, reason) => DlqFilter::All { reason },
        _ => return Err(Problem::bad_request(format!("the body must be {FORM}"))),
    };
    Ok((filter, dry_run))
}

fn position(text: &str) -> Option<LetterPosition> {
    let (at, order) = text.split_once('-')?;
    Some((Timestamp(at.parse().ok()?), OrderId::parse(order).ok()?))
}

fn letter_json(letter: &DeadLetter) -> LetterJson<'_> {
    let DeadLetter { order_id, reason, body, at } = letter;
    LetterJson { order_id: *order_id, reason, body, at: rfc3339(*at) }
}
