//! `flux backup` and `flux restore` while other processes run.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Workdir, buy, decided, http};

fn audited(workdir: &Workdir) -> Value {
    let report: Value = serde_json::from_str(&workdir.run("audit --json")).unwrap();
    assert_eq!(report["verdict"], "pass", "{report}");
    report
}

/// A store with this number of decided orders, used by no process.
fn sale_of(orders: usize) -> Workdir {
    let workdir = Workdir::new();
    workdir.run("provision --item hall_A --stock 1000000");
    let (mut serve, address) = workdir.serve("--workers 4");
    for n in 0..orders {
        decided(&address, &buy(&address, &format!("u{n}"), "hall_A"));
    }
    serve.signal("TERM");
    assert_eq!(serve.end().0.code(), Some(0));
    workdir
}

/// The names of the files in a directory.
fn names(directory: &Path) -> HashSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn copy(from: &Workdir, name: &str, to: &Workdir, as_name: &str) {
    std::fs::copy(from.path(name), to.path(as_name)).unwrap();
}

#[test]
fn backup_contains_all_orders_accepted_before_it() {
    let workdir = Workdir::new();
    workdir.run("provision --item hall_A --stock 1000000");
    workdir.run("provision --item hall_B --stock 100");
    let (serve, address) = workdir.serve("--workers 4");
    let mut work = workdir.start("work");
    work.log_line("working on");
    let accepted = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    let (before, elsewhere) = std::thread::scope(|scope| {
        for n in 0..4 {
            let address = &address;
            let accepted = &accepted;
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let item = if n == 0 { "hall_B" } else { "hall_A" };
                    let order = buy(address, &format!("user{n}"), item);
                    accepted.lock().unwrap().push(order);
                }
            });
        }
        let sold = || accepted.lock().unwrap().len();
        let more_than = |orders: usize| {
            let begun = Instant::now();
            while sold() <= orders {
                assert!(begun.elapsed() < PATIENCE, "{} orders", sold());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        more_than(300);
        let before = accepted.lock().unwrap().clone();
        let printed = workdir.run("backup copy.db");
        assert!(printed.starts_with("copy.db: items 2, orders "), "{printed}");
        more_than(sold());
        over.store(true, Ordering::Relaxed);
        let elsewhere = Workdir::new();
        copy(&workdir, "copy.db", &elsewhere, "backup.db");
        (before, elsewhere)
    });
    let mode = std::fs::metadata(workdir.path("copy.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let printed = elsewhere.run("restore backup.db");
    assert!(
        printed.starts_with("./flux.db restored from backup.db: items 2, orders "),
        "{printed}"
    );
    assert!(audited(&elsewhere)["orders"].as_u64().unwrap() >= before.len() as u64);
    let (_restored, address) = elsewhere.serve("--workers 4");
    for order in &before {
        decided(&address, order);
    }
    // Orders that were queued in the backup are decided in the restored store.
    let begun = Instant::now();
    while audited(&elsewhere)["undecided"] != 0 {
        assert!(begun.elapsed() < PATIENCE, "orders of the backup are not decided");
    }
    drop((serve, work));
}

#[test]
fn failed_backup_leaves_no_files() {
    let workdir = sale_of(300);
    let workdir = workdir.with_file("taken.db", "mine").with_file("other.db-wal", "mine");
    let before = names(&workdir.path(""));
    for (file, part) in [
        ("taken.db", "taken.db is there already"),
        ("other.db", "other.db-wal is there already"),
        ("flux.db", "flux.db is there already"),
        ("flux.db-wal", "is a part of the store"),
        ("nowhere/copy.db", "no directory nowhere"),
    ] {
        let line = workdir.refused(&format!("backup {file}"));
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(std::fs::read(workdir.path("taken.db")).unwrap(), b"mine");

    // A limit on the size of files has the effect of a full disk.
    let mut limited = Command::new("sh");
    let flux = env!("CARGO_BIN_EXE_flux");
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -f 80; exec {flux} backup copy.db")]);
    let output = limited.current_dir(workdir.path("")).env_clear().output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{printed}");
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert_eq!(names(&workdir.path("")), before);

    let empty = Workdir::new();
    assert!(empty.refused("backup copy.db").contains("there is no ./flux.db"));
    assert_eq!(names(&empty.path("")).len(), 0);
    let other = Workdir::new();
    rusqlite::Connection::open(other.path("flux.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t (a)")
        .unwrap();
    assert!(other.refused("backup copy.db").contains("not a store of flux"));
}

#[test]
fn restore_refuses_invalid_backup_or_store_in_use() {
    let sale = sale_of(300);
    sale.run("backup copy.db");
    let workdir = sale_of(2);
    copy(&sale, "copy.db", &workdir, "copy.db");
    let whole = std::fs::read(workdir.path("copy.db")).unwrap();
    std::fs::write(workdir.path("short.db"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(workdir.path("text.db"), "no database at all").unwrap();
    let other = rusqlite::Connection::open(workdir.path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE t (a)").unwrap();
    let newer = rusqlite::Connection::open(workdir.path("newer.db")).unwrap();
    newer.execute_batch("PRAGMA application_id = 0x666c7578; PRAGMA user_version = 999").unwrap();
    let before = names(&workdir.path(""));
    for (file, part) in [
        ("nothing.db", "there is no file nothing.db"),
        ("short.db", "short.db cannot be restored"),
        ("text.db", "text.db cannot be restored"),
        ("other.db", "not a store of flux"),
        ("newer.db", "another version"),
        ("flux.db", "the store itself"),
        ("copy.db", "holds a sale: add --replace"),
    ] {
        let line = workdir.refused(&format!("restore {file}"));
        assert!(line.contains(part), "{line}");
    }
    {
        let (serve, _) = workdir.serve("");
        let line = workdir.refused("restore copy.db --replace");
        assert!(line.contains(&format!("flux serve (pid {}", serve.child.id())), "{line}");
        serve.signal("STOP");
        // Without a heartbeat, the process is found by its open connection.
        let file = rusqlite::Connection::open(workdir.path("flux.db")).unwrap();
        file.execute_batch("DELETE FROM pulses").unwrap();
        drop(file);
        let line = workdir.refused("restore copy.db --replace");
        assert!(line.contains("another program has ./flux.db open"), "{line}");
        serve.signal("CONT");
    }
    workdir.run("items list");
    assert_eq!(names(&workdir.path("")), before);
    assert_eq!(audited(&workdir)["orders"], 2);

    let printed = workdir.run("restore copy.db --replace");
    let former = printed.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(audited(&workdir)["orders"], 300);
    assert_eq!(audited(&workdir.with("FLUX_DATA", &former))["orders"], 2);

    // SQLite would apply a log without its file to the restored file.
    let stale = Workdir::new().with_file("flux.db-wal", "stale");
    copy(&sale, "copy.db", &stale, "copy.db");
    assert!(stale.refused("restore copy.db").contains("flux.db-wal is there already"));
}

#[test]
#[cfg(feature = "aws")]
fn backup_on_aws_refers_to_dynamodb() {
    let aws = Workdir::new().with("FLUX_BACKEND", "aws");
    for command in ["backup a.db", "restore a.db"] {
        assert!(aws.refused(command).contains("aws dynamodb create-backup"));
    }
}

/// The log of a killed process contains committed orders, so it is a part of the backup.
#[test]
fn file_copy_with_its_log_is_restored() {
    let sale = Workdir::new();
    sale.run("provision --item hall_A --stock 10");
    let (serve, address) = sale.serve("--workers 4");
    decided(&address, &buy(&address, "ann", "hall_A"));
    drop(serve);
    let workdir = Workdir::new();
    copy(&sale, "flux.db", &workdir, "copy.db");
    copy(&sale, "flux.db-wal", &workdir, "copy.db-wal");
    workdir.run("restore copy.db");
    assert_eq!(audited(&workdir)["orders"], 1);
}

#[test]
fn killed_restore_leaves_old_or_new_store() {
    let sale = sale_of(200);
    sale.run("backup copy.db");
    let workdir = sale_of(3);
    copy(&sale, "copy.db", &workdir, "copy.db");
    let mut was_restored = HashSet::new();
    for n in 0..24 {
        // The old store again, with a log that is not checkpointed.
        if audited(&workdir)["orders"] == 200 {
            let old = sale_of(3);
            let (serve, address) = old.serve("--workers 1");
            decided(&address, &buy(&address, "late", "hall_A"));
            drop(serve);
            for part in ["", "-wal", "-shm"] {
                copy(&old, &format!("flux.db{part}"), &workdir, &format!("flux.db{part}"));
            }
            let file = rusqlite::Connection::open(workdir.path("flux.db")).unwrap();
            file.execute_batch("DELETE FROM pulses").unwrap();
        }
        let mut restore = workdir.start("restore copy.db --replace");
        std::thread::sleep(Duration::from_millis(4 * n));
        restore.child.kill().unwrap();
        restore.end();
        let orders = audited(&workdir)["orders"].as_u64().unwrap();
        assert!([3, 4, 200].contains(&orders), "{orders}");
        was_restored.insert(orders == 200);
    }
    workdir.run("restore copy.db --replace");
    assert_eq!(audited(&workdir)["orders"], 200);
    println!("killed before and after: {was_restored:?}");
}

#[test]
fn store_in_use_needs_force_to_destroy() {
    let workdir = Workdir::new();
    workdir.run("provision --item hall_A --stock 10");
    let (serve, address) = workdir.serve("--workers 1");
    let work = workdir.start("work");
    let begun = Instant::now();
    let line = loop {
        let line = workdir.refused("provision --destroy --yes");
        if line.contains("flux work") {
            break line;
        }
        assert!(begun.elapsed() < PATIENCE, "{line}");
    };
    for process in [&serve, &work] {
        assert!(line.contains(&format!("(pid {} on ", process.child.id())), "{line}");
    }
    assert!(line.contains("--force"), "{line}");
    decided(&address, &buy(&address, "ann", "hall_A"));

    let output = workdir.command("provision --destroy --yes --force").output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && printed.contains("deleting although in use by"),
        "{printed}"
    );
    assert_eq!(names(&workdir.path("")).len(), 0);
    let begun = Instant::now();
    while http(&address, "GET /items", "").0 != 503 {
        assert!(begun.elapsed() < PATIENCE, "the server still works");
    }
    drop((serve, work));
    assert_eq!(workdir.run("provision --destroy --yes --force"), "./flux.db does not exist\n");

    // A file that is not a store may be in use, so it needs --force too.
    let workdir = Workdir::new().with_file("flux.db", "not a store");
    let line = workdir.refused("provision --destroy --yes");
    assert!(line.contains("not a store of flux") && line.contains("--force"), "{line}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn tables_in_use_need_force_to_destroy() {
    let redis = crate::conformance::address("FLUX_TEST_REDIS");
    let workdir = Workdir::on_aws().with("REDIS_URL", &redis);
    let (workdir, _) = super::story::provisioned(workdir, "");
    let (serve, address) = workdir.serve("--workers 1");
    let pid = serve.child.id();
    let begun = Instant::now();
    while !workdir
        .run(&format!("top --once --target http://{address}"))
        .contains(&format!(":{pid} ("))
    {
        assert!(begun.elapsed() < PATIENCE, "no heartbeat");
    }
    let line = workdir.refused("provision --destroy --yes");
    assert!(line.contains(&format!("in use by flux serve (pid {pid} on ")), "{line}");
    assert!(line.contains("--force"), "{line}");
    let without_heartbeats = workdir.with("REDIS_URL", "redis://127.0.0.1:1");
    let output = without_heartbeats.command("provision --destroy --yes").output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{printed}");
    assert!(
        printed.contains("processes of the sale are not known") && printed.contains("--force"),
        "{printed}"
    );
    let gone = without_heartbeats.run("provision --destroy --yes --force");
    assert_eq!(gone.matches("deleted").count(), 5, "{gone}");
}
