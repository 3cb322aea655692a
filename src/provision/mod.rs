//! What a sale needs on AWS: two queues and two tables, made or brought up to date.
//!
//! Everything here may be run again, and then changes nothing. Items are the ledger's business
//! ([`crate::core::ledger::Ledger::set_stock`]).

pub mod iam;

use std::time::Duration;

use crate::core::ledger::dynamodb::setup::TableSetup;
use crate::core::queue::sqs::setup::{DeadLetters, QueueSetup, WantedQueue};
use crate::core::vendor::Change;
use crate::core::vendor::aws::Aws;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a message waits to be decided before SQS drops it.
const RETENTION: Duration = DAY.saturating_mul(4);
/// How long a dead letter is kept: as long as SQS can.
const DEAD_RETENTION: Duration = DAY.saturating_mul(14);
/// A backstop only: what is no order is dead-lettered by the worker, with a reason.
const MAX_RECEIVE_COUNT: u32 = 100;

/// What a sale's resources are called, and how they should be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// FIFO if it ends in `.fifo`.
    pub queue: String,
    /// The table of orders; the one of items is `TABLE_items`.
    pub table: String,
    pub visibility: Duration,
    /// Orders a second that the table of orders must take from the start. It can be raised only.
    pub expect: Option<u32>,
}

/// What was done, or would be in a dry run, in lines for a person; and what to set to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    pub lines: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

impl Plan {
    /// The dead-letter queue's name: `NAME-dlq`, or `NAME-dlq.fifo`.
    pub fn dead_letter_queue(&self) -> String {
        match self.queue.strip_suffix(".fifo") {
            Some(name) => format!("{name}-dlq.fifo"),
            None => format!("{}-dlq", self.queue),
        }
    }

    fn queues(&self) -> [WantedQueue; 2] {
        let dead = WantedQueue {
            name: self.dead_letter_queue(),
            visibility: self.visibility,
            retention: DEAD_RETENTION,
            dead_letters: None,
        };
        let dead_letters =
            DeadLetters { queue_name: dead.name.clone(), max_receive_count: MAX_RECEIVE_COUNT };
        let queue = WantedQueue {
            name: self.queue.clone(),
            visibility: self.visibility,
            retention: RETENTION,
            dead_letters: Some(dead_letters),
        };
        [dead, queue]
    }
}

/// Makes what is missing and mends what differs; a dry run only says what it would do. The error
/// is one line; what was done until then stays, and the same again goes on from there.
pub async fn apply(aws: &Aws, plan: &Plan, dry_run: bool) -> Result<Provisioned, String> {
    let mut lines = Vec::new();
    let queues = QueueSetup::new(aws);
    for wanted in plan.queues() {
        let change = queues.ensure(&wanted, !dry_run).await?;
        lines.push(line("queue", &wanted.name, change, dry_run));
    }
    let tables = TableSetup::new(aws, &plan.table).ensure(plan.expect, !dry_run).await?;
    lines.extend(tables.iter().map(|(table, change)| line("table", table, *change, dry_run)));
    let mut environment = vec![("AWS_REGION", aws.region().to_owned())];
    if let Some(url) = queues.url(&plan.queue).await? {
        environment.push(("SQS_QUEUE_URL", url));
    }
    environment.push(("DYNAMODB_TABLE", plan.table.clone()));
    Ok(Provisioned { lines, environment })
}

/// Deletes all of it with what it holds; a dry run only says what it would delete.
pub async fn destroy(aws: &Aws, plan: &Plan, dry_run: bool) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let queues = QueueSetup::new(aws);
    for name in [plan.queue.clone(), plan.dead_letter_queue()] {
        let there = queues.delete(&name, !dry_run).await?;
        found.push(("queue", name, there));
    }
    let tables = TableSetup::new(aws, &plan.table).delete(!dry_run).await?;
    found.extend(tables.into_iter().map(|(table, there)| ("table", table, there)));
    let said = |(kind, name, there): (&str, String, bool)| match (there, dry_run) {
        (false, _) => format!("{kind} {name} is not there"),
        (true, true) => format!("{kind} {name} would be deleted with all that is in it"),
        (true, false) => format!("{kind} {name} deleted"),
    };
    Ok(found.into_iter().map(said).collect())
}

fn line(kind: &str, name: &str, change: Change, dry_run: bool) -> String {
    let done = match (change, dry_run) {
        (Change::Made, false) => "made",
        (Change::Made, true) => "would be made",
        (Change::Changed, false) => "brought up to date",
        (Change::Changed, true) => "would be brought up to date",
        (Change::Unchanged, _) => "is there already",
    };
    format!("{kind} {name} {done}")
}
