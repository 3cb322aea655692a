//! Damaged files: each is refused, or the audit reports it, or the damage has no effect.

use std::time::Duration;

use serde_json::Value;

use super::TestRng;
use super::buyers::ask;
use super::embedded::sale;
use super::place::Place;
use super::row::Row;
use super::sale::Sale;

/// Damages `times` copies of the file of one sale.
pub async fn inject(times: usize, rng: &mut TestRng) -> Row {
    let mut sold = sale(&[], 2, 1);
    let crowd = sold.open_to(12, rng).await;
    rng.pause_ms(500, 1_500).await;
    let row = sold.end(crowd).await;
    for process in &mut sold.processes {
        process.stop().await;
    }
    let file = sold.place.path().join("flux.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    let whole = std::fs::read(file).unwrap();
    let truth = sold.place.audit();
    let mut lost = 0;
    for _ in 0..times {
        let place = Place::new(&[]);
        std::fs::write(place.path().join("flux.db"), damaged(whole.clone(), rng)).unwrap();
        lost += undetected(&place, &truth);
        sell_or_refuse(place).await;
    }
    Row { times, lost, ..row }
}

/// Overwrites one to four ranges of up to 600 bytes with random bytes.
fn damaged(mut bytes: Vec<u8>, rng: &mut TestRng) -> Vec<u8> {
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() as u64) as usize;
        let end = bytes.len().min(at + 1 + rng.below(600) as usize);
        rng.0.fill(&mut bytes[at..end]);
    }
    bytes
}

/// Number of orders that are missing from an audit without findings.
fn undetected(place: &Place, truth: &Value) -> usize {
    let output = place.run(&["audit", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            for figure in ["sold", "rejected", "undecided"] {
                assert_eq!(report[figure], truth[figure], "{report}");
            }
            let orders = |report: &Value| report["orders"].as_u64().unwrap() as usize;
            orders(truth).abs_diff(orders(&report))
        }
        Some(1 | 2) => {
            assert!(!said.contains("panicked"), "{said}");
            0
        }
        _ => panic!("{}: {said}", output.status),
    }
}

/// The processes must refuse to start, or sell what they can, and must not crash.
async fn sell_or_refuse(place: Place) {
    let mut sale = Sale::start(place, 1, 0);
    for buyer in 0..50 {
        let wish = format!(r#"{{"user_id":"late-{buyer}","item_id":"hall_A"}}"#);
        if let Some(reply) = ask(sale.port, "POST", "/buy", None, &wish).await {
            assert!([202, 503].contains(&reply.status), "{reply:?}");
        }
        if let Some(refused) = sale.processes[0].child.try_wait().unwrap() {
            assert_eq!(refused.code(), Some(2), "{}", sale.processes[0].said());
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(sale.place.logged("panicked"), [""; 0]);
}
