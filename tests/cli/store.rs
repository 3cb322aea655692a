//! The embedded store's files: who can read them, and where the sale is when everybody has stopped.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::{Desk, buy, decided};

/// How many orders a copy of `flux.db` alone has, by an audit that passes.
fn orders_in_a_copy(desk: &Desk) -> u64 {
    let copy = Desk::new();
    std::fs::copy(desk.path("flux.db"), copy.path("flux.db")).unwrap();
    let report: Value = serde_json::from_str(&copy.run("audit --json")).unwrap();
    assert_eq!((&report["verdict"], &report["undecided"]), (&"pass".into(), &0.into()));
    report["orders"].as_u64().unwrap()
}

/// Sells so many units; the process that did it, and another that worked on the same file.
fn sold(desk: &Desk, orders: usize) -> [super::Process; 2] {
    desk.run("provision --item hall_A --stock 1000000");
    let (serve, address) = desk.serve("--workers 4");
    let mut work = desk.start("work");
    work.log_line("working on");
    for n in 0..orders {
        assert_eq!(decided(&address, &buy(&address, &format!("u{n}"), "hall_A"))["status"], "sold");
    }
    [serve, work]
}

#[test]
fn stopped_sale_is_in_one_file() {
    let desk = Desk::new();
    for round in 1..=4 {
        let mut processes = sold(&desk, 20);
        // The last round one after the other, the others at the same instant.
        for process in &mut processes {
            process.signal("TERM");
            if round == 4 {
                assert_eq!(process.end().0.code(), Some(0));
            }
        }
        processes.iter_mut().for_each(|process| assert_eq!(process.end().0.code(), Some(0)));
        assert!(!desk.path("flux.db-wal").exists() && !desk.path("flux.db-shm").exists());
        assert_eq!(orders_in_a_copy(&desk), 20 * round);
    }
}

#[test]
fn each_command_closes_the_store() {
    let commands = [
        ("items list", 0),
        ("items close hall_A", 0),
        ("items close hall_B", 2),
        ("provision --item hall_A --stock 5000", 0),
        ("provision --item hall_A --stock 1", 2),
        ("provision --dry-run", 0),
        ("audit", 0),
        ("audit --item hall_B", 2),
        ("dlq list", 0),
        ("dlq drop --all --yes", 0),
        ("webhooks list", 0),
        ("webhooks off", 0),
    ];
    for (command, code) in commands {
        let desk = Desk::new();
        drop(sold(&desk, 3));
        assert!(desk.path("flux.db-wal").metadata().unwrap().len() > 0, "killed");
        let output = desk.command(command).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{command}: {output:?}");
        assert!(!desk.path("flux.db-wal").exists(), "{command}");
        assert_eq!(orders_in_a_copy(&desk), 3, "{command}");
    }
}

#[test]
fn process_that_stops_leaves_the_log_to_those_that_sell_on() {
    let desk = Desk::new();
    let [mut serve, mut work] = sold(&desk, 5);
    work.signal("TERM");
    assert_eq!(work.end().0.code(), Some(0));
    assert!(desk.path("flux.db-wal").exists());
    desk.run("items list");
    serve.signal("TERM");
    assert_eq!(serve.end().0.code(), Some(0));
    assert_eq!(orders_in_a_copy(&desk), 5);
}

#[test]
fn store_is_for_its_owner_alone() {
    let mode = |desk: &Desk, name: &str| {
        let file = std::fs::metadata(desk.path(name)).unwrap();
        file.permissions().mode() & 0o777
    };
    let desk = Desk::new();
    let mut open_to_all = Command::new("sh");
    let flux = env!("CARGO_BIN_EXE_flux");
    open_to_all.args(["-c", &format!("umask 000; exec {flux} provision")]);
    open_to_all.current_dir(desk.path("")).env_clear();
    assert!(open_to_all.status().unwrap().success());
    assert_eq!(mode(&desk, "flux.db"), 0o600);
    let [serve, _work] = sold(&desk, 1);
    for name in ["flux.db", "flux.db-wal", "flux.db-shm"] {
        assert_eq!(mode(&desk, name), 0o600, "{name}");
    }
    assert!(!serve.logged.iter().any(|line| line.contains("can be read")));

    // A link to a file that is not there yet.
    let desk = Desk::new().with("FLUX_DATA", "link.db");
    std::os::unix::fs::symlink("elsewhere.db", desk.path("link.db")).unwrap();
    desk.run("provision");
    assert_eq!(mode(&desk, "elsewhere.db"), 0o600);

    // One that is there stays as it is, and who serves it is warned.
    std::fs::set_permissions(desk.path("elsewhere.db"), PermissionsExt::from_mode(0o644)).unwrap();
    let mut work = desk.start("work");
    work.log_line("link.db can be read by every user of this machine");
    assert_eq!(mode(&desk, "elsewhere.db"), 0o644);
}
