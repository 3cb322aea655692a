//! Counts the network round trips to each service, so that a sale's cost can be said per order.

use std::sync::atomic::{AtomicU64, Ordering};

/// Round trips made by this process's adapters; a pipeline, a script or a batch is one.
#[derive(Debug, Default)]
pub struct Calls {
    sqs: AtomicU64,
    redis: AtomicU64,
    dynamodb: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallCounts {
    pub sqs: u64,
    pub redis: u64,
    pub dynamodb: u64,
}

impl Calls {
    pub fn sqs(&self) {
        self.sqs.fetch_add(1, Ordering::Relaxed);
    }

    pub fn redis(&self) {
        self.redis.fetch_add(1, Ordering::Relaxed);
    }

    pub fn dynamodb(&self) {
        self.dynamodb.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> CallCounts {
        CallCounts {
            sqs: self.sqs.load(Ordering::Relaxed),
            redis: self.redis.load(Ordering::Relaxed),
            dynamodb: self.dynamodb.load(Ordering::Relaxed),
        }
    }
}
