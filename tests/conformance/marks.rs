//! The contract of marks.

use std::sync::Arc;

use flux::core::model::OrderNames;
use flux::core::ports::idempotency::{Mark, Marked, Marks};

use super::now;

pub struct Bench {
    pub marks: Arc<dyn Marks>,
    pub names: Arc<OrderNames>,
}

macro_rules! marks_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, marks:
            a_repeat_fits_and_another_request_differs,
            a_batch_is_answered_in_its_order,
        );
    };
}
pub(crate) use marks_contract;

pub async fn a_repeat_fits_and_another_request_differs(bench: Bench) {
    let order = bench.names.fresh(now());
    let mark = |fingerprint| [Mark { order, fingerprint }];
    for (fingerprint, answer) in [(1, Marked::Fits), (1, Marked::Fits), (2, Marked::Differs)] {
        assert_eq!(bench.marks.mark(&mark(fingerprint)).await.unwrap(), [answer]);
    }
    assert_eq!(bench.marks.mark(&mark(1)).await.unwrap(), [Marked::Fits]);
}

pub async fn a_batch_is_answered_in_its_order(bench: Bench) {
    let mut batch: Vec<Mark> =
        (0..500).map(|n| Mark { order: bench.names.fresh(now()), fingerprint: n }).collect();
    assert!(bench.marks.mark(&batch).await.unwrap().iter().all(|m| *m == Marked::Fits));
    batch[7].fingerprint = u64::MAX;
    batch.push(Mark { fingerprint: 0, ..batch[7] });
    let answers = bench.marks.mark(&batch).await.unwrap();
    let differ: Vec<usize> = (0..batch.len()).filter(|&n| answers[n] == Marked::Differs).collect();
    assert_eq!(differ, [7, 500]);
    assert_eq!(bench.marks.mark(&[]).await.unwrap(), []);
}
