//! The contract of the heartbeats.

use std::sync::Arc;
use std::time::Duration;

use flux::adapters::memory::heartbeats::MemoryHeartbeats;
use flux::core::model::Timestamp;
use flux::core::ports::heartbeats::{Counts, Heartbeat, Heartbeats, Kind};

/// The heartbeats of two processes of one sale; the same object where heartbeats stay within a
/// process.
pub struct Bench {
    pub here: Arc<dyn Heartbeats>,
    pub there: Arc<dyn Heartbeats>,
}

macro_rules! heartbeats_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, heartbeats:
            last_heartbeat_is_listed_until_removed,
            each_process_is_listed_once,
            silent_process_is_not_listed,
        );
    };
}
pub(crate) use heartbeats_contract;

fn heartbeat(id: &str, sold: u64) -> Heartbeat {
    let counts =
        Counts { sold, rejected: [("sold_out".to_owned(), 7)].into(), ..Counts::default() };
    Heartbeat {
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
        in_flight: 3,
        last: Vec::new(),
    }
}

async fn listed(heartbeats: &Arc<dyn Heartbeats>) -> Vec<Heartbeat> {
    heartbeats.processes().await.unwrap().into_iter().map(|living| living.heartbeat).collect()
}

pub async fn last_heartbeat_is_listed_until_removed(bench: Bench) {
    assert_eq!(listed(&bench.there).await, []);
    for sold in [1, 2] {
        bench.here.write(&heartbeat("a", sold)).await.unwrap();
        assert_eq!(listed(&bench.there).await, [heartbeat("a", sold)]);
    }
    bench.here.remove("a").await.unwrap();
    assert_eq!(listed(&bench.there).await, []);
    bench.here.remove("a").await.unwrap();
}

pub async fn each_process_is_listed_once(bench: Bench) {
    let a = heartbeat("a", 1);
    let b = heartbeat("b", 2);
    bench.there.write(&b).await.unwrap();
    bench.here.write(&a).await.unwrap();
    bench.here.write(&a).await.unwrap();
    assert_eq!(listed(&bench.here).await, [a, b]);
}

pub async fn silent_process_is_not_listed(bench: Bench) {
    bench.here.write(&heartbeat("a", 1)).await.unwrap();
    let gone = async {
        while !listed(&bench.there).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    bench.here.write(&heartbeat("a", 2)).await.unwrap();
    assert_eq!(listed(&bench.there).await, [heartbeat("a", 2)]);
}

mod local {
    async fn bench() -> super::Bench {
        let heartbeats = super::Arc::new(super::MemoryHeartbeats::default());
        super::Bench { here: heartbeats.clone(), there: heartbeats }
    }
    super::heartbeats_contract!(bench);
}
