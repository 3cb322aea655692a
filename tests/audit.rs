//! The audit of stores that were changed by something other than flux.

use std::path::{Path, PathBuf};

use flux::config::Settings;
use flux::core::engine::Ports;
use flux::core::model::{
    Decided, Decision, Item, ItemChange, ItemId, Order, Quantity, Reason, Timestamp, UserId, decide,
};
use flux::core::ports::ledger::{Commit, Committed, Expect};
use flux::load::{AuditReport, AuditResult, AuditSummary, audit};
use flux::wiring;

struct Shop {
    ports: Ports,
    file: PathBuf,
    item: ItemId,
}

impl Shop {
    /// A shop with one item of this stock.
    async fn open(directory: &Path, stock: u64) -> Shop {
        let file = directory.join("flux.db");
        let settings = Settings { data: file.clone(), ..Settings::default() };
        let ports = wiring::connect(&settings).await.unwrap();
        let item = ItemId::parse("ticket_001").unwrap();
        ports.ledger.set_stock(&item, stock).await.unwrap();
        Shop { ports, file, item }
    }

    fn order(&self, quantity: u64, accepted_at: Timestamp) -> Order {
        let id = self.ports.order_ids.generate(accepted_at);
        let quantity = Quantity::new(quantity).unwrap();
        let user = UserId::parse("ann").unwrap();
        Order { id, user, item: self.item.clone(), quantity, accepted_at, trace: None }
    }

    async fn read(&self) -> Item {
        self.ports.ledger.item(&self.item).await.unwrap().unwrap()
    }

    /// Queues orders of these quantities, accepted one millisecond apart, and decides them in one
    /// commit.
    async fn sell(&self, quantities: &[u64]) {
        let now = self.ports.clock.now();
        let at = |n: usize| Timestamp(now.0 - 1_000 + n as u64);
        let orders = quantities.iter().enumerate().map(|(n, q)| self.order(*q, at(n)));
        let orders: Vec<Order> = orders.collect();
        for sent in self.ports.queue.send(&orders).await {
            sent.unwrap();
        }
        self.commit(&self.read().await, orders, Expect::Anything).await;
    }

    async fn commit(&self, item: &Item, orders: Vec<Order>, expect: Expect) {
        let batch = decide(Some(item), orders, self.ports.clock.now());
        let item = batch.item.unwrap();
        let decided = batch.decided;
        let commit = Commit { item, expect, decided };
        assert_eq!(self.ports.ledger.commit(&commit).await.unwrap(), Committed::Written);
    }

    async fn reject(&self, order: Order) {
        let decision = Decision::Rejected(Reason::SoldOut);
        let decided = Decided { order, decision, decided_at: self.ports.clock.now() };
        assert_eq!(self.ports.ledger.record(&[decided]).await.unwrap(), []);
    }

    /// Changes exactly one row by SQL.
    fn tamper(&self, sql: &str) {
        let file = rusqlite::Connection::open(&self.file).unwrap();
        assert_eq!(file.execute(sql, []).unwrap(), 1, "{sql}");
    }

    async fn audit(&self) -> AuditReport {
        let report = audit(&*self.ports.ledger, None).await.unwrap();
        let one = audit(&*self.ports.ledger, Some(&self.item)).await.unwrap();
        assert_eq!((&report.total, &report.items), (&one.total, &one.items));
        let sound = report.total.faults().is_empty() && report.findings.is_empty();
        assert_eq!(report.verdict == AuditResult::Pass, sound);
        report
    }
}

/// The audit after five orders for two tickets and one change by SQL.
async fn after(sql: &str) -> AuditSummary {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 2).await;
    shop.sell(&[1, 1, 1, 1, 1]).await;
    assert_eq!(shop.audit().await.verdict, AuditResult::Pass);
    shop.tamper(sql);
    let report = shop.audit().await;
    assert_eq!(report.verdict, AuditResult::Fail, "{sql}");
    assert!(report.to_string().lines().last().unwrap().starts_with("FAIL: items 1, "));
    report.total
}

fn sound() -> AuditSummary {
    AuditSummary { stock: 2, sold: 2, orders: 5, rejected: 3, ..AuditSummary::default() }
}

const ONE_SOLD: &str = "id = (SELECT min(id) FROM orders WHERE state = 20)";
const ONE_REJECTED: &str = "id = (SELECT max(id) FROM orders WHERE state = 21)";

#[tokio::test]
async fn extra_unit_is_found() {
    let found = after(&format!("UPDATE orders SET state = 20 WHERE {ONE_REJECTED}")).await;
    let expected = AuditSummary {
        sold: 3,
        rejected: 2,
        oversold_units: 1,
        uncounted_units: 1,
        changed_decisions: 1,
        inversions: 1,
        ..sound()
    };
    assert_eq!(found, expected);
    let found = after(&format!("UPDATE orders SET quantity = 9 WHERE {ONE_SOLD}")).await;
    assert_eq!((found.oversold_units, found.changed_decisions), (8, 1));
}

#[tokio::test]
async fn missing_unit_is_found() {
    let found = after(&format!("DELETE FROM orders WHERE {ONE_SOLD}")).await;
    let expected = AuditSummary {
        sold: 1,
        orders: 4,
        stranded_units: 1,
        unaccounted_units: 1,
        missing_orders: 1,
        undone_decisions: 1,
        ..sound()
    };
    assert_eq!(found, expected);
    let found = after("UPDATE items SET sold = sold - 1").await;
    let changed = AuditSummary { changed_items: 1, ..sound() };
    assert_eq!(found, AuditSummary { uncounted_units: 1, unbalanced_units: 1, ..changed.clone() });
    let found = after("UPDATE items SET stock = stock + 1").await;
    let expected =
        AuditSummary { stock: 3, stranded_units: 1, unbalanced_units: 1, ..changed.clone() };
    assert_eq!(found, expected);
    let found = after("UPDATE items SET free = 1, sold = 1").await;
    assert_eq!(found, AuditSummary { free: 1, uncounted_units: 1, ..changed });
}

#[tokio::test]
async fn changed_decision_is_found() {
    for change in ["state = 22", "state = 10", "user = 'bob'", "accepted_at = 1"] {
        let found = after(&format!("UPDATE orders SET {change} WHERE {ONE_REJECTED}")).await;
        assert_eq!(found.changed_decisions, 1, "{change}");
    }
    let found = after(&format!("UPDATE orders SET user = 'bob' WHERE {ONE_SOLD}")).await;
    assert_eq!(found, AuditSummary { changed_decisions: 1, ..sound() });
}

#[tokio::test]
async fn missing_and_inserted_orders_are_found() {
    let found = after(&format!("DELETE FROM orders WHERE {ONE_REJECTED}")).await;
    let gone = AuditSummary { missing_orders: 1, undone_decisions: 1, ..sound() };
    assert_eq!(found, AuditSummary { orders: 4, rejected: 2, ..gone });
    let found = after(&format!(
        "INSERT INTO orders SELECT place + 1000, x'00112233445566778899aabbccddeeff', user,
         quantity, accepted_at, 10, decided_at, zeroblob(8), trace FROM orders WHERE {ONE_REJECTED}"
    ))
    .await;
    let foreign = AuditSummary { unexpected_orders: 1, changed_decisions: 1, ..sound() };
    assert_eq!(found, AuditSummary { orders: 6, undecided: 1, ..foreign });
}

#[tokio::test]
async fn oversold_item_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 1).await;
    let read = shop.read().await;
    for _ in 0..2 {
        let order = shop.order(1, shop.ports.clock.now());
        shop.commit(&read, vec![order], Expect::Anything).await;
    }
    let found = shop.audit().await.total;
    let expected = AuditSummary {
        stock: 1,
        sold: 2,
        orders: 2,
        oversold_units: 1,
        uncounted_units: 1,
        ..AuditSummary::default()
    };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn refused_buyer_strands_units_but_restock_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 3).await;
    shop.sell(&[2, 1, 1]).await;
    shop.ports.ledger.set_stock(&shop.item, 5).await.unwrap();
    assert_eq!(shop.audit().await.verdict, AuditResult::Pass, "sold out before the restock");

    let later = Timestamp(shop.ports.clock.now().0 + 5_000);
    shop.reject(shop.order(3, later)).await;
    assert_eq!(shop.audit().await.verdict, AuditResult::Pass, "three were not there");
    shop.reject(shop.order(2, later)).await;
    let found = shop.audit().await;
    assert_eq!((found.verdict, found.total.stranded_units), (AuditResult::Fail, 2));
}

#[tokio::test]
async fn sale_after_the_close_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 3).await;
    let open = shop.read().await;
    shop.ports.ledger.set_item(&shop.item, ItemChange::closed(true)).await.unwrap();
    shop.sell(&[1, 1]).await;
    let report = shop.audit().await;
    assert_eq!((report.verdict, report.total.rejected), (AuditResult::Pass, 2));
    assert!(report.to_string().starts_with("ticket_001 (closed): stock 3: free 3,"), "{report}");

    let later = Timestamp(shop.ports.clock.now().0 + 5_000);
    let closed = shop.read().await;
    let by_the_book = Item { closed_at: None, version: closed.version, ..open };
    shop.commit(&by_the_book, vec![shop.order(1, later)], Expect::Anything).await;
    shop.ports.ledger.set_item(&shop.item, ItemChange::closed(true)).await.unwrap();
    let found = shop.audit().await;
    assert_eq!((found.verdict, found.total.sold_when_closed), (AuditResult::Fail, 1));
    shop.ports.ledger.set_item(&shop.item, ItemChange::closed(false)).await.unwrap();
    assert_eq!(shop.audit().await.verdict, AuditResult::Pass, "who bought after the reopening?");
}

#[tokio::test]
async fn inversions_are_counted_without_failing() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 4).await;
    let now = shop.ports.clock.now();
    let at = |ms| Timestamp(now.0 - 1_000 + ms);
    shop.reject(shop.order(2, at(10))).await;
    for (quantity, ms) in [(1, 20), (2, 5), (1, 9)] {
        shop.commit(&shop.read().await, vec![shop.order(quantity, at(ms))], Expect::Anything).await;
    }
    assert_eq!(shop.audit().await.total.inversions, 0, "one unit is less than two");
    shop.ports.ledger.set_stock(&shop.item, 6).await.unwrap();
    assert_eq!(shop.audit().await.total.inversions, 0, "the restock came in between");

    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 7).await;
    shop.reject(shop.order(2, at(10))).await;
    for (quantity, ms) in [(2, 20), (2, 5), (3, 30)] {
        shop.commit(&shop.read().await, vec![shop.order(quantity, at(ms))], Expect::Anything).await;
    }
    let found = shop.audit().await;
    assert_eq!((found.verdict, found.total.inversions), (AuditResult::Pass, 2));
}

#[tokio::test]
async fn every_page_and_item_is_audited() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path(), 1_500).await;
    for _ in 0..5 {
        shop.sell(&[1; 500]).await;
    }
    let other = Shop { item: ItemId::parse("another").unwrap(), ..shop };
    other.ports.ledger.set_stock(&other.item, 1).await.unwrap();
    other.sell(&[1, 1]).await;
    let report = audit(&*other.ports.ledger, None).await.unwrap();
    assert_eq!(report.verdict, AuditResult::Pass);
    let ids: Vec<&str> = report.items.iter().map(|i| i.item_id.as_str()).collect();
    assert_eq!(ids, ["another", "ticket_001"]);
    let totals = (report.total.orders, report.total.sold, report.total.rejected);
    assert_eq!(totals, (2_502, 1_501, 1_001));
    assert_eq!(report.items[1].summary.orders, 2_500);
}
