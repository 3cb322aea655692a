//! Heartbeats: once a second each process says that it lives and what it has done, so that one can show
//! what all of them do. Nothing depends on them: a lost heartbeat only makes the picture older.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::time::Duration;

use crate::core::model::{Decided, ItemId, OrderId, Quantity, Timestamp, UserId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// How often a process says that it lives.
pub const EVERY: Duration = Duration::from_secs(1);
/// A process whose heartbeat is older is taken for dead.
pub const LIFE: Duration = Duration::from_secs(5);
/// Older heartbeats are removed, whoever left them.
pub const KEPT: Duration = Duration::from_secs(60);

/// Heartbeats could not be written or read; the next may be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no pulses: {0}")]
pub struct HeartbeatError(pub String);

/// What kind of process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Serve,
    Work,
}

/// What a process says of itself. All counts are from its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Drawn at the process's start.
    pub id: String,
    pub kind: Kind,
    pub host: String,
    pub pid: u32,
    pub started_at: Timestamp,
    /// When it said so, by its own clock; absent in those of older versions.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Items decided at once; 0 in a process that only takes orders.
    pub concurrency: usize,
    pub counts: Counts,
    /// Time to decision, by the buckets of [`crate::core::metrics::TIMES_US`].
    pub decision: Vec<u64>,
    /// Time to the 202, by the same.
    pub ack: Vec<u64>,
    /// Orders received and not yet decided. Its former name is what other versions read.
    #[serde(rename = "in_hand")]
    pub in_flight: u64,
    /// Newest first.
    pub last: Vec<LastDecision>,
}

/// Orders.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    pub accepted: u64,
    pub sold: u64,
    pub expired: u64,
    /// Absent in those of older versions.
    #[serde(default)]
    pub dropped: u64,
    /// By reason, those that came about.
    pub rejected: BTreeMap<String, u64>,
}

impl Counts {
    pub fn all_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    pub fn decided(&self) -> u64 {
        self.sold + self.expired + self.dropped + self.all_rejected()
    }
}

/// A decision as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDecision {
    pub order_id: OrderId,
    pub item_id: ItemId,
    pub user_id: UserId,
    pub quantity: Quantity,
    pub status: String,
    pub reason: Option<String>,
    pub decided_at: Timestamp,
}

/// A process that is taken for living.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessStatus {
    pub heartbeat: Heartbeat,
    /// Since the heartbeat was written, by the store's clock.
    pub age: Duration,
}

#[async_trait]
pub trait Heartbeats: Debug + Display + Send + Sync {
    /// Puts a process's newest heartbeat in the place of its last. Idempotent; safe to cancel.
    async fn write(&self, heartbeat: &Heartbeat) -> Result<(), HeartbeatError>;

    /// Removes a process's heartbeat, as it stops. Idempotent.
    async fn remove(&self, id: &str) -> Result<(), HeartbeatError>;

    /// The heartbeat of each process that renewed it within [`LIFE`], in the order of their ids. What
    /// another version of flux wrote and this one cannot read is left out.
    async fn processes(&self) -> Result<Vec<ProcessStatus>, HeartbeatError>;

    /// Whether heartbeats of other processes are seen.
    fn reach_others(&self) -> bool;
}

impl From<Decided> for LastDecision {
    fn from(decided: Decided) -> Self {
        Self {
            order_id: decided.order.id,
            item_id: decided.order.item,
            user_id: decided.order.user,
            quantity: decided.order.quantity,
            status: decided.decision.status().to_owned(),
            reason: decided.decision.reason().map(|reason| reason.as_str().to_owned()),
            decided_at: decided.decided_at,
        }
    }
}
