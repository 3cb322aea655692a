//! Orders, items, decisions, their ids and times. Imports nothing else of flux.

mod decide;
pub mod event;
mod ids;
mod item;
mod mac;
pub mod text;
mod timestamp;
mod trace_context;

use std::fmt;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use decide::{DecidedBatch, decide};
pub use ids::{IdempotencyKey, InvalidId, ItemId, OrderId, OrderIds, OrderKey, Quantity, UserId};
pub use item::{Item, ItemChange, Listing, MAX_STOCK};
pub use mac::{BROKEN, Mac, MacCheck, MacKeys, MacState, MacWriter};
pub use timestamp::{as_rfc3339, rfc3339};
pub use trace_context::TraceContext;

/// How long decisions are kept at least. An order older than this is decided as `expired`.
pub const DECISION_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Wall-clock milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Time since `earlier`; zero if the clock went back.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(span.as_millis() as u64))
    }
}

/// The source of the time of day: the system, or a simulation.
pub trait Clock: fmt::Debug + Send + Sync {
    fn now(&self) -> Timestamp;
}

#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time of day")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| d.as_millis() as u64))
    }
}

/// The source of random numbers: the system, or a simulation.
pub trait IdSource: fmt::Debug + Send + Sync {
    /// A number that is never returned twice. Its lowest 62 bits and 60 other bits are random.
    fn next_id(&self) -> u128;
}

#[derive(Debug)]
pub struct SystemIdSource;

impl SystemIdSource {
    /// Bytes for an [`OrderKey`], with 122 random bits.
    pub fn key(&self) -> [u8; 16] {
        self.next_id().to_be_bytes()
    }
}

impl IdSource for SystemIdSource {
    #[expect(clippy::disallowed_methods, reason = "the one source of random numbers")]
    fn next_id(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}

/// A valid order with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub user: UserId,
    pub item: ItemId,
    pub quantity: Quantity,
    pub accepted_at: Timestamp,
    /// Trace context. No decision depends on it.
    pub trace: Option<Box<TraceContext>>,
}

impl Order {
    /// The trace id, for the log.
    pub fn trace_id(&self) -> Option<String> {
        self.trace.as_ref().map(|context| context.trace_id())
    }

    /// True if two orders under the same id ask for the same thing.
    pub fn same_request(&self, other: &Order) -> bool {
        self.user == other.user && self.item == other.item && self.quantity == other.quantity
    }
}

/// Why an order was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    SoldOut,
    NotEnough,
    UnknownItem,
    /// The organiser closed the item's sale.
    Closed,
}

impl Reason {
    pub const ALL: [Reason; 4] =
        [Reason::SoldOut, Reason::NotEnough, Reason::UnknownItem, Reason::Closed];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::SoldOut => "sold_out",
            Reason::NotEnough => "not_enough",
            Reason::UnknownItem => "unknown_item",
            Reason::Closed => "closed",
        }
    }
}

/// The decision of an order. Final: the first one recorded stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    Sold,
    Rejected(Reason),
    /// The order is older than decisions are kept, so it may have had a decision that is deleted.
    Expired,
    /// The organiser dropped the order's dead letter.
    Dropped,
}

impl Decision {
    pub fn all() -> impl Iterator<Item = Decision> {
        let rejected = Reason::ALL.into_iter().map(Decision::Rejected);
        rejected.chain([Decision::Sold, Decision::Expired, Decision::Dropped])
    }

    pub fn status(self) -> &'static str {
        match self {
            Decision::Sold => "sold",
            Decision::Rejected(_) => "rejected",
            Decision::Expired => "expired",
            Decision::Dropped => "dropped",
        }
    }

    pub fn reason(self) -> Option<Reason> {
        match self {
            Decision::Rejected(reason) => Some(reason),
            Decision::Sold | Decision::Expired | Decision::Dropped => None,
        }
    }

    /// The inverse of [`Decision::status`] and [`Decision::reason`].
    pub fn from_parts(status: &str, reason: Option<&str>) -> Option<Decision> {
        match status {
            "sold" => Some(Decision::Sold),
            "expired" => Some(Decision::Expired),
            "dropped" => Some(Decision::Dropped),
            "rejected" => {
                let named = Reason::ALL.into_iter().find(|r| Some(r.as_str()) == reason);
                named.map(Decision::Rejected)
            }
            _ => None,
        }
    }
}

/// An order with its decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub order: Order,
    pub decision: Decision,
    pub decided_at: Timestamp,
}

impl Decided {
    /// The seal of rows from before [`MacKeys`], see [`MacCheck::OldRule`]. No longer written.
    pub fn legacy_mac(&self, key: &OrderKey) -> u64 {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(self.order.id.as_bytes());
        for text in [self.order.user.as_str(), self.order.item.as_str(), self.decision.status()] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(self.decision.reason().map_or("", Reason::as_str).as_bytes());
        for number in [self.order.quantity.units(), self.order.accepted_at.0, self.decided_at.0] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        key.hash(&bytes)
    }
}
