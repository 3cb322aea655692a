//! `flux items`: closes and reopens a running sale, removes items.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Desk, PATIENCE, Process, buy, decided, http};

fn listed(desk: &Desk) -> Vec<Value> {
    let printed = desk.run("items list --json");
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn wait_for_story(work: &Process, line: &str) {
    while work.told() != line {}
}

#[test]
fn items_close_and_open_change_the_sale() {
    let desk = Desk::new();
    desk.run("provision --item hall_A --stock 3");
    let (_serve, address) = desk.serve("");
    let mut work = desk.start("work");
    work.log_line("working on 50 items at once");
    assert_eq!(desk.run("items list"), "hall_A: open; stock 3: free 3, held 0, sold 0\n");
    assert_eq!(decided(&address, &buy(&address, "ann", "hall_A"))["status"], "sold");
    let closed = "item hall_A is closed; stock 3: free 2, sold 1\n";
    assert_eq!(desk.run("items close hall_A"), closed);
    assert_eq!(desk.run("items close hall_A"), closed.replace("closed", "closed already"));
    let no = decided(&address, &buy(&address, "bob", "hall_A"));
    assert_eq!((&no["status"], &no["reason"]), (&json!("rejected"), &json!("closed")));
    wait_for_story(&work, "REJECTED: bob wants hall_A, but its sale is closed");
    assert!(desk.run("audit").starts_with("hall_A (closed): stock 3: free 2,"));
    desk.run("items restock hall_A --stock 5");
    let again = "item hall_A is open; stock 5: free 4, sold 1\n";
    assert_eq!(desk.run("items open hall_A"), again);
    assert_eq!(decided(&address, &buy(&address, "bob", "hall_A"))["status"], "sold");

    let line = desk.refused("items close hall_A hall_B");
    assert!(line.contains("no item hall_B") && line.contains("provision"), "{line}");
    assert_eq!(listed(&desk)[0]["status"], "closed");
    let line = desk.refused("items restock hall_A --stock 1");
    assert!(line.contains("2 units of hall_A are sold or held"), "{line}");
    assert!(desk.refused("items close").contains("<ID>"));
}

#[test]
fn items_remove_needs_an_item_without_orders() {
    let desk = Desk::new();
    desk.run("provision --item typo --stock 3");
    desk.run("provision --item hall_A --stock 3");
    let (_serve, address) = desk.serve("");
    let order = buy(&address, "ann", "hall_A");
    assert!(desk.refused("items remove hall_A").contains("hall_A has orders"));
    assert_eq!(desk.run("items remove typo"), "item typo is removed\n");
    assert_eq!(desk.run("items remove typo"), "item typo is removed already\n");
    assert_eq!(desk.run("items list"), "hall_A: open; stock 3: free 3, held 0, sold 0\n");
    assert!(desk.refused("items open typo").contains("no item typo"));
    let (status, _) = http(&address, "POST /buy", r#"{"user_id":"bob","item_id":"typo"}"#);
    assert_eq!(status, 404);
    let restock = desk.command("items restock typo --stock 2").output().unwrap();
    let listed = "item typo is open, newly listed; stock 2: free 2, sold 0\n";
    assert_eq!(String::from_utf8(restock.stdout).unwrap(), listed);
    assert!(String::from_utf8(restock.stderr).unwrap().contains("flux items remove typo"));

    // A queued order counts as an order of the item, so the item was not removed.
    let _work = desk.start("work");
    assert_eq!(decided(&address, &order)["status"], "sold");
    assert_eq!(decided(&address, &buy(&address, "eve", "invented"))["status"], "sold");
    let list = desk.run("items list");
    assert!(
        list.ends_with(
            "invented: sold_out; stock 1: free 0, held 0, sold 1; not listed by anybody\n"
        ),
        "{list}"
    );
    desk.run("audit");
}

/// Stops the buyers if the test panics; their scope would wait for them.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Closes the item during a sale with two workers: no unit is sold after `items close` returns.
fn assert_close_ends_all_sales(desk: &Desk) {
    let (_serve, address) = desk.serve("");
    let mut workers = [desk.start("work"), desk.start("work")];
    workers.iter_mut().for_each(|work| drop(work.log_line("working on")));
    let over = AtomicBool::new(false);
    let orders: Vec<String> = std::thread::scope(|scope| {
        let buyers = (0..4).map(|n| {
            let address = &address;
            let over = &over;
            scope.spawn(move || {
                let mut orders = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    orders.push(buy(address, &format!("user{n}"), "hall_A"));
                }
                orders
            })
        });
        let buyers: Vec<_> = buyers.collect();
        let _end = SetOnDrop(&over);
        let begun = Instant::now();
        while listed(desk)[0]["sold"].as_u64() < Some(20) {
            assert!(begun.elapsed() < PATIENCE, "nothing is sold");
        }
        desk.run("items close hall_A");
        let sold = listed(desk)[0]["sold"].clone();
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let orders: Vec<String> =
            buyers.into_iter().flat_map(|buyer| buyer.join().unwrap()).collect();
        for order in &orders {
            let answer = decided(&address, order);
            assert!(answer["status"] == "sold" || answer["reason"] == "closed", "{answer}");
        }
        assert_eq!(listed(desk)[0]["sold"], sold);
        orders
    });
    let audit = desk.run("audit");
    assert!(audit.starts_with("hall_A (closed): stock 1000000:"), "{audit}");
    assert!(audit.contains(&format!("orders {},", orders.len())), "{audit}");
}

#[test]
fn close_ends_all_sales_on_embedded() {
    let desk = Desk::new();
    desk.run("provision --item hall_A --stock 1000000");
    assert_close_ends_all_sales(&desk);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn close_ends_all_sales_on_aws_without_lock() {
    let desk = Desk::on_aws().with("REDIS_URL", "redis://127.0.0.1:1");
    let (desk, _) = super::story::provisioned(desk, "");
    desk.run("provision --item hall_A --stock 1000000");
    assert_close_ends_all_sales(&desk);
}
