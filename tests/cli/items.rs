//! `flux items`: closes and reopens a running sale, removes items.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, Process, Workdir, buy, decided, http};

fn listed(workdir: &Workdir) -> Vec<Value> {
    let printed = workdir.run("items list --json");
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn wait_for_stdout_line(work: &Process, line: &str) {
    while work.stdout_line() != line {}
}

#[test]
fn items_close_and_open_change_the_sale() {
    let workdir = Workdir::new();
    workdir.run("provision --item hall_A --stock 3");
    let (_serve, address) = workdir.serve("");
    let mut work = workdir.start("work");
    work.log_line("working on 50 items at once");
    assert_eq!(workdir.run("items list"), "hall_A: open; stock 3: free 3, held 0, sold 0\n");
    assert_eq!(decided(&address, &buy(&address, "ann", "hall_A"))["status"], "sold");
    let closed = "item hall_A is closed; stock 3: free 2, sold 1\n";
    assert_eq!(workdir.run("items close hall_A"), closed);
    assert_eq!(workdir.run("items close hall_A"), closed.replace("closed", "closed already"));
    let no = decided(&address, &buy(&address, "bob", "hall_A"));
    assert_eq!((&no["status"], &no["reason"]), (&json!("rejected"), &json!("closed")));
    wait_for_stdout_line(&work, "REJECTED: bob wants hall_A, but its sale is closed");
    assert!(workdir.run("audit").starts_with("hall_A (closed): stock 3: free 2,"));
    workdir.run("items restock hall_A --stock 5");
    let again = "item hall_A is open; stock 5: free 4, sold 1\n";
    assert_eq!(workdir.run("items open hall_A"), again);
    assert_eq!(decided(&address, &buy(&address, "bob", "hall_A"))["status"], "sold");

    let line = workdir.refused("items close hall_A hall_B");
    assert!(line.contains("no item hall_B") && line.contains("provision"), "{line}");
    assert_eq!(listed(&workdir)[0]["status"], "closed");
    let line = workdir.refused("items restock hall_A --stock 1");
    assert!(line.contains("2 units of hall_A are sold or held"), "{line}");
    assert!(workdir.refused("items close").contains("<ID>"));
}

#[test]
fn items_remove_needs_an_item_without_orders() {
    let workdir = Workdir::new();
    workdir.run("provision --item typo --stock 3");
    workdir.run("provision --item hall_A --stock 3");
    let (_serve, address) = workdir.serve("");
    let order = buy(&address, "ann", "hall_A");
    assert!(workdir.refused("items remove hall_A").contains("hall_A has orders"));
    assert_eq!(workdir.run("items remove typo"), "item typo is removed\n");
    assert_eq!(workdir.run("items remove typo"), "item typo is removed already\n");
    assert_eq!(workdir.run("items list"), "hall_A: open; stock 3: free 3, held 0, sold 0\n");
    assert!(workdir.refused("items open typo").contains("no item typo"));
    let (status, _) = http(&address, "POST /buy", r#"{"user_id":"bob","item_id":"typo"}"#);
    assert_eq!(status, 404);
    let restock = workdir.command("items restock typo --stock 2").output().unwrap();
    let listed = "item typo is open, newly listed; stock 2: free 2, sold 0\n";
    assert_eq!(String::from_utf8(restock.stdout).unwrap(), listed);
    assert!(String::from_utf8(restock.stderr).unwrap().contains("flux items remove typo"));

    // A queued order counts as an order of the item, so the item was not removed.
    let _work = workdir.start("work");
    assert_eq!(decided(&address, &order)["status"], "sold");
    assert_eq!(decided(&address, &buy(&address, "eve", "invented"))["status"], "sold");
    let list = workdir.run("items list");
    assert!(
        list.ends_with(
            "invented: sold_out; stock 1: free 0, held 0, sold 1; not listed by anybody\n"
        ),
        "{list}"
    );
    workdir.run("audit");
}

/// Stops the buyers if the test panics; their scope would wait for them.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Closes the item during a sale with two workers: no unit is sold after `items close` returns.
fn assert_close_ends_all_sales(workdir: &Workdir) {
    let (_serve, address) = workdir.serve("");
    let mut workers = [workdir.start("work"), workdir.start("work")];
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
        while listed(workdir)[0]["sold"].as_u64() < Some(20) {
            assert!(begun.elapsed() < PATIENCE, "nothing is sold");
        }
        workdir.run("items close hall_A");
        let sold = listed(workdir)[0]["sold"].clone();
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let orders: Vec<String> =
            buyers.into_iter().flat_map(|buyer| buyer.join().unwrap()).collect();
        for order in &orders {
            let answer = decided(&address, order);
            assert!(answer["status"] == "sold" || answer["reason"] == "closed", "{answer}");
        }
        assert_eq!(listed(workdir)[0]["sold"], sold);
        orders
    });
    let audit = workdir.run("audit");
    assert!(audit.starts_with("hall_A (closed): stock 1000000:"), "{audit}");
    assert!(audit.contains(&format!("orders {},", orders.len())), "{audit}");
}

#[test]
fn close_ends_all_sales_on_embedded() {
    let workdir = Workdir::new();
    workdir.run("provision --item hall_A --stock 1000000");
    assert_close_ends_all_sales(&workdir);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn close_ends_all_sales_on_aws_without_lock() {
    let workdir = Workdir::on_aws().with("REDIS_URL", "redis://127.0.0.1:1");
    let (workdir, _) = super::story::provisioned(workdir, "");
    workdir.run("provision --item hall_A --stock 1000000");
    assert_close_ends_all_sales(&workdir);
}
