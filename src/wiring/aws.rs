//! The AWS backend, put together from the settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;

use super::Usage;
use crate::config::Settings;
use crate::core::Ports;
use crate::core::calls::Calls;
use crate::core::connection::aws::{Aws, AwsSettings, Credentials};
use crate::core::connection::redis::{Redis, RedisSettings};
use crate::core::ledger::dynamodb::DynamoLedger;
use crate::core::lock::redis::RedisLock;
use crate::core::marks::redis::RedisMarks;
use crate::core::meters::Meters;
use crate::core::order::{Clock, OrderKey, SystemChance, SystemClock};
use crate::core::outcomes::local::LocalOutcomes;
use crate::core::outcomes::redis::RedisOutcomes;
use crate::core::pulses::local::LocalPulses;
use crate::core::pulses::redis::RedisPulses;
use crate::core::queue::sqs::{SqsQueue, SqsSettings};
use crate::core::trace::Tracer;

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
    Ok(Aws::load(aws, calls).await.map_err(Usage)?)
}

/// Queue and ledger; calls neither yet.
pub(super) async fn open(settings: &Settings) -> Result<Ports> {
    let calls = Arc::new(Calls::default());
    let aws = load(settings, calls.clone()).await?;
    let Some(queue_url) = settings.sqs_queue_url.clone() else {
        let how = "set SQS_QUEUE_URL; `flux provision` makes a queue and prints its URL";
        return Err(Usage(format!("the aws backend needs a queue: {how}")).into());
    };
    let names = super::names(key(settings));
    let queue = SqsSettings {
        queue_url,
        dead_letter_queue_url: None,
        visibility: Duration::from_millis(settings.visibility_timeout_ms),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let webhooks = super::webhooks::on_aws(settings, &aws, &queue.queue_url, &clock);
    Ok(Ports {
        queue: Arc::new(SqsQueue::new(&aws, queue, names.clone())),
        ledger: Arc::new(ledger(&aws, settings)),
        lock: None,
        marks: None,
        webhooks,
        outcomes: Arc::new(LocalOutcomes::default()),
        names,
        clock,
        chance: Arc::new(SystemChance),
        calls,
        meters: Arc::new(Meters::default()),
        pulses: Arc::new(LocalPulses::default()),
        tracer: Tracer::off(),
    })
}

/// The same with lock, marks, outcomes and pulses in Redis, if one is named.
pub(super) async fn with_redis(settings: &Settings, ports: Ports) -> Result<Ports> {
    let Some(redis) = redis(settings, ports.calls.clone()).await? else { return Ok(ports) };
    Ok(Ports {
        lock: Some(Arc::new(RedisLock::new(redis.clone()))),
        marks: Some(Arc::new(RedisMarks::new(redis.clone()))),
        outcomes: Arc::new(RedisOutcomes::new(redis.clone())),
        pulses: Arc::new(RedisPulses::new(redis)),
        ..ports
    })
}

/// The ledger in the tables that the settings name.
pub fn ledger(aws: &Aws, settings: &Settings) -> DynamoLedger {
    DynamoLedger::new(aws, &settings.dynamodb_table, key(settings))
}

fn key(settings: &Settings) -> OrderKey {
    match &settings.order_key {
        Some(given) => super::order_key(given),
        None => OrderKey::from_text(&settings.dynamodb_table),
    }
}

/// `None`, with a warning, when no Redis is named: the sale goes on without.
async fn redis(settings: &Settings, calls: Arc<Calls>) -> Result<Option<Redis>> {
    let url = match (&settings.redis_url, &settings.redis_host) {
        (Some(url), _) => url.expose_secret().to_owned(),
        (None, Some(host)) => format!("redis://{host}:{}", settings.redis_port),
        (None, None) => {
            tracing::warn!(
                "no REDIS_HOST or REDIS_URL: deciding without a lock, which is as safe and slower \
                 when several workers want one item"
            );
            return Ok(None);
        }
    };
    let password = settings.redis_password.as_ref().map(|p| p.expose_secret().to_owned());
    let prefix = format!("flux:{}", settings.dynamodb_table);
    let redis = Redis::connect(RedisSettings { url, password, prefix }, calls).await;
    Ok(Some(redis.map_err(Usage)?))
}
