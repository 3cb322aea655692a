//! `flux dlq`: what could not be decided is looked at, mended, sent again, dropped.

use std::time::{Duration, Instant};

use flux::config::Settings;
use flux::core::ports::dead_letters::DeadLetter;
use flux::wiring;
use flux::wiring::KeyUse;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{PATIENCE, Workdir, buy, decided};
#[cfg(all(feature = "aws", feature = "redis"))]
use crate::conformance::aws::{send_raw, stand_ins};

/// The letters, once there are so many.
fn letters(workdir: &Workdir, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let printed = workdir.run("dlq list --json");
        let letters: Vec<Value> =
            printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if letters.len() == count {
            return letters;
        }
        assert!(begun.elapsed() < PATIENCE, "not {count} letters: {printed}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn redrive(workdir: &Workdir, order: &str, body: &Value) -> String {
    let mut command = workdir.command(&format!("dlq redrive --id {order}"));
    command.args(["--body", &body.to_string()]);
    workdir.run_command(command)
}

/// Redrives a letter as it is, mended, and mended twice; the order is for the last units there are.
fn is_mended_and_decided_once(workdir: &Workdir, address: &str, order: &str, quantity: u64) {
    let output = workdir.command(&format!("dlq redrive --id {order}")).output().unwrap();
    let still = String::from_utf8(output.stdout).unwrap();
    assert!(still.starts_with(&format!("{order} kept: ")), "{still}");
    assert_eq!(output.status.code(), Some(1), "it was asked for by its id");
    let mended = json!({"user_id": "eve", "item_id": "ticket_001", "quantity": quantity});
    assert_eq!(redrive(workdir, order, &mended), format!("{order} sent again\n1 sent again\n"));
    let first = decided(address, order);
    assert_eq!((&first["status"], &first["user_id"]), (&json!("sold"), &json!("eve")));
    assert_eq!(first["quantity"], quantity);

    let again = redrive(workdir, order, &mended);
    assert_eq!(again, format!("{order} already decided: not sent again\n1 already decided\n"));
    assert_eq!(decided(address, order), first);
    letters(workdir, 0);
    let (_, audit) = audited(workdir);
    assert!(audit.contains("ticket_001: stock 10: free 0, held 0, sold 10;"), "{audit}");
}

/// The audit's exit code, and what it printed.
fn audited(workdir: &Workdir) -> (Option<i32>, String) {
    let output = workdir.command("audit").output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_poisoned_row_of_the_embedded_store() {
    let workdir = Workdir::new();
    workdir.run("provision --item ticket_001 --stock 10");
    let orders = {
        let (_serve, address) = workdir.serve("");
        ["ann", "bob", "cid"].map(|user| buy(&address, user, "ticket_001"))
    };
    let database = Connection::open(workdir.path("flux.db")).unwrap();
    let poison = "UPDATE orders SET quantity = 500 WHERE user <> 'bob'";
    assert_eq!(database.execute(poison, []).unwrap(), 2);
    drop(database);

    let (_serve, address) = workdir.serve("--workers 5");
    assert_eq!(decided(&address, &orders[1])["status"], "sold");
    let found = letters(&workdir, 2);
    assert_eq!(
        (&found[0]["order_id"], &found[1]["order_id"]),
        (&json!(orders[0]), &json!(orders[2]))
    );
    for letter in &found {
        assert!(letter["reason"].as_str().unwrap().contains("quantity must be"), "{letter}");
        assert!(letter["body"].as_str().unwrap().contains("500"), "{letter}");
    }
    let drop = |workdir: &Workdir| workdir.run(&format!("dlq drop --id {}", orders[2]));
    assert_eq!(drop(&workdir), format!("{} dropped\n1 dropped\n", orders[2]));
    let gone = format!("{} not in the dead-letter queue\n1 not there\n", orders[2]);
    assert_eq!(drop(&workdir), gone);
    assert_eq!(decided(&address, &orders[2])["status"], "dropped");
    let (code, audit) = audited(&workdir);
    assert_eq!(code, Some(1), "{audit}");
    assert_eq!(audit.matches("order at place").count(), 2, "quantities of 500 are named: {audit}");
    assert_eq!(letters(&workdir, 1), found[..1]);
    assert_eq!(decided(&address, &orders[0])["status"], "dead_lettered");
    is_mended_and_decided_once(&workdir, &address, &orders[0], 9);
    let (code, audit) = audited(&workdir);
    assert_eq!(code, Some(1), "{audit}");
    assert!(audit.contains("    1 orders changed by something other than flux"), "{audit}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_producer_that_is_no_order() {
    let (workdir, _) = super::story::provisioned(Workdir::on_aws(), "");
    workdir.run("provision --item ticket_001 --stock 10");
    let url = &workdir.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let aws = stand_ins().await;
    send_raw(&aws, url, r#"{"user_id":"ann"}"#).await;
    let (mut serve, address) = workdir.serve("--workers 5");
    let found = letters(&workdir, 1);
    assert_eq!(found[0]["body"], r#"{"user_id":"ann"}"#);
    let order = found[0]["order_id"].as_str().unwrap();
    assert!(serve.log_line("dead letter: ").contains(order));
    assert!(found[0]["at"].as_str().unwrap().ends_with('Z'), "{}", found[0]);
    assert!(found[0]["reason"].as_str().unwrap().contains("item_id"), "{}", found[0]);
    is_mended_and_decided_once(&workdir, &address, order, 10);

    send_raw(&aws, url, "hello?").await;
    assert_eq!(letters(&workdir, 1)[0]["body"], "hello?");
    assert!(workdir.refused("dlq drop --all").contains("--yes"));
    assert!(workdir.run("dlq drop --all --yes").ends_with("1 dropped\n"));
    letters(&workdir, 0);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_order_under_a_decided_id_is_dead_lettered_and_redriven_under_its_own() {
    let (workdir, _) = super::story::provisioned(Workdir::on_aws(), "");
    workdir.run("provision --item ticket_001 --stock 10");
    let url = &workdir.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let (_serve, address) = workdir.serve("--workers 5");
    let id = buy(&address, "ann", "ticket_001");
    assert_eq!(decided(&address, &id)["status"], "sold");

    let order = |user: &str| json!({"user_id": user, "item_id": "ticket_001", "order_id": id});
    let message = json!([order("ann"), order("bob")]).to_string();
    send_raw(&stand_ins().await, url, &message).await;
    let letter = letters(&workdir, 1).remove(0);
    assert!(letter["reason"].as_str().unwrap().contains("another request"), "{letter}");
    assert!(letter["body"].as_str().unwrap().contains("bob"), "{letter}");
    workdir.run("dlq redrive --all");
    let own = letter["order_id"].as_str().unwrap();
    assert_eq!(decided(&address, own)["user_id"], "bob");
    assert_eq!(decided(&address, &id)["user_id"], "ann");
    letters(&workdir, 0);
    assert!(workdir.run("audit").ends_with("oversold 0, stranded 0, undecided 0\n"));
}

const BURIED: usize = 40;

/// Orders for the hall that were taken and ended up in the dead-letter queue of the embedded store.
fn buried_in_the_file(workdir: &Workdir) {
    {
        let (_serve, address) = workdir.serve("");
        (0..BURIED).for_each(|n| drop(buy(&address, &format!("user{n}"), "hall_A")));
    }
    let settings = Settings { data: workdir.path("flux.db"), ..Settings::default() };
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
async fn buried_on_aws(workdir: &Workdir) {
    let url = &workdir.environment.iter().find(|(name, _)| name == "SQS_QUEUE_URL").unwrap().1;
    let aws = stand_ins().await;
    let dead = format!("{url}-dlq");
    for n in 0..BURIED {
        let order = json!({"user_id": format!("user{n}"), "item_id": "hall_A"});
        send_raw(&aws, &dead, &order.to_string()).await;
    }
}

/// A paced redrive is killed in the middle, twice, and repeated: each order is decided once, and
/// none is lost.
fn killed_and_repeated(workdir: &Workdir) {
    workdir.run("provision --item hall_A --stock 25");
    let dry = workdir.run("dlq redrive --all --dry-run");
    assert_eq!(dry.matches(" would be sent again\n").count(), BURIED, "{dry}");
    assert!(dry.ends_with(&format!("{BURIED} sent again (dry run: nothing was done)\n")), "{dry}");
    assert_eq!(workdir.run("dlq redrive --all --reason poison"), "no such letters\n");
    letters(workdir, BURIED);

    let (_serve, address) = workdir.serve("--workers 5");
    for told in [3, 12] {
        let mut redrive = workdir.start("dlq redrive --all --rate 10 --reason often");
        for _ in 0..told {
            assert!(redrive.stdout_line().ends_with(" sent again"));
        }
        redrive.signal("KILL");
        redrive.end();
    }
    let mut sent = 0;
    let begun = Instant::now();
    while !workdir.run("dlq list").is_empty() || sent == 0 {
        assert!(begun.elapsed() < 4 * PATIENCE, "letters are left");
        sent += workdir.run("dlq redrive --all").matches(" sent again").count();
    }
    let all = |audit: &str| audit.contains(&format!("orders {BURIED}: rejected 15"));
    while !all(&workdir.run("audit --allow-empty")) {
        assert!(begun.elapsed() < 5 * PATIENCE, "{}", workdir.run("audit"));
    }
    let audit = workdir.run("audit");
    assert!(
        audit.contains("free 0, held 0, sold 25;") && !audit.contains("undecided 1"),
        "{audit}"
    );
    drop(address);
}

#[test]
fn a_paced_redrive_that_is_killed_is_repeated_on_the_embedded_backend() {
    let workdir = Workdir::new();
    workdir.run("provision");
    buried_in_the_file(&workdir);
    killed_and_repeated(&workdir);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_paced_redrive_that_is_killed_is_repeated_on_aws() {
    let (workdir, _) = super::story::provisioned(Workdir::on_aws(), "");
    buried_on_aws(&workdir).await;
    tokio::task::block_in_place(|| killed_and_repeated(&workdir));
}

#[test]
fn a_paced_redrive_ends_in_order_when_it_is_interrupted() {
    let workdir = Workdir::new();
    workdir.run("provision");
    buried_in_the_file(&workdir);
    let mut redrive = workdir.start("dlq redrive --all --rate 1 --json");
    let line: Value = serde_json::from_str(&redrive.stdout_line()).unwrap();
    assert_eq!(line["became"], "sent_again");
    redrive.signal("INT");
    redrive.log_line("run the same command again to continue");
    assert_eq!(redrive.end().0.code(), Some(0));
    let left = workdir.run("dlq list").lines().count();
    assert!((1..BURIED).contains(&left), "{left}");
    assert!(workdir.run("dlq redrive --all").ends_with(&format!("{left} sent again\n")));
}
