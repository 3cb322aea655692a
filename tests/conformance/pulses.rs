//! The contract of pulses.

use std::sync::Arc;
use std::time::Duration;

use flux::adapters::memory::heartbeats::LocalPulses;
use flux::core::model::Timestamp;
use flux::core::ports::heartbeats::{Counts, Kind, Pulse, Pulses};

/// What two processes of one sale have; the same where pulses stay within a process.
pub struct Bench {
    pub here: Arc<dyn Pulses>,
    pub there: Arc<dyn Pulses>,
}

macro_rules! pulses_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, pulses:
            a_process_is_seen_with_what_it_said_last_until_it_is_removed,
            each_process_is_seen_once,
            a_process_that_fell_silent_is_dead,
        );
    };
}
pub(crate) use pulses_contract;

fn pulse(id: &str, sold: u64) -> Pulse {
    let counts =
        Counts { sold, rejected: [("sold_out".to_owned(), 7)].into(), ..Counts::default() };
    Pulse {
        id: id.to_owned(),
        kind: Kind::Work,
        host: "here \"and\" there".to_owned(),
        pid: 4_711,
        at: Some(flux::core::model::Timestamp(9)),
        started_at: Timestamp(1_795_441_740_123),
        concurrency: 50,
        counts,
        decision: vec![0, 1, sold],
        ack: Vec::new(),
        in_hand: 3,
        last: Vec::new(),
    }
}

async fn seen(pulses: &Arc<dyn Pulses>) -> Vec<Pulse> {
    pulses.living().await.unwrap().into_iter().map(|living| living.pulse).collect()
}

pub async fn a_process_is_seen_with_what_it_said_last_until_it_is_removed(bench: Bench) {
    assert_eq!(seen(&bench.there).await, []);
    for sold in [1, 2] {
        bench.here.beat(&pulse("a", sold)).await.unwrap();
        assert_eq!(seen(&bench.there).await, [pulse("a", sold)]);
    }
    bench.here.remove("a").await.unwrap();
    assert_eq!(seen(&bench.there).await, []);
    bench.here.remove("a").await.unwrap();
}

pub async fn each_process_is_seen_once(bench: Bench) {
    let (a, b) = (pulse("a", 1), pulse("b", 2));
    bench.there.beat(&b).await.unwrap();
    bench.here.beat(&a).await.unwrap();
    bench.here.beat(&a).await.unwrap();
    assert_eq!(seen(&bench.here).await, [a, b]);
}

pub async fn a_process_that_fell_silent_is_dead(bench: Bench) {
    bench.here.beat(&pulse("a", 1)).await.unwrap();
    let gone = async {
        while !seen(&bench.there).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    bench.here.beat(&pulse("a", 2)).await.unwrap();
    assert_eq!(seen(&bench.there).await, [pulse("a", 2)]);
}

mod local {
    async fn bench() -> super::Bench {
        let pulses = super::Arc::new(super::LocalPulses::default());
        super::Bench { here: pulses.clone(), there: pulses }
    }
    super::pulses_contract!(bench);
}
