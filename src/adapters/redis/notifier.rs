//! Notifications over Redis pub/sub: one message per batch, with concatenated order ids.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::client::Redis;
use crate::core::model::OrderId;
use crate::core::ports::notifier::{Notifier, Subscribers};

const ID_BYTES: usize = 16;
/// Ids in one message, at most.
const BATCH: usize = 10_000;
/// Pause between two attempts to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);

/// Notifications among the processes of a sale.
#[derive(Debug)]
pub struct RedisNotifier {
    redis: Redis,
    channel: String,
}

impl RedisNotifier {
    pub fn new(redis: Redis) -> Self {
        Self { channel: redis.name("outcomes"), redis }
    }
}

impl fmt::Display for RedisNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redis.fmt(f)
    }
}

#[async_trait]
impl Notifier for RedisNotifier {
    async fn publish(&self, orders: &[OrderId]) {
        for batch in orders.chunks(BATCH) {
            let Ok(client) = self.redis.round_trip("PUBLISH", 1) else { return };
            let bytes = batch.iter().flat_map(|id| id.as_bytes()).copied().collect::<Vec<u8>>();
            if let Err(e) = client.publish::<(), _, _>(&*self.channel, bytes.as_slice()).await {
                let why = self.redis.failed("PUBLISH", &e);
                tracing::debug!(decisions = batch.len(), "notification lost: {why}");
            }
        }
    }

    async fn check(&self) -> Result<(), String> {
        self.redis.check().await
    }

    async fn listen(&self, subscribers: Arc<Subscribers>, stop: CancellationToken) {
        let subscriber = match self.redis.subscriber() {
            Ok(subscriber) => subscriber,
            Err(e) => {
                tracing::warn!(
                    "no notifications from {self}; waiting requests poll the ledger: {e}"
                );
                return;
            }
        };
        let mut messages = subscriber.message_rx();
        let mut reconnected = subscriber.reconnect_rx();
        subscriber.connect();
        let mut subscribed = false;
        let mut retry = tokio::time::interval(SUBSCRIBE_PAUSE);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = reconnected.recv() => subscribed = false,
                _ = retry.tick(), if !subscribed => {}
                message = messages.recv() => {
                    match message {
                        Ok(message) => subscribers.wake(ids(message.value.as_bytes().unwrap_or(&[]))),
                        // Messages were lost, so all subscribers check the ledger.
                        Err(RecvError::Lagged(_)) => subscribers.wake(subscribers.orders()),
                        Err(RecvError::Closed) => break,
                    }
                    continue;
                }
            }
            if !subscribed && subscriber.is_connected() {
                subscribed = subscriber.subscribe(self.channel.as_str()).await.is_ok();
                // Messages before the subscription are lost, so all subscribers check the ledger.
                subscribers.wake(subscribers.orders());
            }
        }
        let _closed = subscriber.quit().await;
    }
}

fn ids(bytes: &[u8]) -> impl Iterator<Item = OrderId> {
    let chunks = bytes.chunks_exact(ID_BYTES);
    chunks.map(|id| OrderId::from_bytes(id.try_into().expect("chunks of this size")))
}
