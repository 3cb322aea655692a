//! The contracts that Redis keeps.

use std::sync::Arc;

use flux::adapters::redis::client::{Redis, RedisSettings};
use flux::adapters::redis::heartbeats::RedisHeartbeats;
use flux::adapters::redis::idempotency::RedisIdempotency;
use flux::adapters::redis::lock::RedisLock;
use flux::adapters::redis::notifier::RedisNotifier;
use flux::clear_text::Tls;
use flux::core::ports::usage::Calls;

use super::{address, fresh_name, heartbeats, idempotency, lock, names, notifier};

async fn connect(prefix: String) -> Redis {
    connect_to(&address("FLUX_TEST_REDIS"), prefix).await
}

pub async fn connect_to(url: &str, prefix: String) -> Redis {
    let settings = RedisSettings { url: url.to_owned(), password: None, tls: Tls::Auto, prefix };
    Redis::connect(settings, Arc::new(Calls::default())).await.unwrap()
}

mod locks {
    async fn bench() -> super::lock::Bench {
        let redis = super::connect(super::fresh_name("lock")).await;
        super::lock::Bench { lock: super::Arc::new(super::RedisLock::new(redis)) }
    }
    super::lock::lock_contract!(bench);
}

mod notifications {
    async fn bench() -> super::notifier::Bench {
        let prefix = super::fresh_name("notifier");
        let redis = async || super::RedisNotifier::new(super::connect(prefix.clone()).await);
        let here = super::Arc::new(redis().await);
        let there = super::Arc::new(redis().await);
        super::notifier::Bench { here, there, names: super::names(), ledger: None }
    }
    super::notifier::notifier_contract!(bench);
}

mod idempotency_keys {
    async fn bench() -> super::idempotency::Bench {
        let redis = super::connect(super::fresh_name("idempotency")).await;
        let idempotency = super::Arc::new(super::RedisIdempotency::new(redis));
        super::idempotency::Bench { idempotency, names: super::names() }
    }
    super::idempotency::idempotency_contract!(bench);
}

mod heartbeats_of_processes {
    async fn bench() -> super::heartbeats::Bench {
        let prefix = super::fresh_name("heartbeats");
        let redis = async || super::RedisHeartbeats::new(super::connect(prefix.clone()).await);
        let here = super::Arc::new(redis().await);
        let there = super::Arc::new(redis().await);
        super::heartbeats::Bench { here, there }
    }
    super::heartbeats::heartbeats_contract!(bench);
}
