//! The queues, the tables and the order key of a sale on AWS.

pub mod iam;

use std::time::Duration;

use crate::adapters::aws::Change;
use crate::adapters::aws::client::Aws;
use crate::adapters::aws::dynamodb::order_key::{OrderKeys, Origin, Stored};
use crate::adapters::aws::dynamodb::setup::TableSetup;
use crate::adapters::aws::sqs::setup::{DeadLetters, QueueSetup, WantedQueue};
use crate::adapters::aws::webhook_outbox::queue_names as webhook_queues;
use crate::config::Settings;
use crate::core::model::SystemIdSource;

/// The queue's name when nobody gives another.
const DEFAULT_QUEUE: &str = "flux-orders";
/// As long as SQS keeps anything: a shop may be away for days.
const WEBHOOK_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
/// A backstop only: an event that fails comes as a new message each time.
const WEBHOOK_RECEIVES_MAX: u32 = 1_000;

/// What a sale's resources are called, and how they should be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// FIFO if it ends in `.fifo`.
    pub queue: String,
    /// The table of orders; the others are `TABLE_items` and `TABLE_meta`.
    pub table: String,
    pub visibility: Duration,
    /// How long a message waits to be decided before SQS drops it.
    pub retention: Duration,
    pub dead_letter_retention: Duration,
    /// A backstop only: what is no order is dead-lettered by the worker, with a reason.
    pub max_receive_count: u32,
    /// Orders a second that the table of orders must take from the start. It can be raised only.
    pub expect: Option<u32>,
    /// A shop is to be told of decisions, by way of two queues more.
    pub webhooks: bool,
    /// The settings hold an order key, so none is stored.
    pub key_is_set: bool,
}

/// Hears of each step in a line for a person, as soon as it is done, or would be in a dry run.
pub type Steps<'a> = &'a mut (dyn FnMut(String) + Send);

impl Plan {
    /// The resources that the settings name; `queue` is the name of a queue that they do not.
    pub fn new(settings: &Settings, queue: Option<String>, expect: Option<u32>) -> Self {
        let named = settings.sqs_queue_url.as_deref().and_then(|url| url.rsplit('/').next());
        let queue = queue.or(named.map(str::to_owned));
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        Self {
            queue: queue.unwrap_or_else(|| DEFAULT_QUEUE.to_owned()),
            table: settings.dynamodb_table.clone(),
            visibility: Duration::from_millis(settings.visibility_timeout_ms),
            retention: days(settings.retention_days),
            dead_letter_retention: days(settings.dlq_retention_days),
            max_receive_count: settings.max_receive_count as u32,
            expect,
            webhooks: settings.webhook_url.is_some(),
            key_is_set: settings.order_key.is_some(),
        }
    }

    /// The dead-letter queue's name: `NAME-dlq`, or `NAME-dlq.fifo`.
    pub fn dead_letter_queue(&self) -> String {
        match self.queue.strip_suffix(".fifo") {
            Some(name) => format!("{name}-dlq.fifo"),
            None => format!("{}-dlq", self.queue),
        }
    }

    /// Dead-letter queues first.
    fn queues(&self) -> Vec<WantedQueue> {
        let dead = WantedQueue {
            name: self.dead_letter_queue(),
            visibility: self.visibility,
            retention: self.dead_letter_retention,
            dead_letters: None,
        };
        let dead_letters = DeadLetters {
            queue_name: dead.name.clone(),
            max_receive_count: self.max_receive_count,
        };
        let queue = WantedQueue {
            name: self.queue.clone(),
            visibility: self.visibility,
            retention: self.retention,
            dead_letters: Some(dead_letters),
        };
        let mut queues = vec![dead, queue];
        if self.webhooks {
            queues.extend(self.webhook_queues());
        }
        queues
    }

    fn webhook_queues(&self) -> [WantedQueue; 2] {
        let [queue, dead] = webhook_queues(&self.queue);
        let (visibility, retention) = (self.visibility, WEBHOOK_RETENTION);
        let dead = WantedQueue { name: dead, visibility, retention, dead_letters: None };
        let dead_letters = Some(DeadLetters {
            queue_name: dead.name.clone(),
            max_receive_count: WEBHOOK_RECEIVES_MAX,
        });
        let queue = WantedQueue { name: queue, visibility, retention, dead_letters };
        [dead, queue]
    }
}

/// Makes what is missing and mends what differs; a dry run only says what it would do. Returns what
/// to set to use it. The error is one line; what was done until then stays, and the same again goes
/// on from there.
pub async fn apply(
    aws: &Aws,
    plan: &Plan,
    dry_run: bool,
    step: Steps<'_>,
) -> Result<Vec<(&'static str, String)>, String> {
    let queues = QueueSetup::new(aws);
    for wanted in plan.queues() {
        let change = queues.ensure(&wanted, !dry_run).await?;
        step(line("queue", &wanted.name, change, dry_run));
    }
    let mut made = |table: &str, change| step(line("table", table, change, dry_run));
    TableSetup::new(aws, &plan.table).ensure(plan.expect, !dry_run, &mut made).await?;
    ensure_key(aws, plan, dry_run, step).await?;
    let mut environment = vec![("AWS_REGION", aws.region().to_owned())];
    if let Some(url) = queues.url(&plan.queue).await? {
        environment.push(("SQS_QUEUE_URL", url));
    }
    environment.push(("DYNAMODB_TABLE", plan.table.clone()));
    Ok(environment)
}

/// The order key: stored if none is.
async fn ensure_key(aws: &Aws, plan: &Plan, dry_run: bool, step: Steps<'_>) -> Result<(), String> {
    if plan.key_is_set {
        return Ok(());
    }
    let (keys, drawn) = (OrderKeys::new(aws, &plan.table), SystemIdSource.key());
    let stored = keys.stored().await.map_err(|e| e.to_string())?;
    let (origin, change) = match stored {
        Stored::Key(origin) => (Ok(origin), Change::Unchanged),
        Stored::Nothing | Stored::NoTable if dry_run => (keys.fitting(drawn).await, Change::Made),
        _ => (keys.read_or_store(drawn).await.map(|(_, origin)| origin), Change::Made),
    };
    let origin = origin.map_err(|e| e.to_string())?;
    step(line("key", "order_key", change, dry_run));
    if let Origin::Derived = origin {
        step(derived_key(&plan.table));
    }
    Ok(())
}

/// What to know of a key that anybody can make.
pub fn derived_key(table: &str) -> String {
    format!(
        "the order key of table {table} is made from its name, because an earlier version of flux \
         has sold there: any producer that may write to the queue can forge order ids. For the next \
         sale set another dynamodb_table and run `flux provision`: new tables get a random key"
    )
}

/// Deletes all of it with what it holds; a dry run only says what it would delete.
pub async fn destroy(aws: &Aws, plan: &Plan, dry_run: bool, step: Steps<'_>) -> Result<(), String> {
    let mut gone = |kind: &str, name: &str, there: bool| {
        step(match (there, dry_run) {
            (false, _) => format!("{kind} {name} is not there"),
            (true, true) => format!("{kind} {name} would be deleted with all that is in it"),
            (true, false) => format!("{kind} {name} deleted"),
        });
    };
    let queues = QueueSetup::new(aws);
    for name in [plan.queue.clone(), plan.dead_letter_queue()] {
        gone("queue", &name, queues.delete(&name, !dry_run).await?);
    }
    // They may be left from when there were webhooks.
    for name in webhook_queues(&plan.queue) {
        let there = queues.delete(&name, !dry_run).await?;
        if there || plan.webhooks {
            gone("queue", &name, there);
        }
    }
    let mut table_gone = |table: &str, there| gone("table", table, there);
    TableSetup::new(aws, &plan.table).delete(!dry_run, &mut table_gone).await
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
