//! Fault injection on the embedded backend: `flux serve` with workers, and `flux work`, on one file.

use std::time::{Duration, Instant};

use flux::core::model::{Clock, SystemClock};
use rustix::process::Signal;

use super::buyers::ask;
use super::disk::{Disk, limit_files};
use super::place::Place;
use super::row::Row;
use super::sale::Sale;
use super::{PATIENCE, TestRng, damage};

const BUYERS: usize = 12;

/// The faults of a sale on the embedded backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Killed,
    Stopped,
    ToldToStop,
    DiskFull,
    FilesLimited,
    Damaged,
}

impl Fault {
    pub const ALL: [(Fault, &str); 6] = [
        (Fault::Killed, "SIGKILL of serve or work"),
        (Fault::Stopped, "SIGSTOP of serve or work, past claim and lease"),
        (Fault::ToldToStop, "SIGTERM of serve or work"),
        (Fault::DiskFull, "disk full"),
        (Fault::FilesLimited, "writes fail (file size limit)"),
        (Fault::Damaged, "file damaged (copies)"),
    ];

    /// How often the fault is injected in a run with this number of kills.
    pub fn times(self, kills: usize) -> usize {
        let share = match self {
            Fault::Killed => 1,
            Fault::ToldToStop | Fault::Damaged => 4,
            Fault::DiskFull | Fault::FilesLimited => 10,
            Fault::Stopped => 20,
        };
        kills.div_ceil(share)
    }

    /// Injects the fault into a new sale, `times` times.
    pub async fn inject(self, times: usize, rng: &mut TestRng) -> Row {
        if self == Fault::Damaged {
            return damage::inject(times, rng).await;
        }
        let lease = [("FLUX_LEASE_MS", "1000")];
        let (mut sale, disk) = match self {
            Fault::ToldToStop => (sale(&[], 0, 1), None),
            Fault::DiskFull => {
                let disk = Disk::mount();
                let place = Place::new_in(disk.path(), &lease);
                (sale_at(place, 2, 2), Some(disk))
            }
            _ => (sale(&lease, 2, 2), None),
        };
        let crowd = sale.open_to(BUYERS, rng).await;
        let mut left_behind = 0;
        for _ in 0..times {
            rng.pause_ms(20, 500).await;
            let victim = rng.below(sale.processes.len() as u64) as usize;
            match (self, &disk) {
                (Fault::Stopped, _) => {
                    sale.processes[victim].signal(Signal::STOP);
                    rng.pause_ms(5_500, 7_000).await;
                    sale.processes[victim].signal(Signal::CONT);
                }
                (Fault::ToldToStop, _) => {
                    let victim = usize::from(!rng.once_in(4));
                    sale.processes[victim].stop().await;
                    left_behind += if victim == 0 { 0 } else { held_claims_and_locks(&sale) };
                    sale.restart(victim);
                }
                (Fault::DiskFull, Some(disk)) => {
                    let ballast = disk.fill();
                    crowd.is_refused().await;
                    rng.pause_ms(500, 3_000).await;
                    drop(ballast);
                    rng.pause_ms(500, 1_500).await;
                }
                (Fault::FilesLimited, _) => {
                    limit_files(&sale.processes, Some(rng.below(64 * 1024)));
                    crowd.is_refused().await;
                    rng.pause_ms(200, 2_000).await;
                    limit_files(&sale.processes, None);
                    rng.pause_ms(500, 1_500).await;
                }
                _ => kill(&mut sale, victim, rng).await,
            }
        }
        let redelivered = (self == Fault::ToldToStop).then_some(left_behind);
        Row { times, redelivered, ..sale.end(crowd).await }
    }
}

/// Starts a sale on one file. `serve` has `deciding` workers.
pub fn sale(environment: &[(&str, &str)], deciding: usize, workers: usize) -> Sale {
    sale_at(Place::new(environment), deciding, workers)
}

fn sale_at(place: Place, deciding: usize, workers: usize) -> Sale {
    place.provision(&[]);
    Sale::start(place, deciding, workers)
}

/// A kill and, sometimes, a restock.
async fn kill(sale: &mut Sale, victim: usize, rng: &mut TestRng) {
    if rng.once_in(3) {
        sale.restock();
    }
    sale.processes[victim].kill();
    rng.pause_ms(1, 100).await;
    sale.restart(victim);
}

/// Number of claims and locks that were not released, and for which others would have to wait.
fn held_claims_and_locks(sale: &Sale) -> usize {
    let file = rusqlite::Connection::open(sale.place.path().join("flux.db")).unwrap();
    let held = "SELECT (SELECT count(*) FROM locks WHERE until > ?1)
        + (SELECT count(*) FROM items WHERE claimed_until > ?1)";
    file.query_row(held, [SystemClock.now().0], |row| row.get(0)).unwrap()
}

/// Whether a process holds the file's write lock.
async fn is_stuck(sale: &Sale) -> bool {
    let file = rusqlite::Connection::open(sale.place.path().join("flux.db")).unwrap();
    file.busy_timeout(Duration::from_millis(300)).unwrap();
    file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err()
}

async fn survives(fault: Fault, times: usize) -> Row {
    let row = fault.inject(times, &mut TestRng::seeded()).await;
    println!("{row}");
    assert!(row.holds(), "{row}");
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_lose_nothing() {
    survives(Fault::Killed, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_worker_leaves_nothing_in_flight() {
    assert_eq!(survives(Fault::ToldToStop, 12).await.redelivered, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_rejects_buyers_and_loses_nothing() {
    assert!(survives(Fault::FilesLimited, 2).await.refused > 0, "it had no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_file_is_detected() {
    survives(Fault::Damaged, 8).await;
}

/// A worker that is suspended for longer than its claim and its lease resumes with orders in flight
/// that others have decided, and with outdated items.
#[tokio::test(flavor = "multi_thread")]
async fn worker_paused_beyond_its_claim_does_no_harm() {
    let mut rng = TestRng::seeded();
    let mut sale = sale(&[("FLUX_LEASE_MS", "500")], 0, 1);
    let crowd = sale.open_to(BUYERS, &mut rng).await;
    rng.pause_ms(300, 800).await;
    let stopped = Instant::now();
    sale.processes[1].signal(Signal::STOP);
    // If it is suspended inside a transaction, nobody can write: see ARCHITECTURE.md.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while is_stuck(&sale).await {
        sale.processes[1].signal(Signal::CONT);
        rng.pause_ms(1, 50).await;
        sale.processes[1].signal(Signal::STOP);
    }
    let others = sale.process(1);
    sale.processes.push(others);
    let before = crowd.memory.accepted();
    tokio::time::sleep(Duration::from_millis(6_500).saturating_sub(stopped.elapsed())).await;
    assert!(crowd.memory.accepted() > before, "the sale stood still");
    sale.processes[1].signal(Signal::CONT);
    rng.pause_ms(100, 500).await;
    sale.processes[2].kill();
    rng.pause_ms(500, 1_000).await;
    sale.processes[2] = sale.process(1);
    let row = sale.end(crowd).await;
    assert!(row.holds(), "{row}");
}

/// While a process holds the file's write lock, buyers get a 503 within a bounded time.
#[tokio::test(flavor = "multi_thread")]
async fn stuck_transaction_delays_buyers_boundedly() {
    let mut rng = TestRng::seeded();
    let mut sale = sale(&[], 1, 1);
    let stuck = rusqlite::Connection::open(sale.place.path().join("flux.db")).unwrap();
    let crowd = sale.open_to(200, &mut rng).await;
    rng.pause_ms(300, 800).await;
    stuck.busy_timeout(PATIENCE).unwrap();
    stuck.execute_batch("BEGIN IMMEDIATE").unwrap();
    let until = Instant::now() + Duration::from_secs(9);
    let mut waits = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        let wish = r#"{"user_id":"late","item_id":"hall_A"}"#;
        let reply = ask(sale.port, "POST", "/buy", None, wish).await.unwrap();
        assert_eq!((reply.status, reply.retry_after.as_deref()), (503, Some("1")), "{reply:?}");
        waits.push(begun.elapsed());
        let shown = ask(sale.port, "GET", "/items/hall_A", None, "").await.unwrap();
        assert_eq!(shown.status, 200, "reading goes on");
    }
    sale.place.run_well(&["audit"]);
    drop(stuck);
    println!("waits {waits:?}");
    // About six seconds on an idle machine.
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(25)), "{waits:?}");
    rng.pause_ms(500, 1_000).await;
    let row = sale.end(crowd).await;
    assert!(row.holds(), "{row}");
}
