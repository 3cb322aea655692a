//! Stores that were changed by something other than flux: the audit detects the change, also after
//! further sales.

#[cfg(all(feature = "aws", feature = "redis"))]
mod aws;
mod changes;
mod shop;

use std::path::{Path, PathBuf};

use flux::core::model::Timestamp;
use flux::load::{AuditReport, AuditResult};
use flux::wiring;
use futures_util::stream::{self, StreamExt};

use changes::{CHANGES, NOT_FOUND};
use shop::Shop;

/// The store of a finished sale, the same store during the sale, and the store of another sale.
struct Stores {
    directory: tempfile::TempDir,
}

impl Stores {
    async fn new() -> Stores {
        let directory = tempfile::tempdir().unwrap();
        let stores = Stores { directory };
        for (name, before) in [("now", Some("before")), ("other", None)] {
            let shop = Shop::open(stores.path(&format!("{name}-live"))).await;
            shop.begin().await;
            shop.list("empty", 3).await;
            let waits = shop.order("kim", "line", 1);
            shop.queue(std::slice::from_ref(&waits)).await;
            if let Some(before) = before {
                shop.copy_to(&stores.path(before));
            }
            shop.end(waits).await;
            let report = shop.audit().await.unwrap();
            assert_eq!(report.verdict, AuditResult::Pass, "{report}");
            assert_eq!(report.total.undecided, 2);
            assert!(!report.to_string().contains("old rule"), "{report}");
            shop.copy_to(&stores.path(name));
        }
        stores
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.db"))
    }

    /// A copy of the store with the changes of `sql`.
    fn changed(&self, n: usize, sql: &str) -> PathBuf {
        let copy = self.path(&format!("copy-{n}"));
        std::fs::copy(self.path("now"), &copy).unwrap();
        let file = rusqlite::Connection::open(&copy).unwrap();
        for name in ["before", "other"] {
            let path = self.path(name);
            file.execute(&format!("ATTACH ? AS {name}"), [path.to_str().unwrap()]).unwrap();
        }
        let changes = file.total_changes();
        file.execute_batch(sql).unwrap();
        let schema = ["CREATE", "DROP", "ALTER"].iter().any(|word| sql.contains(word));
        assert!(schema || file.total_changes() > changes, "{sql}");
        copy
    }
}

async fn audit(file: &Path) -> Result<AuditReport, String> {
    let shop = Shop::try_open(file.to_owned()).await.map_err(|e| e.to_string())?;
    shop.audit().await.map_err(|e| e.to_string())
}

/// Sells more units, as far as the store allows.
async fn sell_on(file: &Path) {
    let Ok(shop) = Shop::try_open(file.to_owned()).await else { return };
    for item in ["single", "other", "part", "out", "shut", "line", "new"] {
        let _refused = shop.sell(item, &[("zoe", 1)]).await;
        let _refused = shop.sell(item, &[("zac", 1)]).await;
    }
    let waiting = shop.ports.queue.receive(100, std::time::Duration::ZERO).await;
    for delivery in waiting.into_iter().flatten() {
        for (_, order) in delivery.orders {
            let item = order.item.to_string();
            let _refused = shop.decide(&item, vec![order]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_changes_stay_detected() {
    let stores = Stores::new().await;
    let found = |(n, (name, sql)): (usize, &'static (&str, &str))| {
        let file = stores.changed(n, sql);
        async move {
            let passes = async || audit(&file).await.is_ok_and(|r| r.verdict == AuditResult::Pass);
            if passes().await {
                return Some(format!("{name} is not found"));
            }
            sell_on(&file).await;
            let passed = passes().await.then(|| format!("{name} is not found after selling on"));
            std::fs::remove_file(&file).unwrap();
            passed
        }
    };
    let passed = stream::iter(CHANGES.iter().enumerate()).map(found).buffer_unordered(4);
    let passed: Vec<String> = passed.filter_map(|passed| async { passed }).collect().await;
    assert!(passed.is_empty(), "{passed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harmless_changes_pass() {
    let stores = Stores::new().await;
    for (n, (name, sql)) in NOT_FOUND.iter().enumerate() {
        let report = audit(&stores.changed(n, sql)).await.unwrap();
        assert_eq!(report.verdict, AuditResult::Pass, "{name}: {report}");
    }
}

#[tokio::test]
async fn old_store_is_upgraded_and_sells_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flux.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("schema_6.sql")).unwrap();
    drop(old);

    let shop = Shop::open(path).await;
    let report = shop.audit().await.unwrap();
    assert_eq!(report.verdict, AuditResult::Pass, "{report}");
    let by_old_rule = |report: &AuditReport| {
        let total = &report.total;
        (total.old_rule_items, total.old_rule_orders, report.old_rule_letters)
    };
    assert_eq!(by_old_rule(&report), (4, 11, 1));
    let line = "checked by the old rule: 16 (items 4, orders 11, dead letters 1)";
    assert!(report.to_string().contains(line), "{report}");

    let waits = shop.ports.queue.receive(10, std::time::Duration::ZERO).await.unwrap();
    let order = waits[0].orders[0].1.clone();
    assert_eq!(order.user.as_str(), "fay");
    let decided_at = Timestamp(order.accepted_at.0 + 1_000);
    let item = shop.ports.ledger.item(&order.item).await.unwrap().unwrap();
    let batch = flux::core::model::decide(Some(&item), vec![order], decided_at);
    let commit = flux::core::ports::ledger::Commit {
        expect: flux::core::ports::ledger::Expect::Version(item.version),
        item: batch.item.unwrap(),
        decided: batch.decided,
    };
    shop.ports.ledger.commit(&commit).await.unwrap();
    shop.sell("hall", &[("zoe", 1)]).await.unwrap();
    let report = shop.audit().await.unwrap();
    assert_eq!(report.verdict, AuditResult::Pass, "{report}");
    assert_eq!(by_old_rule(&report), (2, 10, 1));

    // Rows with a MAC cannot be returned to the old rule. Changes to old rows are detected by their
    // seal or by the counts.
    let change = |sql: &str| {
        rusqlite::Connection::open(&shop.file).unwrap().execute_batch(sql).unwrap();
    };
    let undo = directory.path().join("undo.db");
    shop.copy_to(&undo);
    for sql in [
        "UPDATE orders SET user = 'eve' WHERE user = 'ann'",
        "UPDATE orders SET state = 10, seal = zeroblob(8) WHERE user = 'dan'",
        "DELETE FROM orders WHERE user = 'gus'",
        "UPDATE items SET mac = NULL, mac_from = 9999 WHERE id = 'hall'",
        "UPDATE items SET mac = NULL, owner = 'bob' WHERE id = 'hall'",
        "UPDATE dead_letters SET mac = zeroblob(8)",
        "UPDATE items SET owner = 'bob' WHERE id = 'single'",
        "UPDATE counts SET old_items = 4, mac = NULL",
    ] {
        change(sql);
        let report = shop.audit().await.unwrap();
        assert_eq!(report.verdict, AuditResult::Fail, "{sql}: {report}");
        restore(&shop.file, &undo);
        let report = shop.audit().await.unwrap();
        assert_eq!(report.verdict, AuditResult::Pass, "after {sql} was undone: {report}");
    }
}

/// A second decision of the same orders makes the sums impossible. The audit must still report.
#[tokio::test]
async fn reverted_decisions_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flux.db");
    let shop = Shop::open(path.clone()).await;
    shop.list("hall", 1).await;
    shop.sell("hall", &[("ann", 1), ("bob", 1)]).await.unwrap();
    drop(shop);
    let file = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(file.execute("UPDATE orders SET state = 10, decided_at = 0", []).unwrap(), 2);
    drop(file);

    sell_on(&path).await;
    let shop = Shop::open(path).await;
    shop.ports.queue.check().await.unwrap();
    assert_eq!(shop.audit().await.unwrap().verdict, AuditResult::Fail);
}

fn restore(file: &Path, from: &Path) {
    let file = rusqlite::Connection::open(file).unwrap();
    file.execute("ATTACH ? AS undo", [from.to_str().unwrap()]).unwrap();
    for table in ["orders", "items", "counts", "dead_letters", "decisions"] {
        let copy = format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM undo.{table};"
        );
        file.execute_batch(&copy).unwrap();
    }
}

#[tokio::test]
async fn old_process_cannot_write_to_upgraded_file() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(directory.path().join("flux.db")).await;
    shop.list("x", 3).await;
    let old = rusqlite::Connection::open(&shop.file).unwrap();
    for statement in [
        "UPDATE totals SET accepted = accepted + 1",
        "UPDATE totals SET decided = decided + 1",
        "UPDATE totals SET dead = dead + 1",
        "UPDATE counts SET decided = decided, dead = dead - 1",
    ] {
        let said = old.execute(statement, []).unwrap_err().to_string();
        let refused = ["no such table: totals", "no such column: dead"];
        assert!(refused.iter().any(|why| said.contains(why)), "{said}");
    }
}

#[tokio::test]
async fn foreign_trigger_prevents_serving() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flux.db");
    let settings =
        flux::config::Settings { data: file.clone(), ..flux::config::Settings::default() };
    drop(wiring::start(&settings).await.unwrap());
    let other = rusqlite::Connection::open(&file).unwrap();
    other
        .execute_batch("CREATE TRIGGER \"a gift\" AFTER INSERT ON orders BEGIN SELECT 1; END")
        .unwrap();
    let said = wiring::start(&settings).await.unwrap_err();
    assert!(said.is::<wiring::UsageError>());
    let line = "the trigger a gift was not created by flux: remove it with DROP TRIGGER \"a gift\"";
    assert!(said.to_string().ends_with(line), "{said}");
    other.execute_batch("DROP TRIGGER \"a gift\"").unwrap();
    wiring::start(&settings).await.unwrap();
}
