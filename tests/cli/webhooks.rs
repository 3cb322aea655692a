//! Webhooks across processes that are killed at any time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{SESAME, Workdir, buy, decided, http};
use crate::support::free_port;
use crate::webhooks::receiver::{Receiver, Reply};
use crate::webhooks::{NEW_SECRET, SECRET};

/// An environment that sends webhooks to a receiver.
fn sending_to(workdir: Workdir, receiver: &Receiver, secret: &str) -> Workdir {
    workdir
        .with("FLUX_WEBHOOK_URL", &receiver.url())
        .with("FLUX_WEBHOOK_SECRET", secret)
        .with("FLUX_WEBHOOK_TIMEOUT_MS", "1000")
}

fn accept(_: u64, _: u64, _: &Value) -> Reply {
    Reply::Status(200)
}

/// [`sending_to`] with an outbox on AWS.
#[cfg(all(feature = "aws", feature = "redis"))]
fn sending_on_aws(receiver: &Receiver) -> (Workdir, String) {
    // Short timeouts, because a killed worker's deliveries stay invisible until they expire.
    let workdir = sending_to(Workdir::on_aws(), receiver, SECRET)
        .with("FLUX_VISIBILITY_TIMEOUT_MS", "3000")
        .with("FLUX_LEASE_MS", "1000");
    super::story::provisioned(workdir, "")
}

/// Each webhook contains the same order as the response to the buyer.
fn assert_webhooks_equal_orders(workdir: &Workdir, receiver: &Receiver) {
    workdir.run("provision --item hall --stock 1");
    let (_serve, address) = workdir.serve("--workers 5");
    let orders = ["Zoë", "bob", "cid"].map(|user| buy(&address, user, "hall"));
    let decisions: Vec<Value> = orders.iter().map(|order| decided(&address, order)).collect();
    let delivered = receiver.wait_for_orders(&orders);
    for (order, decision) in orders.iter().zip(decisions) {
        let event = &delivered[order];
        assert_eq!(event["data"], decision);
        assert_eq!(event["timestamp"], decision["decided_at"]);
        let kind = format!("order.{}", decision["status"].as_str().unwrap());
        assert_eq!(event["type"], kind);
    }
    let sold = delivered.values().filter(|event| event["type"] == "order.sold").count();
    assert_eq!(sold, 1);
    let (_, stats) = http(&address, "GET /stats", "");
    assert_eq!(stats["webhooks"]["dead_letters"], 0, "{stats}");
}

#[test]
fn webhook_equals_order_on_embedded() {
    let receiver = Receiver::open(&[SECRET], accept);
    assert_webhooks_equal_orders(&sending_to(Workdir::new(), &receiver, SECRET), &receiver);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn webhook_equals_order_on_aws() {
    let receiver = Receiver::open(&[SECRET], accept);
    let (workdir, done) = sending_on_aws(&receiver);
    assert_eq!(done.matches(" created\n").count(), 8, "{done}");
    assert!(done.contains("-webhooks created") && done.contains("-webhooks-dlq created"), "{done}");
    assert_webhooks_equal_orders(&workdir, &receiver);
    let again = workdir.run("provision --backend aws");
    assert_eq!(again.matches("already exists").count(), 8, "{again}");
    let policies = workdir.run("provision --backend aws --print iam");
    // Once for `work`, `provision` and `dlq drop`.
    assert_eq!(policies.matches("-webhooks\"").count(), 3, "{policies}");
    let gone = workdir.run("provision --backend aws --destroy --yes --force");
    assert_eq!(gone.matches("deleted").count(), 7, "{gone}");
}

/// Sells items with workers that are killed repeatedly, while some webhooks are refused or their
/// responses lost: each decision is delivered, with the ledger's content.
fn assert_delivered_despite_kills(workdir: &Workdir, receiver: &Receiver) {
    let (_serve, address) = workdir.serve("");
    let mut orders = Vec::new();
    for round in 0..6 {
        let mut work = workdir.start("work --concurrency 8");
        for n in 0..40 {
            orders.push(buy(&address, &format!("user-{n}"), &format!("item-{}", n % 7)));
        }
        // Kills at different moments: before a commit, after it, during a delivery.
        std::thread::sleep(Duration::from_millis(120 + 170 * round));
        work.signal("KILL");
        work.end();
    }
    let _work = workdir.start("work --concurrency 8");
    for order in &orders {
        decided(&address, order);
    }
    let delivered = receiver.wait_for_orders(&orders);
    let decisions: HashMap<String, Value> =
        orders.iter().map(|order| (order.clone(), decided(&address, order))).collect();
    assert_eq!(delivered.len(), orders.len());
    for (order, event) in &delivered {
        assert_eq!(event["data"], decisions[order]);
    }
    assert_eq!(delivered.values().filter(|event| event["type"] == "order.sold").count(), 7);
    // Lost and refused deliveries are retried.
    receiver.wait_for(orders.len() + 1);
}

/// Of nine deliveries, one response is lost and one is an error.
fn unreliable(n: u64, _: u64, _: &Value) -> Reply {
    match n % 9 {
        3 => Reply::HangUp,
        7 => Reply::Status(500),
        _ => Reply::Status(200),
    }
}

#[test]
fn webhooks_survive_killed_workers_on_embedded() {
    let receiver = Receiver::open(&[SECRET], unreliable);
    let workdir = sending_to(Workdir::new(), &receiver, SECRET);
    assert_delivered_despite_kills(&workdir, &receiver);
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn webhooks_survive_killed_workers_on_aws() {
    let receiver = Receiver::open(&[SECRET], unreliable);
    let (workdir, _) = sending_on_aws(&receiver);
    assert_delivered_despite_kills(&workdir, &receiver);
}

#[test]
fn unavailable_webhook_endpoint_delays_no_decision() {
    // Nothing listens there until the receiver is opened.
    let closed = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let silent = Receiver::open(&[SECRET], |_, _, _| Reply::Never);
    for address in [silent.address, closed] {
        let workdir = Workdir::new()
            .with("FLUX_WEBHOOK_URL", &format!("http://{address}/"))
            .with("FLUX_WEBHOOK_SECRET", SECRET)
            .with("FLUX_WEBHOOK_TIMEOUT_MS", "60000");
        let (mut serve, api) = workdir.serve("--workers 5");
        let orders: Vec<String> =
            (0..100).map(|n| buy(&api, &format!("user-{n}"), &format!("item-{n}"))).collect();
        for order in &orders {
            assert_eq!(decided(&api, order)["status"], "sold");
        }
        if address == closed {
            serve.log_line("deliveries paused");
            let shop = Receiver::open_at(closed, &[SECRET], accept);
            shop.wait_for_orders(&orders);
            serve.log_line("available again");
        }
        serve.signal("TERM");
        assert_eq!(serve.end().0.code(), Some(0));
    }
}

#[test]
fn refused_webhooks_are_listed_redriven_and_dropped() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Status(410));
    let workdir = sending_to(Workdir::new(), &receiver, SECRET).with("FLUX_WEBHOOK_EVENTS", "sold");
    let (_serve, address) = workdir.serve("--workers 5");
    let orders = ["a", "b", "c"].map(|item| buy(&address, "ann", item));
    let loser = buy(&address, "bob", "a");
    assert_eq!(decided(&address, &loser)["status"], "rejected");
    receiver.wait_for(3);
    let letters = || {
        let printed = workdir.run("webhooks list");
        let read = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        printed.lines().map(read).collect::<Vec<_>>()
    };
    while letters().len() < 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    for letter in letters() {
        assert_eq!((&letter["status"], &letter["attempts"]), (&json!("sold"), &json!(1)));
        assert!(letter["reason"].as_str().unwrap().contains("410"), "{letter}");
    }
    receiver.reply_with(accept);
    let redriven = workdir.run(&format!("webhooks redrive --id {}", orders[0]));
    assert_eq!(redriven, "1 due again\n");
    receiver.wait_for(4);
    assert_eq!(receiver.requests()[3].id, format!("msg_{}", orders[0]));
    assert_eq!(workdir.run(&format!("webhooks drop --id {}", orders[1])), "1 dropped\n");
    assert_eq!(workdir.run("webhooks redrive --all"), "1 due again\n");
    receiver.wait_for(5);
    assert_eq!(receiver.requests()[4].id, format!("msg_{}", orders[2]));
    assert!(letters().is_empty());
    assert!(receiver.requests().iter().all(|got| got.signed && got.id != format!("msg_{loser}")));

    workdir.run("webhooks off");
    assert_eq!(decided(&address, &buy(&address, "ann", "d"))["status"], "sold");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(receiver.requests().len(), 5);
}

#[test]
fn secret_rotation_signs_with_both_secrets() {
    let receiver = Receiver::open(&[SECRET, NEW_SECRET], accept);
    let workdir = sending_to(Workdir::new(), &receiver, &format!("{NEW_SECRET} {SECRET}"));
    let printed = workdir.run("webhooks send-test");
    assert!(printed.contains("took it in") && !printed.contains(SESAME), "{printed}");
    let got = receiver.requests();
    assert!(got[0].signed && got[0].event["type"] == "flux.test", "{got:?}");

    let old = sending_to(Workdir::new(), &receiver, SECRET);
    old.run("webhooks send-test");
    assert!(!receiver.requests()[1].signed);
    receiver.reply_with(|_, _, _| Reply::Status(401));
    let output = old.command("webhooks send-test").output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(printed.contains("HTTP status 401") && !printed.contains(SESAME), "{printed}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn invalid_webhook_settings_are_refused() {
    let refused = |settings: &[(&str, &str)], part: &str| {
        let workdir = settings
            .iter()
            .fold(Workdir::new(), |workdir, (name, value)| workdir.with(name, value));
        let line = workdir.refused("work");
        assert!(line.contains(part), "{line}");
    };
    let url = "FLUX_WEBHOOK_URL";
    let secret = "FLUX_WEBHOOK_SECRET";
    let shop = "https://shop.example/open-sesame-please";
    refused(&[(url, shop)], "webhook_url needs a webhook_secret");
    refused(&[(secret, SECRET)], "webhook_secret needs a webhook_url");
    refused(&[(url, "http://shop.example/"), (secret, SECRET)], "webhook_url must be https://");
    let login = "https://ann:open-sesame-please@shop.example/";
    refused(&[(url, login), (secret, SECRET)], "without a user and password");
    refused(&[(url, shop), (secret, SESAME)], "webhook_secret must be whsec_");
    let both = [(url, shop), (secret, SECRET)];
    refused(&[both[0], both[1], ("FLUX_WEBHOOK_EVENTS", "paid")], "webhook_events must be sold");
    let line = Workdir::new().refused("webhooks send-test");
    assert!(line.contains("set webhook_url and webhook_secret"), "{line}");

    let receiver = Receiver::open(&[SECRET], accept);
    let (workdir, _) = super::story::provisioned(Workdir::on_aws(), "");
    let line = sending_to(workdir, &receiver, SECRET).refused("work");
    assert!(line.contains("-webhooks: run `flux provision` with webhook_url set"), "{line}");
}

#[test]
fn process_without_webhook_url_warns_and_keeps_events() {
    let receiver = Receiver::open(&[SECRET], accept);
    let workdir = sending_to(Workdir::new(), &receiver, SECRET);
    {
        let (mut serve, _) = workdir.serve("--workers 1");
        serve.signal("TERM");
        serve.end();
    }
    let mut workdir = workdir;
    let url = workdir.environment.iter().position(|(name, _)| name == "FLUX_WEBHOOK_URL").unwrap();
    let url = workdir.environment.remove(url);
    workdir.environment.retain(|(name, _)| name != "FLUX_WEBHOOK_SECRET");
    let order = {
        let mut serve = workdir.start("serve --listen 127.0.0.1:0 --workers 1");
        serve.log_line("this store collects webhook events");
        let line = serve.log_line("listening on http://");
        let address = line.split_once("http://").unwrap().1.to_owned();
        let order = buy(&address, "ann", "x");
        decided(&address, &order);
        assert_eq!(http(&address, "GET /healthz", "").0, 200);
        order
    };
    assert!(receiver.requests().is_empty());
    let workdir = workdir.with(&url.0, &url.1).with("FLUX_WEBHOOK_SECRET", SECRET);
    let _serve = workdir.serve("--workers 1");
    receiver.wait_for_orders(&[order]);
}
