//! Changes to rows in DynamoDB, one by one, and their detection by the audit.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::setup::TableSetup;
use flux::core::model::{Decided, Item, decide};
use flux::core::ports::ledger::{Commit, Committed, Expect, Ledger};
use flux::load::{AuditReport, AuditResult, audit};

use crate::conformance::aws::stand_ins;
use crate::conformance::{clock, fresh_name, item, key, names, now, order};

struct Tables {
    client: Client,
    orders: String,
    ledger: DynamoLedger,
    /// Of item `single`, the first sold.
    decided: Vec<Decided>,
}

type Row = HashMap<String, AttributeValue>;

impl Tables {
    async fn with_a_sale() -> Tables {
        let aws = stand_ins().await;
        let orders = fresh_name("orders");
        TableSetup::new(&aws, &orders).ensure(None, true, &mut |_, _| {}).await.unwrap();
        let ledger = DynamoLedger::new(&aws, &orders, key(), clock());
        let mut tables = Tables { client: aws.dynamodb(), orders, ledger, decided: Vec::new() };
        tables.ledger.set_stock(&item("single"), 2).await.unwrap();
        tables.ledger.set_stock(&item("single"), 1).await.unwrap();
        tables.decided = tables.sell().await;
        assert_eq!(tables.audit().await.verdict, AuditResult::Pass);
        tables
    }

    async fn sell(&self) -> Vec<Decided> {
        let read: Item = self.ledger.item(&item("single")).await.unwrap().unwrap();
        let names = names();
        let mut orders = vec![order(&names, "single", "ann"), order(&names, "single", "bob")];
        orders.iter_mut().for_each(|order| order.quantity = flux::core::model::Quantity::ONE);
        let batch = decide(Some(&read), orders, now());
        let expect = Expect::Version(read.version);
        let commit = Commit { item: batch.item.unwrap(), expect, decided: batch.decided };
        assert_eq!(self.ledger.commit(&commit).await.unwrap(), Committed::Written);
        commit.decided
    }

    async fn audit(&self) -> AuditReport {
        audit(&self.ledger, None).await.unwrap()
    }

    fn table_of_items(&self) -> String {
        format!("{}_items", self.orders)
    }

    fn first(&self) -> (String, Row) {
        let id = AttributeValue::S(self.decided[0].order.id.to_string());
        (self.orders.clone(), HashMap::from([("order_id".to_owned(), id)]))
    }

    fn single(&self) -> (String, Row) {
        let id = AttributeValue::S("single".to_owned());
        (self.table_of_items(), HashMap::from([("item_id".to_owned(), id)]))
    }

    async fn read(&self, (table, key): (String, Row)) -> Row {
        let get = self.client.get_item().table_name(table).set_key(Some(key));
        get.send().await.unwrap().item.unwrap()
    }

    async fn write(&self, table: &str, row: Row) {
        self.client.put_item().table_name(table).set_item(Some(row)).send().await.unwrap();
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

#[tokio::test]
async fn dynamodb_changed_rows_are_detected() {
    let tables = Tables::with_a_sale().await;
    let orders = tables.first();
    let items = tables.single();
    let changes: [(&(String, Row), &str, Option<AttributeValue>); 16] = [
        (&orders, "user_id", Some(text("eve"))),
        (&orders, "quantity", Some(number(2))),
        (&orders, "quantity", Some(number(200))),
        (&orders, "accepted_at", Some(number(5))),
        (&orders, "decided_at", Some(number(5))),
        (&orders, "expires_at", Some(number(5))),
        (&orders, "status", Some(text("expired"))),
        (&orders, "item_id", Some(text("other"))),
        (&orders, "mac", None),
        (&orders, "mac", Some(text("1:0000000000000000"))),
        (&items, "owner", Some(text("bob"))),
        (&items, "owner", None),
        (&items, "restocked_at", Some(number(5))),
        (&items, "closed_at", Some(number(5))),
        (&items, "version", Some(number(9))),
        (&items, "mac", Some(text("?"))),
    ];
    for (at, name, value) in changes {
        let row = tables.read(at.clone()).await;
        let mut changed = row.clone();
        match value.clone() {
            Some(value) => drop(changed.insert(name.to_owned(), value)),
            None => drop(changed.remove(name)),
        }
        tables.write(&at.0, changed).await;
        let report = tables.audit().await;
        assert_eq!(report.verdict, AuditResult::Fail, "{name} {value:?}: {report}");
        tables.write(&at.0, row).await;
    }
    assert_eq!(tables.audit().await.verdict, AuditResult::Pass);
}

#[tokio::test]
async fn dynamodb_changed_item_stays_detected() {
    let tables = Tables::with_a_sale().await;
    let mut row = tables.read(tables.single()).await;
    row.insert("restocked_at".to_owned(), number(5));
    tables.write(&tables.table_of_items(), row).await;
    for _ in 0..2 {
        tables.sell().await;
        let report = tables.audit().await;
        assert_eq!((report.verdict, report.total.changed_items), (AuditResult::Fail, 1));
    }
}

#[tokio::test]
async fn dynamodb_old_rows_are_counted_apart() {
    let tables = Tables::with_a_sale().await;
    let mut order = tables.read(tables.first()).await;
    order.remove("mac");
    let seal = tables.decided[0].legacy_mac(&key());
    order.insert("seal".to_owned(), text(&format!("{seal:016x}")));
    tables.write(&tables.orders, order.clone()).await;
    let mut single = tables.read(tables.single()).await;
    single.remove("mac");
    tables.write(&tables.table_of_items(), single).await;
    let report = tables.audit().await;
    let apart = (report.total.old_rule_items, report.total.old_rule_orders);
    assert_eq!((report.verdict, apart), (AuditResult::Pass, (1, 1)), "{report}");

    tables.sell().await;
    let report = tables.audit().await;
    let apart = (report.total.old_rule_items, report.total.old_rule_orders);
    assert_eq!((report.verdict, apart), (AuditResult::Pass, (0, 1)), "{report}");

    order.insert("user_id".to_owned(), text("eve"));
    tables.write(&tables.orders, order).await;
    assert_eq!(tables.audit().await.total.changed_decisions, 1);
}
