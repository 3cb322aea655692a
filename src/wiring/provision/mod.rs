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

/// The default name of the queue.
const DEFAULT_QUEUE: &str = "flux-orders";
/// The longest retention of SQS, because a webhook endpoint may be down for days.
const WEBHOOK_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
/// Only a backstop: each failed attempt sends the event as a new message.
const WEBHOOK_RECEIVES_MAX: u32 = 1_000;

/// The names and the desired state of a sale's resources.
#[derive(Debug, Clone)]
pub struct Plan {
    /// FIFO if it ends in `.fifo`.
    pub queue: String,
    /// The table of orders; the others are `TABLE_items` and `TABLE_meta`.
    pub table: String,
    pub visibility: Duration,
    /// Age at which SQS drops a message that was not decided.
    pub retention: Duration,
    pub dead_letter_retention: Duration,
    /// Only a backstop: the worker itself dead-letters invalid messages, with a reason.
    pub max_receive_count: u32,
    /// Orders per second that the table of orders must sustain from the start. It can only be raised.
    pub expect: Option<u32>,
    /// True if webhooks are used, which need two more queues.
    pub webhooks: bool,
    /// True if the settings contain an order key; then none is stored.
    pub key_is_set: bool,
}

/// Called with one line of text for each finished step, or planned step in a dry run.
pub type Steps<'a> = &'a mut (dyn FnMut(String) + Send);

impl Plan {
    /// The resources that the settings name. `queue` overrides the name of the queue.
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

    /// All queues, each dead-letter queue before the queue that refers to it.
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
        let visibility = self.visibility;
        let retention = WEBHOOK_RETENTION;
        let dead = WantedQueue { name: dead, visibility, retention, dead_letters: None };
        let dead_letters = Some(DeadLetters {
            queue_name: dead.name.clone(),
            max_receive_count: WEBHOOK_RECEIVES_MAX,
        });
        let queue = WantedQueue { name: queue, visibility, retention, dead_letters };
        [dead, queue]
    }
}

/// Creates missing resources and updates those that differ; a dry run only reports the changes. Returns
/// the environment variables that select the resources. The error is one line. After an error the same
/// call continues where it stopped.
pub async fn apply(
    aws: &Aws,
    plan: &Plan,
    dry_run: bool,
    step: Steps<'_>,
) -> Result<Vec<(&'static str, String)>, String> {
    let queues = QueueSetup::new(aws);
    for wanted in plan.queues() {
        let change = queues.ensure(&wanted, !dry_run).await?;
        step(step_text("queue", &wanted.name, change, dry_run));
    }
    let mut table_done = |table: &str, change| step(step_text("table", table, change, dry_run));
    TableSetup::new(aws, &plan.table).ensure(plan.expect, !dry_run, &mut table_done).await?;
    ensure_key(aws, plan, dry_run, step).await?;
    let mut environment = vec![("AWS_REGION", aws.region().to_owned())];
    if let Some(url) = queues.url(&plan.queue).await? {
        environment.push(("SQS_QUEUE_URL", url));
    }
    environment.push(("DYNAMODB_TABLE", plan.table.clone()));
    Ok(environment)
}

/// Stores an order key if none is stored.
async fn ensure_key(aws: &Aws, plan: &Plan, dry_run: bool, step: Steps<'_>) -> Result<(), String> {
    if plan.key_is_set {
        return Ok(());
    }
    let keys = OrderKeys::new(aws, &plan.table);
    let drawn = SystemIdSource.key();
    let stored = keys.stored().await.map_err(|e| e.to_string())?;
    let (origin, change) = match stored {
        Stored::Key(origin) => (Ok(origin), Change::Unchanged),
        Stored::Nothing | Stored::NoTable if dry_run => (keys.fitting(drawn).await, Change::Made),
        _ => (keys.read_or_store(drawn).await.map(|(_, origin)| origin), Change::Made),
    };
    let origin = origin.map_err(|e| e.to_string())?;
    step(step_text("key", "order_key", change, dry_run));
    if let Origin::Derived = origin {
        step(derived_key(&plan.table));
    }
    Ok(())
}

/// The warning about an order key that was derived from the table's name.
pub fn derived_key(table: &str) -> String {
    format!(
        "the order key of table {table} is derived from its name, because an earlier version of \
         flux has sold there: any producer with write access to the queue can forge order ids. For \
         the next sale set another dynamodb_table and run `flux provision`: new tables get a random \
         key"
    )
}

/// Deletes all resources with their content; a dry run only reports what it would delete.
pub async fn destroy(aws: &Aws, plan: &Plan, dry_run: bool, step: Steps<'_>) -> Result<(), String> {
    let mut deleted = |kind: &str, name: &str, existed: bool| {
        step(match (existed, dry_run) {
            (false, _) => format!("{kind} {name} does not exist"),
            (true, true) => format!("{kind} {name} would be deleted with its content"),
            (true, false) => format!("{kind} {name} deleted"),
        });
    };
    let queues = QueueSetup::new(aws);
    for name in [plan.queue.clone(), plan.dead_letter_queue()] {
        deleted("queue", &name, queues.delete(&name, !dry_run).await?);
    }
    // Deleted even if webhooks are off now: they may remain from before.
    for name in webhook_queues(&plan.queue) {
        let existed = queues.delete(&name, !dry_run).await?;
        if existed || plan.webhooks {
            deleted("queue", &name, existed);
        }
    }
    let mut table_deleted = |table: &str, existed| deleted("table", table, existed);
    TableSetup::new(aws, &plan.table).delete(!dry_run, &mut table_deleted).await
}

fn step_text(kind: &str, name: &str, change: Change, dry_run: bool) -> String {
    let result = match (change, dry_run) {
        (Change::Made, false) => "created",
        (Change::Made, true) => "would be created",
        (Change::Changed, false) => "updated",
        (Change::Changed, true) => "would be updated",
        (Change::Unchanged, _) => "already exists",
    };
    format!("{kind} {name} {result}")
}
