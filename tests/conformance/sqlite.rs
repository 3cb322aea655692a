//! The contracts that the embedded store keeps.

use std::sync::Arc;
use std::time::Duration;

use flux::adapters::sqlite::heartbeats::SqliteHeartbeats;
use flux::adapters::sqlite::ledger::SqliteLedger;
use flux::adapters::sqlite::lock::SqliteLock;
use flux::adapters::sqlite::notifier::SqliteNotifier;
use flux::adapters::sqlite::queue::SqliteQueue;
use flux::adapters::sqlite::store::Store;
use flux::adapters::sqlite::webhook_outbox::SqliteOutbox;
use flux::core::model::event::Kinds;
use flux::core::model::{Decided, Decision, Item, OrderIds, SystemClock, decide};
use flux::core::ports::ledger::{Commit, Committed, Expect, Ledger};
use flux::core::ports::webhook_outbox::WebhookOutbox;

use super::{clock, heartbeats, key, ledger, lock, names, notifier, now, queue, webhook_outbox};

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
        let queue =
            super::SqliteQueue::new(super::store(), super::key(), clock, visibility, 1_000_000);
        super::queue::Bench { queue: super::Arc::new(queue), names, visibility }
    }
    super::queue::queue_contract!(bench);
}

mod ledgers {
    async fn bench() -> super::ledger::Bench {
        let ledger = super::SqliteLedger::new(super::store(), super::key(), super::clock());
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
    async fn bench() -> super::notifier::Bench {
        let (file, names) = (super::file(), super::names());
        let open = || super::Store::open(&file).unwrap();
        let here = super::Arc::new(super::SqliteNotifier::new(open()));
        let there = super::Arc::new(super::SqliteNotifier::new(open()));
        let ledger =
            super::Arc::new(super::SqliteLedger::new(open(), super::key(), super::clock()));
        super::notifier::Bench { here, there, names, ledger: Some(ledger) }
    }
    super::notifier::notifier_contract!(bench);
}

mod heartbeat {
    async fn bench() -> super::heartbeats::Bench {
        let file = super::file();
        let open = || {
            let (store, clock) = (super::Store::open(&file).unwrap(), super::SystemClock);
            super::SqliteHeartbeats::new(store, super::Arc::new(clock))
        };
        super::heartbeats::Bench { here: super::Arc::new(open()), there: super::Arc::new(open()) }
    }
    super::heartbeats::heartbeats_contract!(bench);
}

async fn outbox(store: Store, kinds: Kinds) -> SqliteOutbox {
    SqliteOutbox::open(store, Arc::new(SystemClock), kinds).await.unwrap()
}

mod webhook {
    async fn bench() -> super::webhook_outbox::Bench {
        let file = super::file();
        let webhooks = super::outbox(super::Store::open(&file).unwrap(), super::Kinds::ALL).await;
        super::WebhookOutbox::begin(&webhooks).await.unwrap();
        // A process that knows nothing of webhooks.
        let store = super::Store::open(&file).unwrap();
        let ledger = super::Arc::new(super::SqliteLedger::new(store, super::key(), super::clock()));
        let webhooks = super::Arc::new(webhooks);
        super::webhook_outbox::Bench { webhooks, names: super::names(), ledger: Some(ledger) }
    }
    super::webhook_outbox::webhook_outbox_contract!(bench);
}

/// Two orders for the last unit of an item: one is sold, one is not.
fn verdict(names: &OrderIds, item_name: &str) -> Commit {
    let read = Item::new(super::item(item_name), 2);
    let orders = vec![super::order(names, item_name, "ann"), super::order(names, item_name, "bob")];
    let verdict = decide(Some(&read), orders, now());
    Commit { item: verdict.item.unwrap(), expect: Expect::Version(0), decided: verdict.decided }
}

async fn due(webhooks: &SqliteOutbox) -> Vec<Decided> {
    let due = webhooks.take(100, Duration::ZERO, Duration::from_secs(60)).await.unwrap();
    due.into_iter().map(|due| due.decided).collect()
}

#[tokio::test]
async fn only_wanted_decisions_create_events() {
    let (store, names) = (store(), names());
    let ledger = SqliteLedger::new(store.clone(), key(), clock());
    ledger.commit(&verdict(&names, "before")).await.unwrap();

    let sold = outbox(store.clone(), Kinds::parse("sold").unwrap()).await;
    assert!(due(&sold).await.is_empty());
    sold.begin().await.unwrap();
    ledger.commit(&verdict(&names, "sold")).await.unwrap();
    let came = due(&sold).await;
    assert_eq!(came.iter().map(|one| one.decision).collect::<Vec<_>>(), [Decision::Sold]);

    // A refused commit has written, and undone, what comes before the order that is decided.
    let all = outbox(store.clone(), Kinds::ALL).await;
    all.begin().await.unwrap();
    let mut refused = verdict(&names, "refused");
    refused.decided.push(Decided { order: came[0].order.clone(), ..refused.decided[1].clone() });
    let clock = Arc::new(SystemClock);
    let queue = SqliteQueue::new(store.clone(), key(), clock, Duration::from_secs(5), 100);
    let orders: Vec<_> = refused.decided[..2].iter().map(|one| one.order.clone()).collect();
    flux::core::ports::queue::Queue::send(&queue, &orders).await;
    let answer = ledger.commit(&refused).await.unwrap();
    assert!(matches!(answer, Committed::Refused { .. }), "{answer:?}");
    assert!(due(&all).await.is_empty());

    all.end().await.unwrap();
    ledger.commit(&verdict(&names, "after")).await.unwrap();
    assert!(due(&all).await.is_empty());
    assert!(!SqliteOutbox::is_on(&store).await.unwrap());
}
