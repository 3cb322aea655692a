//! `flux dlq`: what could not be decided is looked at, mended, sent again, dropped.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Desk, PATIENCE, buy, decided};
use crate::conformance::aws::{send_raw, stand_ins};

/// The letters, once there are so many.
fn letters(desk: &Desk, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let printed = desk.run("dlq list");
        let letters: Vec<Value> =
            printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if letters.len() == count {
            return letters;
        }
        assert!(begun.elapsed() < PATIENCE, "not {count} letters: {printed}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn redrive(desk: &Desk, order: &str, body: Option<Value>) -> String {
    let mut command = desk.command(&format!("dlq redrive --id {order}"));
    if let Some(body) = body {
        command.args(["--body", &body.to_string()]);
    }
    desk.run_command(command)
}

/// Redrives a letter as it is, mended, and mended twice; the order is for the last units there are.
fn is_mended_and_decided_once(desk: &Desk, address: &str, order: &str, quantity: u64) {
    let still = redrive(desk, order, None);
    assert!(still.starts_with(&format!("{order} kept: ")), "{still}");
    let mended = json!({"user_id": "eve", "item_id": "ticket_001", "quantity": quantity});
    assert_eq!(redrive(desk, order, Some(mended.clone())), format!("{order} sent again\n"));
    let first = decided(address, order);
    assert_eq!((&first["status"], &first["user_id"]), (&json!("sold"), &json!("eve")));
    assert_eq!(first["quantity"], quantity);

    let again = redrive(desk, order, Some(mended));
    assert_eq!(again, format!("{order} already decided: not sent again\n"));
    assert_eq!(decided(address, order), first);
    letters(desk, 0);
    let audit = desk.run("audit");
    assert!(audit.contains("ticket_001: stock 10: free 0, held 0, sold 10;"), "{audit}");
}

#[test]
fn a_poisoned_row_of_the_embedded_store() {
    let desk = Desk::new();
    desk.run("provision --item ticket_001 --stock 10");
    let orders = {
        let (_serve, address) = desk.serve("");
        ["ann", "bob", "cid"].map(|user| buy(&address, user, "ticket_001"))
    };
    let database = Connection::open(desk.path("flux.db")).unwrap();
    let poison = "UPDATE orders SET quantity = 500 WHERE user <> 'bob'";
    assert_eq!(database.execute(poison, []).unwrap(), 2);
    drop(database);

    let (_serve, address) = desk.serve("--workers 5");
    assert_eq!(decided(&address, &orders[1])["status"], "sold");
    let found = letters(&desk, 2);
    assert_eq!(
        (&found[0]["order_id"], &found[1]["order_id"]),
        (&json!(orders[0]), &json!(orders[2]))
    );
    for letter in &found {
        assert!(letter["reason"].as_str().unwrap().contains("quantity must be"), "{letter}");
        assert!(letter["body"].as_str().unwrap().contains("500"), "{letter}");
    }
    assert_eq!(desk.run(&format!("dlq drop --id {}", orders[2])), "1 dropped\n");
    assert_eq!(desk.run(&format!("dlq drop --id {}", orders[2])), "0 dropped\n");
    desk.run("audit");
    assert_eq!(letters(&desk, 1), found[..1]);
    assert_eq!(decided(&address, &orders[0])["status"], "dead_lettered");
    is_mended_and_decided_once(&desk, &address, &orders[0], 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_producer_that_is_no_order() {
    let (desk, _) = super::story::provisioned(Desk::on_aws(), "");
    desk.run("provision --item ticket_001 --stock 10");
    let url = &desk.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let aws = stand_ins().await;
    send_raw(&aws, url, r#"{"user_id":"ann"}"#).await;
    let (_serve, address) = desk.serve("--workers 5");
    let found = letters(&desk, 1);
    assert_eq!(found[0]["body"], r#"{"user_id":"ann"}"#);
    let order = found[0]["order_id"].as_str().unwrap();
    assert!(found[0]["reason"].as_str().unwrap().contains("item_id"), "{}", found[0]);
    is_mended_and_decided_once(&desk, &address, order, 10);

    send_raw(&aws, url, "hello?").await;
    assert_eq!(letters(&desk, 1)[0]["body"], "hello?");
    assert_eq!(desk.run("dlq drop --all"), "1 dropped\n");
    letters(&desk, 0);
}
