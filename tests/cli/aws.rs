//! The real binary and its surroundings on AWS: the order key, credentials, proxies, regions.

use flux::core::connection::aws::Aws;
use flux::core::ledger::Ledger;
use flux::core::ledger::dynamodb::DynamoLedger;
use flux::core::ledger::dynamodb::order_key::{OrderKeys, meta_table};
use flux::core::order::{OrderId, OrderKey, OrderNames};

use super::story::provisioned;
use super::{Desk, buy};
use crate::conformance::aws::stand_ins;
use crate::conformance::item;

/// Does something to the stand-ins, for a test that waits for processes.
fn on_stand_ins<T>(act: impl AsyncFnOnce(Aws) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { act(stand_ins().await).await })
}

fn table(desk: &Desk) -> String {
    let last = desk.environment.iter().rfind(|(name, _)| name == "DYNAMODB_TABLE");
    last.unwrap().1.clone()
}

#[test]
fn ids_are_named_by_the_stored_key_and_not_by_the_tables_name() {
    let (desk, _) = provisioned(Desk::on_aws(), "");
    let table = table(&desk);
    let stored = on_stand_ins(async |aws| OrderKeys::new(&aws, &table).read().await.unwrap());
    let (_serve, address) = desk.serve("");
    let id = OrderId::parse(&buy(&address, "ann", "ticket")).unwrap();
    assert!(OrderNames::new(stored, 1).verify(id));
    assert!(!OrderNames::new(OrderKey::from_text(&table), 1).verify(id));
}

#[test]
fn a_key_made_from_the_tables_name_is_warned_of_at_each_start() {
    let (desk, _) = provisioned(Desk::on_aws(), "");
    let table = table(&desk);
    on_stand_ins(async |aws| {
        aws.dynamodb().delete_table().table_name(meta_table(&table)).send().await.unwrap();
        let ledger = DynamoLedger::new(&aws, &table, OrderKey::from_text(&table));
        ledger.set_stock(&item("ticket"), 1).await.unwrap();
    });
    let warned = |desk: &Desk| {
        let (serve, address) = desk.serve("");
        assert!(serve.logged.iter().any(|line| line.contains("made from its name")));
        let id = OrderId::parse(&buy(&address, "ann", "ticket")).unwrap();
        assert!(OrderNames::new(OrderKey::from_text(&table), 1).verify(id));
    };
    warned(&desk);
    let printed = desk.run("provision --backend aws");
    assert!(printed.contains("made from its name"), "{printed}");
    warned(&desk);
    let (quiet, _) = desk.with("FLUX_ORDER_KEY", "a key of the whole fleet").serve("");
    assert!(!quiet.logged.iter().any(|line| line.contains("made from its name")));
}
