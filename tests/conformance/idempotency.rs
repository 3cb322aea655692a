//! The contract of the idempotency port.

use std::sync::Arc;

use flux::core::model::OrderIds;
use flux::core::ports::idempotency::{Fingerprint, IdempotencyStore, KeyCheck};

use super::now;

pub struct Bench {
    pub idempotency: Arc<dyn IdempotencyStore>,
    pub names: Arc<OrderIds>,
}

macro_rules! idempotency_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, idempotency:
            repeat_matches_and_other_request_mismatches,
            batch_results_keep_its_order,
        );
    };
}
pub(crate) use idempotency_contract;

pub async fn repeat_matches_and_other_request_mismatches(bench: Bench) {
    let order = bench.names.generate(now());
    let mark = |hash| [Fingerprint { order, hash }];
    for (fingerprint, answer) in
        [(1, KeyCheck::Match), (1, KeyCheck::Match), (2, KeyCheck::Mismatch)]
    {
        assert_eq!(bench.idempotency.check_keys(&mark(fingerprint)).await.unwrap(), [answer]);
    }
    assert_eq!(bench.idempotency.check_keys(&mark(1)).await.unwrap(), [KeyCheck::Match]);
}

pub async fn batch_results_keep_its_order(bench: Bench) {
    let mut batch: Vec<Fingerprint> =
        (0..500).map(|n| Fingerprint { order: bench.names.generate(now()), hash: n }).collect();
    assert!(
        bench.idempotency.check_keys(&batch).await.unwrap().iter().all(|m| *m == KeyCheck::Match)
    );
    batch[7].hash = u64::MAX;
    batch.push(Fingerprint { hash: 0, ..batch[7] });
    let answers = bench.idempotency.check_keys(&batch).await.unwrap();
    let differ: Vec<usize> =
        (0..batch.len()).filter(|&n| answers[n] == KeyCheck::Mismatch).collect();
    assert_eq!(differ, [7, 500]);
    assert_eq!(bench.idempotency.check_keys(&[]).await.unwrap(), []);
}
