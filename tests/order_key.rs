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

/// Writes a row as an earlier version did: an item's or an order's.
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

async fn read_or_store(aws: &Aws, table: &str) -> Result<(OrderKey, Origin), LedgerError> {
    OrderKeys::new(aws, table).read_or_store(SystemIdSource.key()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_processes_share_the_stored_key() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let racing = (0..8).map(|_| read_or_store(&aws, &table));
    let first = futures_util::future::join_all(racing).await;
    sell(&aws, &table, true).await;
    let later = [read_or_store(&aws, &table).await];
    let keys: Vec<[u8; 16]> = first
        .into_iter()
        .chain(later)
        .map(|result| match result.unwrap() {
            (key, Origin::Drawn(_)) => key.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(OrderKeys::new(&aws, &table).read().await.unwrap().0, keys[0]);
}

#[tokio::test]
async fn id_of_the_derived_key_is_refused() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let (key, _) = read_or_store(&aws, &table).await.unwrap();
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
        let (key, origin) = read_or_store(&aws, &table).await.unwrap();
        assert!(matches!(origin, Origin::Derived));
        assert_eq!(key.0, OrderKey::from_text(&table).0);
        // The stored origin counts, even after the rows are deleted.
        for (name, key_name) in [(table.clone(), "order_id"), (format!("{table}_items"), "item_id")]
        {
            let rows = aws.dynamodb().scan().table_name(&name).send().await.unwrap();
            for row in rows.items() {
                let delete = aws.dynamodb().delete_item().table_name(&name);
                delete.key(key_name, row[key_name].clone()).send().await.unwrap();
            }
        }
        assert!(matches!(read_or_store(&aws, &table).await.unwrap().1, Origin::Derived));
    }
}

#[tokio::test]
async fn missing_table_means_derived_key_or_error() {
    let aws = stand_ins().await;
    for sold in [false, true] {
        let table = tables(&aws).await;
        if sold {
            sell(&aws, &table, true).await;
        }
        aws.dynamodb().delete_table().table_name(meta_table(&table)).send().await.unwrap();
        let result = read_or_store(&aws, &table).await;
        match (sold, result) {
            (true, Ok((_, Origin::Derived))) => {}
            (false, Err(LedgerError::Broken(why))) => {
                assert!(why.contains(&meta_table(&table)) && why.contains("flux provision"));
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn unreadable_key_is_refused_not_replaced() {
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
        let Err(LedgerError::Broken(why)) = read_or_store(&aws, &table).await else { panic!() };
        assert!(why.contains("cannot be read"), "{why}");
    }
}

#[tokio::test]
async fn key_is_kept_after_a_lost_response() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let lossy = lossy_dynamodb(&table, "PutItem").await;
    let (first, _) = read_or_store(&lossy, &table).await.unwrap();
    let (second, _) = read_or_store(&aws, &table).await.unwrap();
    assert_eq!(first.0, second.0);
}

#[tokio::test]
async fn denied_access_to_the_key_names_the_remedy() {
    let aws = stand_ins().await;
    let table = tables(&aws).await;
    let denied = denied_dynamodb(&table, "GetItem").await;
    let Err(LedgerError::Broken(why)) = read_or_store(&denied, &table).await else { panic!() };
    assert!(why.contains("--print iam") && why.contains("order_key"), "{why}");
}
