//! The contracts that Redis keeps.

use std::sync::Arc;

use flux::adapters::redis::client::{Redis, RedisSettings};
use flux::adapters::redis::heartbeats::RedisPulses;
use flux::adapters::redis::idempotency::RedisMarks;
use flux::adapters::redis::lock::RedisLock;
use flux::adapters::redis::notifier::RedisOutcomes;
use flux::clear_text::Tls;
use flux::core::ports::usage::Calls;

use super::{address, fresh_name, lock, marks, names, outcomes, pulses};

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

mod outcome {
    async fn bench() -> super::outcomes::Bench {
        let prefix = super::fresh_name("outcomes");
        let redis = async || super::RedisOutcomes::new(super::connect(prefix.clone()).await);
        let (here, there) = (super::Arc::new(redis().await), super::Arc::new(redis().await));
        super::outcomes::Bench { here, there, names: super::names(), ledger: None }
    }
    super::outcomes::outcomes_contract!(bench);
}

mod mark {
    async fn bench() -> super::marks::Bench {
        let redis = super::connect(super::fresh_name("marks")).await;
        let marks = super::Arc::new(super::RedisMarks::new(redis));
        super::marks::Bench { marks, names: super::names() }
    }
    super::marks::marks_contract!(bench);
}

mod pulse {
    async fn bench() -> super::pulses::Bench {
        let prefix = super::fresh_name("pulses");
        let redis = async || super::RedisPulses::new(super::connect(prefix.clone()).await);
        let (here, there) = (super::Arc::new(redis().await), super::Arc::new(redis().await));
        super::pulses::Bench { here, there }
    }
    super::pulses::pulses_contract!(bench);
}
