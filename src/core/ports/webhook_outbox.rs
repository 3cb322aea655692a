//! The webhook outbox: events that wait until the webhook endpoint has accepted them. Each decision
//! is sent to the endpoint at least once, in a signed request (Standard Webhooks 1.0).
//!
//! The embedded store writes an event in the transaction of its decision, whichever process
//! decides. On AWS the outbox is a queue of its own: the worker puts the event after the commit and
//! before it acknowledges the order's delivery. If the worker is killed in between, the delivery is
//! redelivered, the order is found decided, and its event is put then. So an event can be put and
//! sent twice, and none is lost.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::dead_letters::{DlqAction, DlqFilter};
use crate::core::model::{Decided, OrderId, Timestamp, as_rfc3339};

/// Why a call failed, by what the caller can do about it. All calls may be repeated: the receiver
/// recognises a repeated event by its id.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    /// Retry after a pause.
    #[error("the webhook outbox is busy: {0}")]
    Busy(String),
    /// Retrying does not help: no such queue, no permission, a corrupt file.
    #[error("{0}")]
    Broken(String),
}

/// Identifies an event while it is leased. The text is the adapter's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease(pub String);

/// An event to send now.
#[derive(Debug, Clone)]
pub struct DueEvent {
    pub lease: Lease,
    pub decided: Decided,
    /// Failed attempts so far.
    pub attempts: u32,
}

/// The result of an attempt to send an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptResult {
    /// The endpoint accepted it.
    Sent,
    /// The attempt failed. The next one is not before this time.
    RetryAt { until: Timestamp },
    /// The endpoint does not accept it: it becomes a dead letter.
    Dead { reason: String },
    /// There was no attempt; the event stays due.
    NotAttempted,
}

/// An event that the endpoint did not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadEvent {
    pub order_id: OrderId,
    pub status: &'static str,
    pub reason: String,
    pub attempts: u32,
    #[serde(serialize_with = "as_rfc3339")]
    pub at: Timestamp,
}

/// The contents of the outbox; estimates if the service only estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Outbox")]
pub struct OutboxBacklog {
    /// Events that the endpoint has not accepted yet, including those being sent.
    pub waiting: u64,
    pub dead_letters: u64,
}

/// The outbox. Bounded only by its store: events are small, and none may be lost.
#[async_trait]
pub trait WebhookOutbox: Debug + Display + Send + Sync {
    /// Called before orders are decided: checks that the outbox exists. On the embedded store, the
    /// ledger puts events from now on, in all processes. Idempotent.
    async fn begin(&self) -> Result<(), OutboxError>;

    /// Stops the ledger from putting further events; waiting events stay. Idempotent.
    async fn end(&self) -> Result<(), OutboxError>;

    /// True if the ledger itself puts each decision's event, in the same transaction. Otherwise the
    /// worker must put the events before it acknowledges their orders.
    fn put_by_ledger(&self) -> bool;

    /// Puts the events of these decisions, if their kinds are configured. They are durable when it
    /// returns `Ok`; after an error, some may be. Any number. Safe to repeat and to cancel.
    async fn put(&self, decided: &[Decided]) -> Result<(), OutboxError>;

    /// Leases about `max` events that are due, oldest first if the store knows their age; waits up
    /// to `wait` for the first. Nobody else gets them until the lease expires; then they are due
    /// again. Safe to cancel: the events of a cancelled call are due again after the lease.
    async fn take(
        &self,
        max: usize,
        wait: Duration,
        lease: Duration,
    ) -> Result<Vec<DueEvent>, OutboxError>;

    /// Records the results of leased events. After an error, some may be due again as before.
    async fn record_results(
        &self,
        results: &[(DueEvent, AttemptResult)],
    ) -> Result<(), OutboxError>;

    /// At most `max` dead letters, oldest first if the store knows their age.
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadEvent>, OutboxError>;

    /// Makes the selected dead letters due again with no attempts, or deletes them for good. Returns
    /// the number of their orders. Safe to repeat.
    async fn resolve_letters(
        &self,
        filter: &DlqFilter,
        action: DlqAction,
    ) -> Result<usize, OutboxError>;

    /// The contents of the outbox.
    async fn waiting(&self) -> Result<OutboxBacklog, OutboxError>;
}
