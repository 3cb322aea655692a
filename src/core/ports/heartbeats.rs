//! Heartbeats: each process writes its state once a second, so that the dashboard of any process
//! can show all of them. No decision depends on them: a lost heartbeat only makes the display
//! older.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::time::Duration;

use crate::core::model::{Decided, ItemId, OrderId, Quantity, Timestamp, UserId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Interval of a process's heartbeats.
pub const EVERY: Duration = Duration::from_secs(1);
/// A process whose last heartbeat is older counts as dead.
pub const LIFE: Duration = Duration::from_secs(5);
/// Older heartbeats are removed, by any process.
pub const KEPT: Duration = Duration::from_secs(60);

/// Heartbeats cannot be written or read at the moment.
#[derive(Debug, Clone, thiserror::Error)]
#[error("heartbeats are not available: {0}")]
pub struct HeartbeatError(pub String);

/// The kind of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Serve,
    Work,
}

/// The state of a process. All counts are since its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Random, one per start of a process.
    pub id: String,
    pub kind: Kind,
    pub host: String,
    pub pid: u32,
    pub started_at: Timestamp,
    /// Time of the heartbeat by the process's clock. Absent in heartbeats of earlier versions.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// The most items decided at once; 0 for a process that only accepts orders.
    pub concurrency: usize,
    pub counts: Counts,
    /// Histogram of the time to decision, with the buckets of [`crate::core::metrics::TIMES_US`].
    pub decision: Vec<u64>,
    /// Histogram of the time to the 202, with the same buckets.
    pub ack: Vec<u64>,
    /// Orders received and not yet decided. Stored under its former name, which earlier versions
    /// read.
    #[serde(rename = "in_hand")]
    pub in_flight: u64,
    /// The last decisions, newest first.
    pub last: Vec<LastDecision>,
}

/// Numbers of orders.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    pub accepted: u64,
    pub sold: u64,
    pub expired: u64,
    /// Absent in heartbeats of earlier versions.
    #[serde(default)]
    pub dropped: u64,
    /// By reason, without zeros.
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

/// A decision as the dashboard shows it.
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

/// A process that counts as alive.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessStatus {
    pub heartbeat: Heartbeat,
    /// Age of the heartbeat, by the store's clock.
    pub age: Duration,
}

#[async_trait]
pub trait Heartbeats: Debug + Display + Send + Sync {
    /// Replaces a process's heartbeat. Idempotent; safe to cancel.
    async fn write(&self, heartbeat: &Heartbeat) -> Result<(), HeartbeatError>;

    /// Removes the heartbeat of a process that stops. Idempotent.
    async fn remove(&self, id: &str) -> Result<(), HeartbeatError>;

    /// The processes with a heartbeat within [`LIFE`], in the order of their ids. A heartbeat that
    /// another version wrote and this one cannot read is left out.
    async fn processes(&self) -> Result<Vec<ProcessStatus>, HeartbeatError>;

    /// True if [`Heartbeats::processes`] returns other processes too.
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
