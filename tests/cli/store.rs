//! The embedded store's files: permissions, checkpoints, removal.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::{Workdir, buy, decided, http};

/// The number of orders in a copy of `flux.db` without its log, by an audit that passes.
fn orders_in_a_copy(workdir: &Workdir) -> u64 {
    let copy = Workdir::new();
    std::fs::copy(workdir.path("flux.db"), copy.path("flux.db")).unwrap();
    let report: Value = serde_json::from_str(&copy.run("audit --json")).unwrap();
    assert_eq!((&report["verdict"], &report["undecided"]), (&"pass".into(), &0.into()));
    report["orders"].as_u64().unwrap()
}

/// Sells this number of units with two processes on one store; returns the processes.
fn sold(workdir: &Workdir, orders: usize) -> [super::Process; 2] {
    workdir.run("provision --item hall_A --stock 1000000");
    let (serve, address) = workdir.serve("--workers 4");
    let mut work = workdir.start("work");
    work.log_line("working on");
    for n in 0..orders {
        assert_eq!(decided(&address, &buy(&address, &format!("u{n}"), "hall_A"))["status"], "sold");
    }
    [serve, work]
}

#[test]
fn stopped_store_is_one_file() {
    let workdir = Workdir::new();
    for round in 1..=4 {
        let mut processes = sold(&workdir, 20);
        // In the last round the processes stop one after the other, else at the same time.
        for process in &mut processes {
            process.signal("TERM");
            if round == 4 {
                assert_eq!(process.end().0.code(), Some(0));
            }
        }
        processes.iter_mut().for_each(|process| assert_eq!(process.end().0.code(), Some(0)));
        assert!(!workdir.path("flux.db-wal").exists() && !workdir.path("flux.db-shm").exists());
        assert_eq!(orders_in_a_copy(&workdir), 20 * round);
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
        let workdir = Workdir::new();
        drop(sold(&workdir, 3));
        assert!(workdir.path("flux.db-wal").metadata().unwrap().len() > 0, "killed");
        let output = workdir.command(command).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{command}: {output:?}");
        assert!(!workdir.path("flux.db-wal").exists(), "{command}");
        assert_eq!(orders_in_a_copy(&workdir), 3, "{command}");
    }
}

#[test]
fn stopping_process_keeps_the_log_for_others() {
    let workdir = Workdir::new();
    let [mut serve, mut work] = sold(&workdir, 5);
    work.signal("TERM");
    assert_eq!(work.end().0.code(), Some(0));
    assert!(workdir.path("flux.db-wal").exists());
    workdir.run("items list");
    serve.signal("TERM");
    assert_eq!(serve.end().0.code(), Some(0));
    assert_eq!(orders_in_a_copy(&workdir), 5);
}

#[test]
fn store_files_have_mode_0600() {
    let mode = |workdir: &Workdir, name: &str| {
        let file = std::fs::metadata(workdir.path(name)).unwrap();
        file.permissions().mode() & 0o777
    };
    let workdir = Workdir::new();
    let mut open_to_all = Command::new("sh");
    let flux = env!("CARGO_BIN_EXE_flux");
    open_to_all.args(["-c", &format!("umask 000; exec {flux} provision")]);
    open_to_all.current_dir(workdir.path("")).env_clear();
    assert!(open_to_all.status().unwrap().success());
    assert_eq!(mode(&workdir, "flux.db"), 0o600);
    let [serve, _work] = sold(&workdir, 1);
    for name in ["flux.db", "flux.db-wal", "flux.db-shm"] {
        assert_eq!(mode(&workdir, name), 0o600, "{name}");
    }
    assert!(!serve.logged.iter().any(|line| line.contains("can be read")));

    // A symbolic link to a file that does not exist yet.
    let workdir = Workdir::new().with("FLUX_DATA", "link.db");
    std::os::unix::fs::symlink("elsewhere.db", workdir.path("link.db")).unwrap();
    workdir.run("provision");
    assert_eq!(mode(&workdir, "elsewhere.db"), 0o600);

    // The mode of an existing file is kept, and a warning is logged.
    std::fs::set_permissions(workdir.path("elsewhere.db"), PermissionsExt::from_mode(0o644))
        .unwrap();
    let mut work = workdir.start("work");
    work.log_line("every user of this machine can read link.db");
    assert_eq!(mode(&workdir, "elsewhere.db"), 0o644);
}

/// A way to take the store away from running processes.
type Loss = fn(&Workdir);

const LOSSES: [(&str, Loss); 6] = [
    ("removed", |workdir| std::fs::remove_file(workdir.path("data/flux.db")).unwrap()),
    ("replaced", |workdir| {
        std::fs::copy(workdir.path("data/flux.db"), workdir.path("data/other")).unwrap();
        std::fs::rename(workdir.path("data/other"), workdir.path("data/flux.db")).unwrap();
    }),
    ("log removed", |workdir| std::fs::remove_file(workdir.path("data/flux.db-wal")).unwrap()),
    ("index removed", |workdir| std::fs::remove_file(workdir.path("data/flux.db-shm")).unwrap()),
    ("log replaced", |workdir| {
        std::fs::write(workdir.path("data/other"), "").unwrap();
        std::fs::rename(workdir.path("data/other"), workdir.path("data/flux.db-wal")).unwrap();
    }),
    ("directory moved", |workdir| {
        std::fs::rename(workdir.path("data"), workdir.path("moved")).unwrap()
    }),
];

#[test]
fn removed_or_replaced_store_is_not_used() {
    for (what, lose) in LOSSES {
        let workdir = Workdir::new().with("FLUX_DATA", "data/flux.db").with_file("data/note", "");
        workdir.run("provision --item hall_A --stock 1000");
        let (mut serve, address) = workdir.serve("");
        let mut work = workdir.start("work");
        let order = buy(&address, "ann", "hall_A");
        assert_eq!(decided(&address, &order)["status"], "sold");
        lose(&workdir);
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
        let workdir = Workdir::new();
        let (_serve, address) = workdir.serve("");
        buy(&address, "ann", "hall_A");
        std::fs::remove_file(workdir.path(part)).unwrap();
        let (status, _) = http(&address, "POST /buy", r#"{"user_id":"bob","item_id":"hall_A"}"#);
        assert_eq!(status, 503, "{part}");
    }
}

/// A process that still has the former store open must not delete the new store's log when it ends.
#[test]
fn process_of_replaced_store_does_not_harm_the_new_one() {
    let workdir = Workdir::new();
    drop(sold(&workdir, 3));
    workdir.run("backup copy.db");
    let (mut old, _) = workdir.serve("");
    std::fs::rename(workdir.path("copy.db"), workdir.path("flux.db")).unwrap();
    for part in ["flux.db-wal", "flux.db-shm"] {
        std::fs::remove_file(workdir.path(part)).unwrap();
    }
    let (mut new, address) = workdir.serve("--workers 1");
    assert_eq!(decided(&address, &buy(&address, "bob", "hall_A"))["status"], "sold");
    old.log_line("was removed or replaced");
    old.signal("TERM");
    assert_eq!(old.end().0.code(), Some(0));
    assert_eq!(decided(&address, &buy(&address, "cid", "hall_A"))["status"], "sold");
    new.signal("TERM");
    assert_eq!(new.end().0.code(), Some(0));
    assert_eq!(orders_in_a_copy(&workdir), 5);
}

#[test]
fn empty_audit_is_refused_and_undecided_come_first() {
    let workdir = Workdir::new();
    workdir.run("provision");
    let line = workdir.refused("audit");
    assert!(line.contains("nothing to audit") && line.contains("items 0, orders 0"), "{line}");
    workdir.run("provision --item hall_A --stock 5");
    for command in ["audit", "audit --json", "audit --item hall_A"] {
        let line = workdir.refused(command);
        assert!(line.contains("items 1, orders 0") && line.contains("--allow-empty"), "{line}");
        workdir.run(&format!("{command} --allow-empty"));
    }
    let (serve, address) = workdir.serve("");
    buy(&address, "ann", "hall_A");
    drop(serve);
    let printed = workdir.run("audit");
    assert!(printed.starts_with("UNDECIDED: 1 orders have no decision yet"), "{printed}");
    assert!(printed.ends_with("stranded 0, undecided 1\n"), "{printed}");

    // A store with deleted rows is not an empty store.
    let file = rusqlite::Connection::open(workdir.path("flux.db")).unwrap();
    assert_eq!(file.execute("DELETE FROM orders", []).unwrap(), 1);
    drop(file);
    assert_eq!(workdir.command("audit").output().unwrap().status.code(), Some(1));
}
