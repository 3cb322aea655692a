//! The AWS backend, put together from the settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;

use super::provision;
use super::provision::Plan;
use super::{Away, KeyUse, UsageError};
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

/// The SDK's configuration, with what the settings say of it.
pub async fn load(settings: &Settings, calls: Arc<Calls>) -> Result<Aws> {
    let credentials = settings.aws_credentials.as_ref().map(|given| {
        let token = given.session_token.as_ref().map(|t| t.expose_secret().to_owned());
        let secret = given.secret_access_key.expose_secret();
        Credentials::new(&given.access_key_id, secret, token, None, ".env")
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

/// Queue and ledger; of these only the order key is asked for yet.
pub(super) async fn open(settings: &Settings, key_use: KeyUse) -> Result<Ports, Away> {
    let calls = Arc::new(Calls::default());
    let aws = load(settings, calls.clone()).await.map_err(Away::for_good)?;
    let Some(queue_url) = settings.sqs_queue_url.clone() else {
        let how = "set SQS_QUEUE_URL; `flux provision` makes a queue and prints its URL";
        return Err(Away::for_good(UsageError(format!("the aws backend needs a queue: {how}"))));
    };
    check_region(&aws, settings, &queue_url).map_err(Away::for_good)?;
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
            // If the queue is missing too, that is what to begin with.
            let names = super::names(OrderKey::from_text(""));
            SqsQueue::new(&aws, queue, names, clock).check().await?;
            return Err(e.into());
        }
    };
    let names = super::names(key);
    let webhooks = settings.webhook_url.as_ref().map(|_| {
        let kinds = super::event_kinds(settings);
        let outbox = SqsOutbox::new(&aws, &queue.queue_url, kinds, clock.clone());
        Arc::new(outbox) as Arc<dyn WebhookOutbox>
    });
    Ok(Ports {
        queue: Arc::new(SqsQueue::new(&aws, queue, names.clone(), clock.clone())),
        ledger: Arc::new(DynamoLedger::new(&aws, &settings.dynamodb_table, key, clock.clone())),
        lock: None,
        idempotency: None,
        webhooks,
        notifier: Arc::new(MemoryNotifier::default()),
        order_ids: names,
        clock,
        ids: Arc::new(SystemIdSource),
        calls,
        metrics: Arc::new(Metrics::default()),
        heartbeats: Arc::new(MemoryHeartbeats::default()),
        tracer: Tracer::off(),
    })
}

/// The outbox beside the queue of orders, whether or not there is a shop.
pub(super) async fn webhook_outbox(
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn WebhookOutbox>> {
    let aws = load(settings, Arc::default()).await?;
    let Some(orders) = &settings.sqs_queue_url else {
        return Err(UsageError("the queue is not known: set SQS_QUEUE_URL".to_owned()).into());
    };
    Ok(Arc::new(SqsOutbox::new(&aws, orders, super::event_kinds(settings), clock)))
}

/// Elsewhere the queue would seem not to be there.
fn check_region(aws: &Aws, settings: &Settings, queue_url: &str) -> Result<(), UsageError> {
    if settings.aws_endpoint_url.is_some() || settings.aws_endpoint_url_sqs.is_some() {
        return Ok(());
    }
    match region_of(queue_url) {
        Some(there) if there != aws.region() => Err(UsageError(format!(
            "SQS_QUEUE_URL is in {there} and the region is {}: set AWS_REGION={there}, or the URL \
             of a queue in the same region as the tables",
            aws.region()
        ))),
        _ => Ok(()),
    }
}

/// The ledger in the tables that the settings name, for one who names no orders.
pub async fn ledger(aws: &Aws, settings: &Settings) -> Result<DynamoLedger> {
    let key =
        order_key(aws, settings, KeyUse::Read).await.map_err(|e| UsageError(e.to_string()))?;
    Ok(DynamoLedger::new(aws, &settings.dynamodb_table, key, Arc::new(SystemClock)))
}

/// The one that is set, which is not stored; or the one that the sale's processes share.
async fn order_key(
    aws: &Aws,
    settings: &Settings,
    key_use: KeyUse,
) -> Result<OrderKey, LedgerError> {
    if let Some(given) = &settings.order_key {
        return Ok(super::order_key(given));
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

/// Queues and tables for one run.
#[derive(Debug)]
pub struct TemporaryCloud {
    aws: Aws,
    plan: Plan,
}

impl TemporaryCloud {
    /// Makes them under this name, and points the settings at them.
    pub(super) async fn make(settings: &mut Settings, name: String, fifo: bool) -> Result<Self> {
        settings.dynamodb_table.clone_from(&name);
        let queue = if fifo { format!("{name}.fifo") } else { name };
        let plan = Plan::new(settings, Some(queue), None);
        let aws = load(settings, Arc::default()).await?;
        let made = provision::apply(&aws, &plan, false, &mut |_| {}).await.map_err(UsageError)?;
        let url = made.into_iter().find(|(name, _)| *name == "SQS_QUEUE_URL");
        settings.sqs_queue_url = url.map(|(_, url)| url);
        Ok(Self { aws, plan })
    }

    pub(super) async fn delete(self) {
        let Self { aws, plan } = self;
        if let Err(e) = provision::destroy(&aws, &plan, false, &mut |_| {}).await {
            tracing::warn!("{} and {} are left over: {e}", plan.queue, plan.table);
        }
    }
}
