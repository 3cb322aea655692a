//! Counts the calls to the services, by operation and in the units that each service bills, to
//! compute the cost per order.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    Sqs,
    Dynamodb,
    Redis,
}

/// The consumption of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Usage {
    /// Calls over the network; a pipeline, a script or a batch is one.
    pub round_trips: u64,
    /// Requests as the service counts them: on SQS one per started 64 KiB, on Redis commands (a
    /// script is one), on DynamoDB round trips.
    pub requests: u64,
    pub read_units: f64,
    pub write_units: f64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.round_trips += other.round_trips;
        self.requests += other.requests;
        self.read_units += other.read_units;
        self.write_units += other.write_units;
    }
}

impl Sub for Usage {
    type Output = Usage;

    /// The consumption since `before`, an earlier value of the same counters.
    fn sub(self, before: Usage) -> Usage {
        Usage {
            round_trips: self.round_trips - before.round_trips,
            requests: self.requests - before.requests,
            read_units: self.read_units - before.read_units,
            write_units: self.write_units - before.write_units,
        }
    }
}

/// Consumption by service and operation, as the service names it.
pub type Operations = BTreeMap<(Service, String), Usage>;

/// Failed round trips by service and operation: refused, or without a response. A write that was
/// refused because its condition did not hold is not counted.
pub type Failures = BTreeMap<(Service, String), u64>;

/// The calls made by this process's adapters.
#[derive(Debug, Default)]
pub struct Calls {
    operations: Mutex<Operations>,
    failures: Mutex<Failures>,
}

/// Round trips by service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallCounts {
    pub sqs: u64,
    pub redis: u64,
    pub dynamodb: u64,
}

impl CallCounts {
    pub fn of(operations: &Operations) -> Self {
        let mut counts = Self::default();
        for ((service, _), usage) in operations {
            match service {
                Service::Sqs => counts.sqs += usage.round_trips,
                Service::Redis => counts.redis += usage.round_trips,
                Service::Dynamodb => counts.dynamodb += usage.round_trips,
            }
        }
        counts
    }
}

impl Calls {
    pub fn count(&self, service: Service, operation: &str, usage: Usage) {
        *self.lock().entry((service, operation.to_owned())).or_default() += usage;
    }

    /// Marks one of the counted round trips as failed.
    pub fn failed(&self, service: Service, operation: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry((service, operation.to_owned())).or_default() += 1;
    }

    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Round trips by service since the start.
    pub fn counts(&self) -> CallCounts {
        CallCounts::of(&self.lock())
    }

    pub fn operations(&self) -> Operations {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Operations> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
