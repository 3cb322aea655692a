//! The order key on AWS: stored once for all processes, random unless an earlier version has sold.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use flux::adapters::aws::client::Aws;
use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::order_key::{OrderKeys, Origin, meta_table};
use flux::adapters::aws::dynamodb::setup::TableSetup;
use flux::core::engine::message;
use flux::core::model::{Decided, Decision, OrderIds, OrderKey, Reason, SystemIdSource, Timestamp};
use flux::core::ports::ledger::{Ledger, LedgerError};

use crate::conformance::aws::stand_ins;
use crate::conformance::{clock, fresh_name, item, names, now, order};
use crate::faults::{denied_dynamodb, lossy_dynamodb};

async fn tables(aws: &Aws) -> String {
    let table = fresh_name("keys");
    TableSetup::new(aws, &table).ensure(None, true, &mut |_, _| {}).await.unwrap();
    table
}

/// What an earlier version left: an order's row, or an item's.
async fn sell(aws: &Aws, table: &str, an_item: bool) {
    let ledger = DynamoLedger::new(aws, table, OrderKey::from_text(table), clock());
    if an_item {
        ledger.set_stock(&item("x"), 1).await.unwrap();
        return;
    }
    let decision = Decision::Rejected(Reason::UnknownItem);
    let decided = Decided { order: order(&names(), "x", "ann"), decision, decided_at: now() };
    ledger.record(&[decided]).await.unwrap();
}

async fn settled(aws: &Aws, table: &str) -> Result<(OrderKey, Origin), LedgerError> {
    OrderKeys::new(aws, table).read_or_store(SystemIdSource.key()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_processes_share_the_stored_key() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let settling = (0..8).map(|_| settled(&aws, &table));
    let first = futures_util::future::join_all(settling).await;
    sell(&aws, &table, true).await;
    let later = [settled(&aws, &table).await];
    let keys: Vec<[u8; 16]> = first
        .into_iter()
        .chain(later)
        .map(|settled| match settled.unwrap() {
            (key, Origin::Drawn(_)) => key.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(OrderKeys::new(&aws, &table).read().await.unwrap().0, keys[0]);
}

#[tokio::test]
async fn an_id_named_by_the_tables_name_is_no_order() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let (key, _) = settled(&aws, &table).await.unwrap();
    let forger = OrderIds::new(OrderKey::from_text(&table), 1);
    let body = message::encode(&[order(&forger, "x", "ann")]);
    let origin = message::Origin { message_id: "m", sent_at: Timestamp(1) };
    let (orders, letters) = message::decode(&body, origin, &OrderIds::new(key, 2));
    assert_eq!((orders.len(), letters.len()), (0, 1));
}

#[tokio::test]
async fn tables_with_rows_keep_the_derived_key_for_good() {
    let aws = stand_ins().await;
    for an_item in [false, true] {
        let table = tables(&aws).await;
        sell(&aws, &table, an_item).await;
        let (key, origin) = settled(&aws, &table).await.unwrap();
        assert!(matches!(origin, Origin::Derived));
        assert_eq!(key.0, OrderKey::from_text(&table).0);
        // The mark counts, whatever becomes of the rows.
        for (name, key_name) in [(table.clone(), "order_id"), (format!("{table}_items"), "item_id")]
        {
            let rows = aws.dynamodb().scan().table_name(&name).send().await.unwrap();
            for row in rows.items() {
                let delete = aws.dynamodb().delete_item().table_name(&name);
                delete.key(key_name, row[key_name].clone()).send().await.unwrap();
            }
        }
        assert!(matches!(settled(&aws, &table).await.unwrap().1, Origin::Derived));
    }
}

#[tokio::test]
async fn without_its_table_the_key_is_the_derived_one_where_there_are_rows_and_else_an_error() {
    let aws = stand_ins().await;
    for sold in [false, true] {
        let table = tables(&aws).await;
        if sold {
            sell(&aws, &table, true).await;
        }
        aws.dynamodb().delete_table().table_name(meta_table(&table)).send().await.unwrap();
        let settled = settled(&aws, &table).await;
        match (sold, settled) {
            (true, Ok((_, Origin::Derived))) => {}
            (false, Err(LedgerError::Broken(said))) => {
                assert!(said.contains(&meta_table(&table)) && said.contains("flux provision"));
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stored_key_that_cannot_be_read_is_refused_not_replaced() {
    let aws = stand_ins().await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for (origin, key) in [("drawn", "17"), ("drawn", ""), ("made elsewhere", &"0".repeat(32))] {
        let table = tables(&aws).await;
        let row = HashMap::from(
            [("name", "order_key"), ("origin", origin), ("key", key)]
                .map(|(name, value)| (name.to_owned(), text(value))),
        );
        let put = aws.dynamodb().put_item().table_name(meta_table(&table));
        put.set_item(Some(row)).send().await.unwrap();
        let Err(LedgerError::Broken(said)) = settled(&aws, &table).await else { panic!() };
        assert!(said.contains("cannot be read"), "{said}");
    }
}

#[tokio::test]
async fn a_key_whose_write_was_not_answered_is_the_key() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let lossy = lossy_dynamodb(&table, "PutItem").await;
    let (first, _) = settled(&lossy, &table).await.unwrap();
    let (second, _) = settled(&aws, &table).await.unwrap();
    assert_eq!(first.0, second.0);
}

#[tokio::test]
async fn who_may_not_read_the_key_is_told_what_to_do() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let denied = denied_dynamodb(&table, "GetItem").await;
    let Err(LedgerError::Broken(said)) = settled(&denied, &table).await else { panic!() };
    assert!(said.contains("--print iam") && said.contains("order_key"), "{said}");
}
