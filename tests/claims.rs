//! Claims on the items of the embedded queue, and damaged rows: no other order is blocked for ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flux::adapters::sqlite::ledger::SqliteLedger;
use flux::adapters::sqlite::lock::SqliteLock;
use flux::adapters::sqlite::queue::SqliteQueue;
use flux::adapters::sqlite::store::Store;
use flux::core::model::{Clock, Decided, Decision, Order, OrderId, Reason, Timestamp};
use flux::core::ports::ledger::{Ledger, LedgerError};
use flux::core::ports::lock::{Acquired, Lock, Token};
use flux::core::ports::queue::Queue;

use crate::conformance::{clock, item, key, names, now, order};

const AT_ONCE: Duration = Duration::from_millis(1);
const HOUR: u64 = 3_600_000;

#[derive(Debug)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

struct Bench {
    directory: tempfile::TempDir,
    store: Store,
    clock: Arc<SetClock>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("flux.db")).unwrap();
        Self { directory, store, clock: Arc::new(SetClock(AtomicU64::new(now().0))) }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A new receiver, as another process would have.
    fn receiver(&self) -> SqliteQueue {
        let visibility = Duration::from_secs(30);
        SqliteQueue::new(self.store.clone(), key(), self.clock.clone(), visibility, 1_000)
    }

    fn ledger(&self) -> SqliteLedger {
        SqliteLedger::new(self.store.clone(), key(), clock())
    }

    fn tamper(&self, sql: &str) {
        let file = rusqlite::Connection::open(self.path().join("flux.db")).unwrap();
        file.execute_batch(sql).unwrap();
    }
}

async fn sent(queue: &SqliteQueue, item_name: &str) -> Order {
    let order = order(&names(), item_name, "ann");
    queue.send(std::slice::from_ref(&order)).await.pop().unwrap().unwrap();
    order
}

async fn received(queue: &SqliteQueue) -> Vec<OrderId> {
    let came = queue.receive(10, AT_ONCE).await.unwrap();
    came.iter().flat_map(|delivery| &delivery.orders).map(|(_, order)| order.id).collect()
}

#[tokio::test]
async fn idle_item_can_be_claimed() {
    let bench = Bench::new();
    let first = bench.receiver();
    let second = bench.receiver();
    let order = sent(&first, "x").await;
    let delivery = first.receive(10, AT_ONCE).await.unwrap().remove(0);
    let decision = Decision::Rejected(Reason::SoldOut);
    let decided = Decided { order, decision, decided_at: now() };
    bench.ledger().record(&[decided]).await.unwrap();
    first.ack(&[delivery.receipt]).await.pop().unwrap().unwrap();
    for _second in 0..7 {
        bench.clock.0.fetch_add(1_000, Ordering::Relaxed);
        assert!(received(&first).await.is_empty());
    }
    let next = sent(&first, "x").await;
    assert_eq!(received(&second).await, [next.id]);
}

#[tokio::test]
async fn item_in_flight_stays_claimed() {
    let bench = Bench::new();
    let first = bench.receiver();
    let second = bench.receiver();
    let order = sent(&first, "x").await;
    assert_eq!(received(&first).await, [order.id]);
    for _second in 0..7 {
        bench.clock.0.fetch_add(1_000, Ordering::Relaxed);
        assert!(received(&first).await.is_empty());
        assert!(received(&second).await.is_empty());
    }
}

#[tokio::test]
async fn clock_set_back_ends_claims_and_locks() {
    let bench = Bench::new();
    let order = sent(&bench.receiver(), "x").await;
    assert_eq!(received(&bench.receiver()).await, [order.id]);
    let lock = SqliteLock::new(bench.store.clone(), bench.clock.clone());
    let lease = Duration::from_secs(5);
    assert_eq!(lock.acquire(&item("x"), Token(1), lease).await.unwrap(), Acquired::Yes);
    assert_eq!(lock.acquire(&item("x"), Token(2), lease).await.unwrap(), Acquired::Busy);
    assert!(received(&bench.receiver()).await.is_empty());

    bench.clock.0.fetch_sub(HOUR, Ordering::Relaxed);
    assert_eq!(received(&bench.receiver()).await, [order.id]);
    assert_eq!(lock.acquire(&item("x"), Token(2), lease).await.unwrap(), Acquired::Yes);
}

#[tokio::test]
async fn damaged_row_is_reported_and_blocks_nothing() {
    let bench = Bench::new();
    let queue = bench.receiver();
    let gone = sent(&queue, "gone").await;
    let nameless = sent(&queue, "nameless").await;
    let long = sent(&queue, "long").await;
    let sound = sent(&queue, "sound").await;
    bench.tamper("DELETE FROM items WHERE id = 'gone'");
    bench.tamper(&format!("UPDATE orders SET id = x'00' WHERE id = x'{}'", nameless.id));
    bench.tamper(&format!(
        "UPDATE orders SET user = char(7), accepted_at = -1 WHERE id = x'{}'",
        long.id
    ));

    assert_eq!(received(&queue).await, [sound.id]);
    let letters = queue.dead_letters(10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.order_id).collect::<Vec<_>>(), [long.id]);
    assert!(received(&queue).await.is_empty());

    let ledger = bench.ledger();
    assert!(ledger.find(&[sound.id]).await.unwrap()[0].is_some());
    for damaged in [gone.id, long.id] {
        let found = ledger.find(&[damaged]).await;
        assert!(
            matches!(&found, Err(LedgerError::Broken(said)) if said.contains("damaged")),
            "{found:?}"
        );
    }
    let audited = flux::load::audit(&ledger, None).await.unwrap();
    assert_eq!(audited.verdict, flux::load::AuditResult::Fail);
    let unreadable = |line: &&String| line.starts_with("order at place");
    assert_eq!(audited.findings.iter().filter(unreadable).count(), 3, "{audited}");
}

#[tokio::test]
async fn panicking_write_does_not_stop_the_writer() {
    let bench = Bench::new();
    let broken: Result<(), _> = bench
        .store
        .write(|tx| {
            tx.execute("UPDATE counts SET dead_lettered = 7", [])?;
            panic!("a bug")
        })
        .await;
    assert!(broken.is_err());
    let dead = |tx: &rusqlite::Connection| {
        tx.query_row("SELECT dead_lettered FROM counts", [], |r| r.get::<_, i64>(0))
    };
    assert_eq!(bench.store.write(dead).await.unwrap(), 0);
}
