//! The contracts that the embedded store keeps.

use std::sync::Arc;
use std::time::Duration;

use flux::core::connection::sqlite::Store;
use flux::core::ledger::sqlite::SqliteLedger;
use flux::core::lock::sqlite::SqliteLock;
use flux::core::order::SystemClock;
use flux::core::outcomes::sqlite::SqliteOutcomes;
use flux::core::pulses::sqlite::SqlitePulses;
use flux::core::queue::sqlite::SqliteQueue;

use super::{key, ledger, lock, names, outcomes, pulses, queue};

/// A new file; its directory lasts as long as the process.
fn file() -> std::path::PathBuf {
    tempfile::tempdir().unwrap().keep().join("flux.db")
}

fn store() -> Store {
    Store::open(&file()).unwrap()
}

mod queues {
    async fn bench() -> super::queue::Bench {
        let (names, visibility) = (super::names(), super::Duration::from_secs(2));
        let clock = super::Arc::new(super::SystemClock);
        let queue = super::SqliteQueue::new(super::store(), clock, visibility, 1_000_000);
        super::queue::Bench { queue: super::Arc::new(queue), names, visibility }
    }
    super::queue::queue_contract!(bench);
}

mod ledgers {
    async fn bench() -> super::ledger::Bench {
        let ledger = super::SqliteLedger::new(super::store(), super::key());
        super::ledger::Bench { ledger: super::Arc::new(ledger), names: super::names() }
    }
    super::ledger::ledger_contract!(bench);
}

mod locks {
    async fn bench() -> super::lock::Bench {
        let lock = super::SqliteLock::new(super::store(), super::Arc::new(super::SystemClock));
        super::lock::Bench { lock: super::Arc::new(lock) }
    }
    super::lock::lock_contract!(bench);
}

mod outcome {
    async fn bench() -> super::outcomes::Bench {
        let (file, names) = (super::file(), super::names());
        let open = || super::Store::open(&file).unwrap();
        let here = super::Arc::new(super::SqliteOutcomes::new(open()));
        let there = super::Arc::new(super::SqliteOutcomes::new(open()));
        let ledger = super::Arc::new(super::SqliteLedger::new(open(), super::key()));
        super::outcomes::Bench { here, there, names, ledger: Some(ledger) }
    }
    super::outcomes::outcomes_contract!(bench);
}

mod pulse {
    async fn bench() -> super::pulses::Bench {
        let file = super::file();
        let open = || {
            let (store, clock) = (super::Store::open(&file).unwrap(), super::SystemClock);
            super::SqlitePulses::new(store, super::Arc::new(clock))
        };
        super::pulses::Bench { here: super::Arc::new(open()), there: super::Arc::new(open()) }
    }
    super::pulses::pulses_contract!(bench);
}
