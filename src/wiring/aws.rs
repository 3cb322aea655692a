//! The aws backend, built from the settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;

use super::provision;
use super::provision::Plan;
use super::{KeyUse, Unavailable, UsageError};
use crate::adapters::aws::client::{Aws, AwsSettings, Credentials};
use crate::adapters::aws::dynamodb::DynamoLedger;
use crate::adapters::aws::dynamodb::order_key::{OrderKeys, Origin};
use crate::adapters::aws::sqs::setup::region_of;
use crate::adapters::aws::sqs::{SqsQueue, SqsSettings};
use crate::adapters::aws::webhook_outbox::SqsOutbox;
use crate::adapters::memory::heartbeats::MemoryHeartbeats;
use crate::adapters::memory::notifier::MemoryNotifier;
use crate::config::Settings;
use crate::core::engine::Ports;
use crate::core::engine::tracer::Tracer;
use crate::core::metrics::Metrics;
use crate::core::model::{Clock, OrderKey, SystemClock, SystemIdSource};
use crate::core::ports::ledger::LedgerError;
use crate::core::ports::queue::Queue;
use crate::core::ports::usage::Calls;
use crate::core::ports::webhook_outbox::WebhookOutbox;

/// Loads the SDK's configuration, with the overrides of the settings.
pub async fn load(settings: &Settings, calls: Arc<Calls>) -> Result<Aws> {
    let credentials = settings.aws_credentials.as_ref().map(|keys| {
        let token = keys.session_token.as_ref().map(|t| t.expose_secret().to_owned());
        let secret = keys.secret_access_key.expose_secret();
        Credentials::new(&keys.access_key_id, secret, token, None, ".env")
    });
    let aws = AwsSettings {
        region: settings.aws_region.clone(),
        endpoint_url: settings.aws_endpoint_url.clone(),
        endpoint_url_sqs: settings.aws_endpoint_url_sqs.clone(),
        endpoint_url_dynamodb: settings.aws_endpoint_url_dynamodb.clone(),
        credentials,
    };
    Ok(Aws::load(aws, calls).await.map_err(UsageError)?)
}

/// Builds the ports. The only call is the one for the order key; the caller checks queue and ledger.
pub(super) async fn open(settings: &Settings, key_use: KeyUse) -> Result<Ports, Unavailable> {
    let calls = Arc::new(Calls::default());
    let aws = load(settings, calls.clone()).await.map_err(Unavailable::permanent)?;
    let Some(queue_url) = settings.sqs_queue_url.clone() else {
        let hint = "set SQS_QUEUE_URL; `flux provision` creates a queue and prints its URL";
        return Err(Unavailable::permanent(UsageError(format!(
            "the aws backend needs a queue: {hint}"
        ))));
    };
    check_region(&aws, settings, &queue_url).map_err(Unavailable::permanent)?;
    let queue = SqsSettings {
        queue_url,
        dead_letter_queue_url: None,
        visibility: Duration::from_millis(settings.visibility_timeout_ms),
        orders_per_message: settings.orders_per_message,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key = match order_key(&aws, settings, key_use).await {
        Ok(key) => key,
        Err(e) => {
            // If the queue is missing as well, its error is the more useful one.
            let order_ids = super::order_ids(OrderKey::from_text(""));
            SqsQueue::new(&aws, queue, order_ids, clock).check().await?;
            return Err(e.into());
        }
    };
    let order_ids = super::order_ids(key);
    let webhooks = settings.webhook_url.as_ref().map(|_| {
        let kinds = super::event_kinds(settings);
        let outbox = SqsOutbox::new(&aws, &queue.queue_url, kinds, clock.clone());
        Arc::new(outbox) as Arc<dyn WebhookOutbox>
    });
    Ok(Ports {
        queue: Arc::new(SqsQueue::new(&aws, queue, order_ids.clone(), clock.clone())),
        ledger: Arc::new(DynamoLedger::new(&aws, &settings.dynamodb_table, key, clock.clone())),
        lock: None,
        idempotency: None,
        webhooks,
        notifier: Arc::new(MemoryNotifier::default()),
        order_ids,
        clock,
        ids: Arc::new(SystemIdSource),
        calls,
        metrics: Arc::new(Metrics::default()),
        heartbeats: Arc::new(MemoryHeartbeats::default()),
        tracer: Tracer::off(),
    })
}

/// The webhook outbox of the queue of orders, whether or not webhook_url is set.
pub(super) async fn webhook_outbox(
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn WebhookOutbox>> {
    let aws = load(settings, Arc::default()).await?;
    let Some(orders) = &settings.sqs_queue_url else {
        return Err(UsageError("no queue is set: set SQS_QUEUE_URL".to_owned()).into());
    };
    Ok(Arc::new(SqsOutbox::new(&aws, orders, super::event_kinds(settings), clock)))
}

/// Checks that the queue's URL and AWS_REGION name the same region. With a different region SQS reports
/// that the queue does not exist.
fn check_region(aws: &Aws, settings: &Settings, queue_url: &str) -> Result<(), UsageError> {
    if settings.aws_endpoint_url.is_some() || settings.aws_endpoint_url_sqs.is_some() {
        return Ok(());
    }
    match region_of(queue_url) {
        Some(region) if region != aws.region() => Err(UsageError(format!(
            "SQS_QUEUE_URL is in {region}, but the region is {}: set AWS_REGION={region}, or the \
             URL of a queue in the same region as the tables",
            aws.region()
        ))),
        _ => Ok(()),
    }
}

/// The ledger in the tables that the settings name, for a process that accepts no orders.
pub async fn ledger(aws: &Aws, settings: &Settings) -> Result<DynamoLedger> {
    let key =
        order_key(aws, settings, KeyUse::Read).await.map_err(|e| UsageError(e.to_string()))?;
    Ok(DynamoLedger::new(aws, &settings.dynamodb_table, key, Arc::new(SystemClock)))
}

/// The order key of the settings, which is not stored; otherwise the stored key that the sale's
/// processes share.
async fn order_key(
    aws: &Aws,
    settings: &Settings,
    key_use: KeyUse,
) -> Result<OrderKey, LedgerError> {
    if let Some(text) = &settings.order_key {
        return Ok(super::order_key(text));
    }
    let table = &settings.dynamodb_table;
    let keys = OrderKeys::new(aws, table);
    if key_use == KeyUse::Read {
        return keys.read().await;
    }
    let (key, origin) = keys.read_or_store(SystemIdSource.key()).await?;
    if matches!(origin, Origin::Derived) {
        tracing::warn!("{}", provision::derived_key(table));
    }
    Ok(key)
}

/// Queues and tables for one run of `flux stress`.
#[derive(Debug)]
pub struct TemporaryCloud {
    aws: Aws,
    plan: Plan,
}

impl TemporaryCloud {
    /// Creates them under this name, and sets their names in the settings.
    pub(super) async fn create(settings: &mut Settings, name: String, fifo: bool) -> Result<Self> {
        settings.dynamodb_table.clone_from(&name);
        let queue = if fifo { format!("{name}.fifo") } else { name };
        let plan = Plan::new(settings, Some(queue), None);
        let aws = load(settings, Arc::default()).await?;
        let environment =
            provision::apply(&aws, &plan, false, &mut |_| {}).await.map_err(UsageError)?;
        let url = environment.into_iter().find(|(name, _)| *name == "SQS_QUEUE_URL");
        settings.sqs_queue_url = url.map(|(_, url)| url);
        Ok(Self { aws, plan })
    }

    /// Deletes them. A failure is logged with the names of what remains.
    pub(super) async fn delete(self) {
        let Self { aws, plan } = self;
        if let Err(e) = provision::destroy(&aws, &plan, false, &mut |_| {}).await {
            let Plan { queue, table, .. } = &plan;
            tracing::warn!("cleanup failed; delete queue {queue} and table {table} by hand: {e}");
        }
    }
}
