//! On one file: `flux serve`, with workers in it, and `flux work`.

use std::time::{Duration, Instant};

use super::buyers::{Crowd, ask};
use super::sale::Sale;
use super::{PATIENCE, Place, chance, pause_ms};

const BUYERS: usize = 12;

fn sale(environment: &[(&str, &str)], deciding: usize, workers: usize) -> Sale {
    let place = Place::new(environment);
    place.provision(&[]);
    Sale::start(place, deciding, workers)
}

/// Whether nobody can write.
async fn is_stuck(sale: &Sale) -> bool {
    let file = rusqlite::Connection::open(sale.place.path().join("flux.db")).unwrap();
    file.busy_timeout(Duration::from_millis(300)).unwrap();
    file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_sale_are_killed_at_any_instant_and_nothing_is_lost() {
    let mut sale = sale(&[("FLUX_LEASE_MS", "1000")], 2, 2);
    sale.is_open().await;
    let crowd = Crowd::gather(sale.port, BUYERS);
    let end = Instant::now() + Duration::from_secs(10);
    let mut stock = 7;
    while Instant::now() < end {
        pause_ms(20, 500).await;
        if chance(3) == 0 {
            stock += 10;
            let stock = stock.to_string();
            sale.place.run_well(&["provision", "--item", "hall_C", "--stock", &stock]);
        }
        let victim = chance(3) as usize;
        if chance(4) == 0 {
            sale.processes[victim].stop().await;
        } else {
            sale.processes[victim].kill();
        }
        pause_ms(1, 100).await;
        sale.processes[victim] = sale.process(victim);
    }
    sale.ends_well(crowd).await;
}

/// A worker that is stopped for longer than its claim and its lease comes back with orders in hand
/// that others have decided, and with what it knew of their items.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_for_longer_than_its_claim_does_no_harm() {
    let mut sale = sale(&[("FLUX_LEASE_MS", "500")], 0, 1);
    sale.is_open().await;
    let crowd = Crowd::gather(sale.port, BUYERS);
    pause_ms(300, 800).await;
    let stopped = Instant::now();
    sale.processes[1].signal(libc::SIGSTOP);
    // Should it be in the middle of a transaction, nobody can write: see ARCHITECTURE.md.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while is_stuck(&sale).await {
        sale.processes[1].signal(libc::SIGCONT);
        pause_ms(1, 50).await;
        sale.processes[1].signal(libc::SIGSTOP);
    }
    let others = sale.process(1);
    sale.processes.push(others);
    let before = crowd.memory.accepted();
    tokio::time::sleep(Duration::from_millis(6_500).saturating_sub(stopped.elapsed())).await;
    assert!(crowd.memory.accepted() > before, "the sale stood still");
    sale.processes[1].signal(libc::SIGCONT);
    pause_ms(100, 500).await;
    sale.processes[2].kill();
    pause_ms(500, 1_000).await;
    sale.processes[2] = sale.process(1);
    sale.ends_well(crowd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_under_load_leaves_nothing_in_its_hands() {
    let mut sale = sale(&[], 0, 1);
    sale.is_open().await;
    let crowd = Crowd::gather(sale.port, BUYERS);
    for _ in 0..3 {
        pause_ms(500, 1_000).await;
        sale.processes[1].stop().await;
        let file = rusqlite::Connection::open(sale.place.path().join("flux.db")).unwrap();
        let held = "SELECT (SELECT count(*) FROM locks)
            + (SELECT count(*) FROM items WHERE claimed_until > 0)";
        assert_eq!(file.query_row(held, [], |row| row.get(0)), Ok(0));
        sale.processes[1] = sale.process(1);
    }
    sale.ends_well(crowd).await;
}

/// While a process holds the file's one write lock, buyers are told to come again, in bounded time.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_transaction_makes_buyers_wait_a_bounded_time_and_loses_nothing() {
    let mut sale = sale(&[], 1, 1);
    sale.is_open().await;
    let stuck = rusqlite::Connection::open(sale.place.path().join("flux.db")).unwrap();
    let crowd = Crowd::gather(sale.port, 200);
    pause_ms(300, 800).await;
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
    // Some six seconds where nothing else keeps the machine busy.
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(25)), "{waits:?}");
    pause_ms(500, 1_000).await;
    sale.ends_well(crowd).await;
}
