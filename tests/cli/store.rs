//! The embedded store's files: permissions, checkpoints, removal.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::{Desk, buy, decided, http};

/// The number of orders in a copy of `flux.db` without its log, by an audit that passes.
fn orders_in_a_copy(desk: &Desk) -> u64 {
    let copy = Desk::new();
    std::fs::copy(desk.path("flux.db"), copy.path("flux.db")).unwrap();
    let report: Value = serde_json::from_str(&copy.run("audit --json")).unwrap();
    assert_eq!((&report["verdict"], &report["undecided"]), (&"pass".into(), &0.into()));
    report["orders"].as_u64().unwrap()
}

/// Sells this number of units with two processes on one store; returns the processes.
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
fn stopped_store_is_one_file() {
    let desk = Desk::new();
    for round in 1..=4 {
        let mut processes = sold(&desk, 20);
        // In the last round the processes stop one after the other, else at the same time.
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
fn stopping_process_keeps_the_log_for_others() {
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
fn store_files_have_mode_0600() {
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

    // A symbolic link to a file that does not exist yet.
    let desk = Desk::new().with("FLUX_DATA", "link.db");
    std::os::unix::fs::symlink("elsewhere.db", desk.path("link.db")).unwrap();
    desk.run("provision");
    assert_eq!(mode(&desk, "elsewhere.db"), 0o600);

    // The mode of an existing file is kept, and a warning is logged.
    std::fs::set_permissions(desk.path("elsewhere.db"), PermissionsExt::from_mode(0o644)).unwrap();
    let mut work = desk.start("work");
    work.log_line("every user of this machine can read link.db");
    assert_eq!(mode(&desk, "elsewhere.db"), 0o644);
}

/// A way to take the store away from running processes.
type Loss = fn(&Desk);

const LOSSES: [(&str, Loss); 6] = [
    ("removed", |desk| std::fs::remove_file(desk.path("data/flux.db")).unwrap()),
    ("replaced", |desk| {
        std::fs::copy(desk.path("data/flux.db"), desk.path("data/other")).unwrap();
        std::fs::rename(desk.path("data/other"), desk.path("data/flux.db")).unwrap();
    }),
    ("log removed", |desk| std::fs::remove_file(desk.path("data/flux.db-wal")).unwrap()),
    ("index removed", |desk| std::fs::remove_file(desk.path("data/flux.db-shm")).unwrap()),
    ("log replaced", |desk| {
        std::fs::write(desk.path("data/other"), "").unwrap();
        std::fs::rename(desk.path("data/other"), desk.path("data/flux.db-wal")).unwrap();
    }),
    ("directory moved", |desk| std::fs::rename(desk.path("data"), desk.path("moved")).unwrap()),
];

#[test]
fn removed_or_replaced_store_is_not_used() {
    for (what, lose) in LOSSES {
        let desk = Desk::new().with("FLUX_DATA", "data/flux.db").with_file("data/note", "");
        desk.run("provision --item hall_A --stock 1000");
        let (mut serve, address) = desk.serve("");
        let mut work = desk.start("work");
        let order = buy(&address, "ann", "hall_A");
        assert_eq!(decided(&address, &order)["status"], "sold");
        lose(&desk);
        for process in [&mut serve, &mut work] {
            let line = process.log_line("was removed or replaced while this process used it");
            assert!(line.contains("ERROR"), "{what}: {line}");
        }
        let bob = r#"{"user_id":"bob","item_id":"hall_A"}"#;
        for (request, body) in [
            ("POST /buy", bob),
            (&format!("GET /orders/{order}"), ""),
            ("GET /items", ""),
            ("GET /items/hall_A", ""),
            ("GET /inventory", ""),
            ("GET /readyz", ""),
        ] {
            assert_eq!(http(&address, request, body).0, 503, "{what}: {request}");
        }
        assert_eq!(http(&address, "GET /healthz", "").0, 200);
        for process in [&mut serve, &mut work] {
            process.signal("TERM");
            assert_eq!(process.end().0.code(), Some(0), "{what}");
        }
        serve.logged.extend(serve.log.try_iter());
        let errors = serve.logged.iter().filter(|line| line.contains("ERROR"));
        assert_eq!(errors.count(), 1, "{what}: {:#?}", serve.logged);
    }
}

/// No order may be accepted into a removed file, even before the removal is noticed and logged.
#[test]
fn no_order_is_accepted_after_file_removal() {
    for part in ["flux.db", "flux.db-wal", "flux.db-shm"] {
        let desk = Desk::new();
        let (_serve, address) = desk.serve("");
        buy(&address, "ann", "hall_A");
        std::fs::remove_file(desk.path(part)).unwrap();
        let (status, _) = http(&address, "POST /buy", r#"{"user_id":"bob","item_id":"hall_A"}"#);
        assert_eq!(status, 503, "{part}");
    }
}

/// A process that still has the former store open must not delete the new store's log when it ends.
#[test]
fn process_of_replaced_store_does_not_harm_the_new_one() {
    let desk = Desk::new();
    drop(sold(&desk, 3));
    desk.run("backup copy.db");
    let (mut old, _) = desk.serve("");
    std::fs::rename(desk.path("copy.db"), desk.path("flux.db")).unwrap();
    for part in ["flux.db-wal", "flux.db-shm"] {
        std::fs::remove_file(desk.path(part)).unwrap();
    }
    let (mut new, address) = desk.serve("--workers 1");
    assert_eq!(decided(&address, &buy(&address, "bob", "hall_A"))["status"], "sold");
    old.log_line("was removed or replaced");
    old.signal("TERM");
    assert_eq!(old.end().0.code(), Some(0));
    assert_eq!(decided(&address, &buy(&address, "cid", "hall_A"))["status"], "sold");
    new.signal("TERM");
    assert_eq!(new.end().0.code(), Some(0));
    assert_eq!(orders_in_a_copy(&desk), 5);
}

#[test]
fn empty_audit_is_refused_and_undecided_come_first() {
    let desk = Desk::new();
    desk.run("provision");
    let line = desk.refused("audit");
    assert!(line.contains("nothing to audit") && line.contains("items 0, orders 0"), "{line}");
    desk.run("provision --item hall_A --stock 5");
    for command in ["audit", "audit --json", "audit --item hall_A"] {
        let line = desk.refused(command);
        assert!(line.contains("items 1, orders 0") && line.contains("--allow-empty"), "{line}");
        desk.run(&format!("{command} --allow-empty"));
    }
    let (serve, address) = desk.serve("");
    buy(&address, "ann", "hall_A");
    drop(serve);
    let printed = desk.run("audit");
    assert!(printed.starts_with("UNDECIDED: 1 orders have no decision yet"), "{printed}");
    assert!(printed.ends_with("stranded 0, undecided 1\n"), "{printed}");

    // A store with deleted rows is not an empty store.
    let file = rusqlite::Connection::open(desk.path("flux.db")).unwrap();
    assert_eq!(file.execute("DELETE FROM orders", []).unwrap(), 1);
    drop(file);
    assert_eq!(desk.command("audit").output().unwrap().status.code(), Some(1));
}
