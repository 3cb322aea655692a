//! The README's tour on both backends: two users buy one ticket.

use std::process::Command;

use super::{Process, Workdir, buy, decided, http};
#[cfg(all(feature = "aws", feature = "redis"))]
use crate::conformance::fresh_name;

/// Runs `flux provision`; returns the environment that it printed, and the rest of its output.
#[cfg(all(feature = "aws", feature = "redis"))]
pub fn provisioned(mut workdir: Workdir, suffix: &str) -> (Workdir, String) {
    let queue = format!("{}{suffix}", fresh_name("orders"));
    let printed = workdir.run(&format!("provision --backend aws --queue {queue}"));
    let (done, environment) = printed.split_once("# environment for serve and work:\n").unwrap();
    for line in environment.lines() {
        let (name, value) = line.split_once('=').unwrap();
        workdir = workdir.with(name, value);
    }
    (workdir, done.to_owned())
}

/// Runs the tour; returns the worker's first log lines. Without a lock, no `LOCK` lines are printed.
fn tour(workdir: &Workdir, with_lock: bool) -> Vec<String> {
    let (serve, address) = workdir.serve("");
    let mut work = workdir.start("work --concurrency 50");
    work.log_line("working on 50 items at once");
    let first = buy(&address, "Tanisha", "ticket_001");
    if with_lock {
        assert_eq!(work.stdout_line(), "LOCK ACQUIRED: checking inventory for ticket_001");
    }
    assert_eq!(work.stdout_line(), "SELLING: item ticket_001 to Tanisha");
    assert_eq!(work.stdout_line(), "SUCCESS: saved");
    let second = buy(&address, "Tanisha_Real", "ticket_001");
    let mut line = work.stdout_line();
    // The lock may or may not have been kept since the first order.
    if line.starts_with("LOCK") {
        line = work.stdout_line();
    }
    assert_eq!(line, "REJECTED: Tanisha_Real wants ticket_001, but it is ALREADY SOLD!");

    let answer = decided(&address, &first);
    assert_eq!((&answer["status"], &answer["user_id"]), (&"sold".into(), &"Tanisha".into()));
    let answer = decided(&address, &second);
    assert_eq!((&answer["status"], &answer["reason"]), (&"rejected".into(), &"sold_out".into()));
    let (status, inventory) = http(&address, "GET /inventory", "");
    let owner = serde_json::json!([{"id": "ticket_001", "owner": "Tanisha"}]);
    assert_eq!((status, inventory), (200, owner));
    assert!(workdir.run("audit").ends_with("oversold 0, stranded 0, undecided 0\n"));
    assert_eq!(serve.logged.len(), work.logged.len(), "{:#?}", serve.logged);
    assert_stops(serve);
    let logged = work.logged.clone();
    assert_stops(work);
    logged
}

fn assert_stops(mut process: Process) {
    process.signal("TERM");
    assert_eq!(process.end().0.code(), Some(0));
}

/// `cargo test` passes the same variables on as `cargo run`.
#[test]
fn build_variables_are_not_taken_for_settings() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut flux = Command::new(env!("CARGO_BIN_EXE_flux"));
    flux.current_dir(&elsewhere).args(["items", "list"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLUX_TEST_")) {
        flux.env_remove(name);
    }
    let printed = String::from_utf8(flux.output().unwrap().stderr).unwrap();
    assert!(!printed.contains("is not a setting of flux"), "{printed}");
}

#[test]
fn tour_on_embedded() {
    let workdir = Workdir::new();
    let logged = tour(&workdir, true);
    assert!(logged[0].ends_with("INFO backend embedded, data in ./flux.db"), "{logged:#?}");
    let line = workdir.refused("provision --item ticket_001 --stock 0");
    assert!(line.contains("1 units of ticket_001 are sold or held"), "{line}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn tour_on_aws_without_redis() {
    let workdir = Workdir::on_aws().with("REDIS_URL", "redis://:open-sesame-please@127.0.0.1:1");
    let (workdir, done) = provisioned(workdir, "");
    assert_eq!(done.matches(" created\n").count(), 6, "{done}");
    let logged = tour(&workdir, false);
    assert!(logged[0].contains("INFO backend aws, SQS queue orders-"), "{logged:#?}");
    assert!(logged[1].contains("WARN Redis at 127.0.0.1:1 not reachable"), "{logged:#?}");
    assert!(logged[1].contains("deciding without a lock"), "{logged:#?}");
    assert!(!logged.concat().contains("sesame"), "{logged:#?}");
    let line = workdir.refused("provision --item ticket_001 --stock 0");
    assert!(line.contains("1 units of ticket_001 are sold or held"), "{line}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn readyz_names_missing_parts_and_is_ready_without_redis() {
    let workdir = Workdir::on_aws().with("REDIS_URL", "redis://:open-sesame-please@127.0.0.1:1");
    let (workdir, _) = provisioned(workdir, "");
    let (_serve, address) = workdir.serve("");
    let (status, ready) = http(&address, "GET /readyz", "");
    assert_eq!((status, &ready["status"], &ready["queue"]), (200, &"ready".into(), &"ok".into()));
    for part in ["lock", "outcomes"] {
        assert!(ready[part].as_str().unwrap().starts_with("unavailable"), "{ready}");
    }
    workdir.run("provision --destroy --yes --force");
    // The response is cached for a second.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (status, not_ready) = http(&address, "GET /readyz", "");
    assert_eq!((status, &not_ready["detail"]), (503, &"not ready".into()));
    for part in ["ledger", "queue"] {
        assert_eq!(not_ready[part], "does not exist: run `flux provision`");
    }
    assert!(!not_ready.to_string().contains("sesame"), "{not_ready}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn tour_on_fifo_queue_with_redis() {
    let redis = crate::conformance::address("FLUX_TEST_REDIS");
    let (workdir, _) = provisioned(Workdir::on_aws().with("REDIS_URL", &redis), ".fifo");
    let logged = tour(&workdir, true);
    assert!(logged[0].contains(".fifo"), "{logged:#?}");
    assert!(!logged.concat().contains("WARN"), "{logged:#?}");
}

#[test]
fn report_format_follows_file_extension() {
    let workdir = Workdir::new().with_file("page.html", "<p>what was here before, and longer</p>");
    let workdir = workdir.with("FLUX_ADMIN_KEY", super::SESAME).with("FLUX_GRACE_MS", "8765");
    let reports = "--report page.html --report figures.json --report figures.txt";
    let output =
        workdir.command(&format!("stress --item t --users 20 {reports}")).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed.matches("--report").count(), 1, "{printed}");
    assert!(
        printed.contains("figures.txt will be JSON; for a page with plots use FILE.html"),
        "{printed}"
    );
    let read = |name| std::fs::read_to_string(workdir.path(name)).unwrap();
    let page = read("page.html");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    assert!(page.contains(&format!("flux stress --item t --users 20 {reports}")));
    assert!(page.contains("grace_ms") && page.contains("8765") && !page.contains(super::SESAME));
    assert_eq!(read("figures.json"), read("figures.txt"));
    assert!(serde_json::from_str::<serde_json::Value>(&read("figures.json")).is_ok());
}
