//! The contracts on the embedded store.

use std::cell::RefCell;
use std::path::PathBuf;
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
use tempfile::TempDir;

use super::{clock, heartbeats, key, ledger, lock, names, notifier, now, queue, webhook_outbox};

thread_local! {
    /// Each test has a thread of its own, and its stores are closed before the thread ends.
    static DIRECTORIES: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

/// The path of a file in a new directory, which is removed when the test's thread ends.
fn file() -> PathBuf {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flux.db");
    DIRECTORIES.with_borrow_mut(|directories| directories.push(directory));
    file
}

fn store() -> Store {
    Store::open(&file()).unwrap()
}

mod queues {
    async fn bench() -> super::queue::Bench {
        let names = super::names();
        let visibility = super::Duration::from_secs(2);
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

mod notifications {
    async fn bench() -> super::notifier::Bench {
        let file = super::file();
        let names = super::names();
        let open = || super::Store::open(&file).unwrap();
        let here = super::Arc::new(super::SqliteNotifier::new(open()));
        let there = super::Arc::new(super::SqliteNotifier::new(open()));
        let ledger =
            super::Arc::new(super::SqliteLedger::new(open(), super::key(), super::clock()));
        super::notifier::Bench { here, there, names, ledger: Some(ledger) }
    }
    super::notifier::notifier_contract!(bench);
}

mod heartbeats_of_processes {
    async fn bench() -> super::heartbeats::Bench {
        let file = super::file();
        let open = || {
            let store = super::Store::open(&file).unwrap();
            let clock = super::SystemClock;
            super::SqliteHeartbeats::new(store, super::Arc::new(clock))
        };
        super::heartbeats::Bench { here: super::Arc::new(open()), there: super::Arc::new(open()) }
    }
    super::heartbeats::heartbeats_contract!(bench);
}

async fn outbox(store: Store, kinds: Kinds) -> SqliteOutbox {
    SqliteOutbox::open(store, Arc::new(SystemClock), kinds).await.unwrap()
}

mod webhooks {
    async fn bench() -> super::webhook_outbox::Bench {
        let file = super::file();
        let webhooks = super::outbox(super::Store::open(&file).unwrap(), super::Kinds::ALL).await;
        super::WebhookOutbox::begin(&webhooks).await.unwrap();
        // The ledger of a process that has no webhook settings.
        let store = super::Store::open(&file).unwrap();
        let ledger = super::Arc::new(super::SqliteLedger::new(store, super::key(), super::clock()));
        let webhooks = super::Arc::new(webhooks);
        super::webhook_outbox::Bench { webhooks, names: super::names(), ledger: Some(ledger) }
    }
    super::webhook_outbox::webhook_outbox_contract!(bench);
}

/// A commit of two orders for the last unit of an item: one is sold, the other is rejected.
fn commit_of_two(names: &OrderIds, item_name: &str) -> Commit {
    let read = Item::new(super::item(item_name), 2);
    let orders = vec![super::order(names, item_name, "ann"), super::order(names, item_name, "bob")];
    let batch = decide(Some(&read), orders, now());
    Commit { item: batch.item.unwrap(), expect: Expect::Version(0), decided: batch.decided }
}

async fn due(webhooks: &SqliteOutbox) -> Vec<Decided> {
    let due = webhooks.take(100, Duration::ZERO, Duration::from_secs(60)).await.unwrap();
    due.into_iter().map(|due| due.decided).collect()
}

#[tokio::test]
async fn only_wanted_decisions_create_events() {
    let store = store();
    let names = names();
    let ledger = SqliteLedger::new(store.clone(), key(), clock());
    ledger.commit(&commit_of_two(&names, "before")).await.unwrap();

    let sold = outbox(store.clone(), Kinds::parse("sold").unwrap()).await;
    assert!(due(&sold).await.is_empty());
    sold.begin().await.unwrap();
    ledger.commit(&commit_of_two(&names, "sold")).await.unwrap();
    let events = due(&sold).await;
    assert_eq!(events.iter().map(|one| one.decision).collect::<Vec<_>>(), [Decision::Sold]);

    // A commit is refused because of its last order; the orders before it must cause no events.
    let all = outbox(store.clone(), Kinds::ALL).await;
    all.begin().await.unwrap();
    let mut refused = commit_of_two(&names, "refused");
    refused.decided.push(Decided { order: events[0].order.clone(), ..refused.decided[1].clone() });
    let clock = Arc::new(SystemClock);
    let queue = SqliteQueue::new(store.clone(), key(), clock, Duration::from_secs(5), 100);
    let orders: Vec<_> = refused.decided[..2].iter().map(|one| one.order.clone()).collect();
    flux::core::ports::queue::Queue::send(&queue, &orders).await;
    let answer = ledger.commit(&refused).await.unwrap();
    assert!(matches!(answer, Committed::Refused { .. }), "{answer:?}");
    assert!(due(&all).await.is_empty());

    all.end().await.unwrap();
    ledger.commit(&commit_of_two(&names, "after")).await.unwrap();
    assert!(due(&all).await.is_empty());
    assert!(!SqliteOutbox::is_on(&store).await.unwrap());
}
