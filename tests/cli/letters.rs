//! `flux dlq`: what could not be decided is looked at, mended, sent again, dropped.

use std::time::{Duration, Instant};

use flux::config::Settings;
use flux::core::ports::dead_letters::DeadLetter;
use flux::wiring;
use flux::wiring::KeyUse;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Desk, PATIENCE, buy, decided};
#[cfg(all(feature = "aws", feature = "redis"))]
use crate::conformance::aws::{send_raw, stand_ins};

/// The letters, once there are so many.
fn letters(desk: &Desk, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let printed = desk.run("dlq list --json");
        let letters: Vec<Value> =
            printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if letters.len() == count {
            return letters;
        }
        assert!(begun.elapsed() < PATIENCE, "not {count} letters: {printed}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn redrive(desk: &Desk, order: &str, body: &Value) -> String {
    let mut command = desk.command(&format!("dlq redrive --id {order}"));
    command.args(["--body", &body.to_string()]);
    desk.run_command(command)
}

/// Redrives a letter as it is, mended, and mended twice; the order is for the last units there are.
fn is_mended_and_decided_once(desk: &Desk, address: &str, order: &str, quantity: u64) {
    let output = desk.command(&format!("dlq redrive --id {order}")).output().unwrap();
    let still = String::from_utf8(output.stdout).unwrap();
    assert!(still.starts_with(&format!("{order} kept: ")), "{still}");
    assert_eq!(output.status.code(), Some(1), "it was asked for by its id");
    let mended = json!({"user_id": "eve", "item_id": "ticket_001", "quantity": quantity});
    assert_eq!(redrive(desk, order, &mended), format!("{order} sent again\n1 sent again\n"));
    let first = decided(address, order);
    assert_eq!((&first["status"], &first["user_id"]), (&json!("sold"), &json!("eve")));
    assert_eq!(first["quantity"], quantity);

    let again = redrive(desk, order, &mended);
    assert_eq!(again, format!("{order} already decided: not sent again\n1 already decided\n"));
    assert_eq!(decided(address, order), first);
    letters(desk, 0);
    let (_, audit) = audited(desk);
    assert!(audit.contains("ticket_001: stock 10: free 0, held 0, sold 10;"), "{audit}");
}

/// The audit's exit code, and what it printed.
fn audited(desk: &Desk) -> (Option<i32>, String) {
    let output = desk.command("audit").output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
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
    let drop = |desk: &Desk| desk.run(&format!("dlq drop --id {}", orders[2]));
    assert_eq!(drop(&desk), format!("{} dropped\n1 dropped\n", orders[2]));
    let gone = format!("{} not in the dead-letter queue\n1 not there\n", orders[2]);
    assert_eq!(drop(&desk), gone);
    assert_eq!(decided(&address, &orders[2])["status"], "dropped");
    let (code, audit) = audited(&desk);
    assert_eq!(code, Some(1), "{audit}");
    assert_eq!(audit.matches("order at place").count(), 2, "quantities of 500 are named: {audit}");
    assert_eq!(letters(&desk, 1), found[..1]);
    assert_eq!(decided(&address, &orders[0])["status"], "dead_lettered");
    is_mended_and_decided_once(&desk, &address, &orders[0], 9);
    let (code, audit) = audited(&desk);
    assert_eq!(code, Some(1), "{audit}");
    assert!(audit.contains("    1 orders changed by something other than flux"), "{audit}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_producer_that_is_no_order() {
    let (desk, _) = super::story::provisioned(Desk::on_aws(), "");
    desk.run("provision --item ticket_001 --stock 10");
    let url = &desk.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let aws = stand_ins().await;
    send_raw(&aws, url, r#"{"user_id":"ann"}"#).await;
    let (mut serve, address) = desk.serve("--workers 5");
    let found = letters(&desk, 1);
    assert_eq!(found[0]["body"], r#"{"user_id":"ann"}"#);
    let order = found[0]["order_id"].as_str().unwrap();
    assert!(serve.log_line("dead letter: ").contains(order));
    assert!(found[0]["at"].as_str().unwrap().ends_with('Z'), "{}", found[0]);
    assert!(found[0]["reason"].as_str().unwrap().contains("item_id"), "{}", found[0]);
    is_mended_and_decided_once(&desk, &address, order, 10);

    send_raw(&aws, url, "hello?").await;
    assert_eq!(letters(&desk, 1)[0]["body"], "hello?");
    assert!(desk.refused("dlq drop --all").contains("--yes"));
    assert!(desk.run("dlq drop --all --yes").ends_with("1 dropped\n"));
    letters(&desk, 0);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_order_under_a_decided_id_is_dead_lettered_and_redriven_under_its_own() {
    let (desk, _) = super::story::provisioned(Desk::on_aws(), "");
    desk.run("provision --item ticket_001 --stock 10");
    let url = &desk.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let (_serve, address) = desk.serve("--workers 5");
    let id = buy(&address, "ann", "ticket_001");
    assert_eq!(decided(&address, &id)["status"], "sold");

    let order = |user: &str| json!({"user_id": user, "item_id": "ticket_001", "order_id": id});
    let message = json!([order("ann"), order("bob")]).to_string();
    send_raw(&stand_ins().await, url, &message).await;
    let letter = letters(&desk, 1).remove(0);
    assert!(letter["reason"].as_str().unwrap().contains("another request"), "{letter}");
    assert!(letter["body"].as_str().unwrap().contains("bob"), "{letter}");
    desk.run("dlq redrive --all");
    let own = letter["order_id"].as_str().unwrap();
    assert_eq!(decided(&address, own)["user_id"], "bob");
    assert_eq!(decided(&address, &id)["user_id"], "ann");
    letters(&desk, 0);
    assert!(desk.run("audit").ends_with("oversold 0, stranded 0, undecided 0\n"));
}

const BURIED: usize = 40;

/// Orders for the hall that were taken and ended up in the dead-letter queue of the embedded store.
fn buried_in_the_file(desk: &Desk) {
    {
        let (_serve, address) = desk.serve("");
        (0..BURIED).for_each(|n| drop(buy(&address, &format!("user{n}"), "hall_A")));
    }
    let settings = Settings { data: desk.path("flux.db"), ..Settings::default() };
    let bury = async {
        let queue = wiring::open(&settings, KeyUse::Read).await.unwrap().queue;
        let mut buried = 0;
        while buried < BURIED {
            let came = queue.receive(BURIED, Duration::ZERO).await.unwrap();
            for (_, order) in came.iter().flat_map(|delivery| &delivery.orders) {
                let letter = DeadLetter {
                    order_id: order.id,
                    reason: "received too often".to_owned(),
                    body: json!({"user_id": order.user, "item_id": order.item}).to_string(),
                    at: order.accepted_at,
                };
                queue.dead_letter(&[letter]).await.unwrap();
                buried += 1;
            }
        }
        queue.release(&[]).await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(bury);
}

#[cfg(all(feature = "aws", feature = "redis"))]
async fn buried_on_aws(desk: &Desk) {
    let url = &desk.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let (aws, dead) = (stand_ins().await, format!("{url}-dlq"));
    for n in 0..BURIED {
        let order = json!({"user_id": format!("user{n}"), "item_id": "hall_A"});
        send_raw(&aws, &dead, &order.to_string()).await;
    }
}

/// A paced redrive is killed in the middle, twice, and repeated: each order is decided once, and
/// none is lost.
fn killed_and_repeated(desk: &Desk) {
    desk.run("provision --item hall_A --stock 25");
    let dry = desk.run("dlq redrive --all --dry-run");
    assert_eq!(dry.matches(" would be sent again\n").count(), BURIED, "{dry}");
    assert!(dry.ends_with(&format!("{BURIED} sent again (dry run: nothing was done)\n")), "{dry}");
    assert_eq!(desk.run("dlq redrive --all --reason poison"), "no such letters\n");
    letters(desk, BURIED);

    let (_serve, address) = desk.serve("--workers 5");
    for told in [3, 12] {
        let mut redrive = desk.start("dlq redrive --all --rate 10 --reason often");
        for _ in 0..told {
            assert!(redrive.told().ends_with(" sent again"));
        }
        redrive.signal("KILL");
        redrive.end();
    }
    let mut sent = 0;
    let begun = Instant::now();
    while !desk.run("dlq list").is_empty() || sent == 0 {
        assert!(begun.elapsed() < 4 * PATIENCE, "letters are left");
        sent += desk.run("dlq redrive --all").matches(" sent again").count();
    }
    let all = |audit: &str| audit.contains(&format!("orders {BURIED}: rejected 15"));
    while !all(&desk.run("audit --allow-empty")) {
        assert!(begun.elapsed() < 5 * PATIENCE, "{}", desk.run("audit"));
    }
    let audit = desk.run("audit");
    assert!(
        audit.contains("free 0, held 0, sold 25;") && !audit.contains("undecided 1"),
        "{audit}"
    );
    drop(address);
}

#[test]
fn a_paced_redrive_that_is_killed_is_repeated_on_the_embedded_backend() {
    let desk = Desk::new();
    desk.run("provision");
    buried_in_the_file(&desk);
    killed_and_repeated(&desk);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_paced_redrive_that_is_killed_is_repeated_on_aws() {
    let (desk, _) = super::story::provisioned(Desk::on_aws(), "");
    buried_on_aws(&desk).await;
    tokio::task::block_in_place(|| killed_and_repeated(&desk));
}

#[test]
fn a_paced_redrive_ends_in_order_when_it_is_interrupted() {
    let desk = Desk::new();
    desk.run("provision");
    buried_in_the_file(&desk);
    let mut redrive = desk.start("dlq redrive --all --rate 1 --json");
    let line: Value = serde_json::from_str(&redrive.told()).unwrap();
    assert_eq!(line["became"], "sent_again");
    redrive.signal("INT");
    redrive.log_line("run the same command again to continue");
    assert_eq!(redrive.end().0.code(), Some(0));
    let left = desk.run("dlq list").lines().count();
    assert!((1..BURIED).contains(&left), "{left}");
    assert!(desk.run("dlq redrive --all").ends_with(&format!("{left} sent again\n")));
}
