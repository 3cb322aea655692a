//! WebhookOutbox: a shop is told of each decision, at least once, by a signed request to its URL
//! (Standard WebhookOutbox 1.0).
//!
//! The port is the outbox in which events wait until the shop has taken them. On the embedded
//! store an event is written in the transaction that writes its decision, whoever decides. On AWS
//! the worker puts it into a queue of its own after the commit and before the order's delivery is
//! acknowledged: when it dies in between, the delivery comes again, the order is found decided,
//! and its event is put then. So an event can be put and sent twice, and none is lost.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::dead_letters::DlqFilter;
use crate::core::model::{Decided, OrderId, Timestamp, as_rfc3339};

/// What to do about a failed call. Each may be repeated: an event put or sent twice is one to the
/// shop, which knows it by its id.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    /// The same call may be made again after a pause.
    #[error("the outbox of webhooks is busy: {0}")]
    Busy(String),
    /// Repeating will not help: no such queue, no permission, a broken file.
    #[error("{0}")]
    Broken(String),
}

/// Names an event that was taken; the adapter's own text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease(pub String);

/// An event that is to be sent now.
#[derive(Debug, Clone)]
pub struct DueEvent {
    pub lease: Lease,
    pub decided: Decided,
    /// Attempts that failed before.
    pub attempts: u32,
}

/// What became of an event that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptResult {
    /// The shop has it.
    Sent,
    /// An attempt failed; the next one not before this time.
    RetryAt { until: Timestamp },
    /// The shop will not take it: into the dead letters.
    Dead { reason: String },
    /// Not tried; it is due as before.
    NotAttempted,
}

/// An event that the shop did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    pub order_id: OrderId,
    pub status: &'static str,
    pub reason: String,
    pub attempts: u32,
    #[serde(serialize_with = "as_rfc3339")]
    pub at: Timestamp,
}

/// What the outbox holds; estimates where the service only estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Outbox")]
pub struct Waiting {
    /// Events that the shop has not taken yet, those under way included.
    pub waiting: u64,
    pub dead_letters: u64,
}

/// The outbox. Bounded only by its store: an event is small, and none may be lost.
#[async_trait]
pub trait WebhookOutbox: Debug + Display + Send + Sync {
    /// Before decisions are made whose events are to be put: checks that the outbox is there, and
    /// on the embedded store lets the ledger put events from now on, in every process. Idempotent.
    async fn begin(&self) -> Result<(), OutboxError>;

    /// Lets the ledger put no further events; those that wait stay. Idempotent.
    async fn end(&self) -> Result<(), OutboxError>;

    /// Whether the ledger itself puts each decision's event, in the same transaction. Else whoever
    /// acknowledges orders must put theirs before.
    fn put_by_ledger(&self) -> bool;

    /// Puts the events of these decisions, as far as the shop wants to know of them: durable when
    /// it answers. Any number; an error leaves some of them put. Safe to repeat and to cancel.
    async fn put(&self, decided: &[Decided]) -> Result<(), OutboxError>;

    /// Takes about `max` events that are due, oldest first where the store knows, waiting up to
    /// `wait` for the first. They are nobody else's for the time of the lease, and due again after
    /// it. Safe to cancel: what a cancelled call took comes back so.
    async fn take(
        &self,
        max: usize,
        wait: Duration,
        lease: Duration,
    ) -> Result<Vec<DueEvent>, OutboxError>;

    /// Says what became of events that were taken. On an error some come again as they were.
    async fn record_results(
        &self,
        results: &[(DueEvent, AttemptResult)],
    ) -> Result<(), OutboxError>;

    /// The dead letters, oldest first where the store knows, at most `max`.
    async fn dead_letters(&self, max: usize) -> Result<Vec<Letter>, OutboxError>;

    /// Makes dead letters due again, as if never tried; returns how many. Safe to repeat.
    async fn redrive(&self, which: &DlqFilter) -> Result<usize, OutboxError>;

    /// Drops dead letters for good; returns how many there were.
    async fn drop_letters(&self, which: &DlqFilter) -> Result<usize, OutboxError>;

    async fn waiting(&self) -> Result<Waiting, OutboxError>;
}

/// Whether this order's letter is meant, whose reason is `why`.
pub fn is_meant(which: &DlqFilter, order: &OrderId, why: &str) -> bool {
    match which {
        DlqFilter::All { reason } => reason.as_deref().is_none_or(|text| why.contains(text)),
        DlqFilter::These(orders) => orders.contains(order),
    }
}
