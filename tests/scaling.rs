//! Computes the tables of docs/scaling.md, and fails if the document has other values.
//!
//! The document explains the formulas and the source of each number. Two simulations check what a
//! formula alone would assume: a queue that is served 99 orders at a time, and several workers that
//! decide one item without a lock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const DOCUMENT: &str = include_str!("../docs/scaling.md");

/// Orders per commit, and per message.
const COMMIT: usize = 99;
/// Duration of a commit in the examples, in seconds: assumed, not measured on AWS.
const COMMIT_S: f64 = 0.020;
/// Duration of an SQS request and of a read in the examples, in seconds: assumed.
const CALL_S: f64 = 0.010;
/// Concurrent sends of an API process.
const SENDS: f64 = 8.0;
/// Orders per second that an API process accepts: assumed.
const ACCEPTED_PER_PROCESS: f64 = 20_000.0;
/// Orders per second that a worker process decides: assumed.
const DECIDED_PER_PROCESS: f64 = 3_000.0;
/// Seconds between the end of a worker's commit and the start of its next: assumed.
const GAP_S: f64 = 0.002;
/// Seconds to release a lock and to acquire it in another worker: assumed.
const LOCK_CALL_S: f64 = 0.003;
const ITEMS: f64 = 100.0;
const STOCK: f64 = 1_000.0;
const WRITE_UNITS: f64 = 2.0;
const UNITS_PER_PARTITION: f64 = 1_000.0;
const TABLE_QUOTA: f64 = 40_000.0;
const SQS_USD: f64 = 0.50e-6;
const WRITE_USD: f64 = 0.625e-6;
const READ_USD: f64 = 0.125e-6;

/// A deterministic random number generator (Steele, Lea, Flood: SplitMix64). Not fastrand, because
/// the figures in docs/scaling.md depend on the generator.
struct Rng(u64);

impl Rng {
    /// Uniform, above 0 and at most 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed.
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    /// Uniform, from 0.5 to 1.5 times the mean.
    fn around(&mut self, mean: f64) -> f64 {
        mean * (0.5 + self.uniform())
    }
}

fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn assert_document_has(table: &[String]) {
    let table = table.join("\n");
    assert!(DOCUMENT.contains(&table), "docs/scaling.md does not contain this:\n\n{table}\n");
}

/// One row per part, with its figures at 1, 10, 100 and 1,000 times 1,000 buyers per second.
#[test]
fn parts_at_each_scale() {
    let rates = [1e3, 1e4, 1e5, 1e6];
    let row = |name: &str, value: &dyn Fn(f64) -> f64, format: &dyn Fn(f64) -> String| {
        let cells: Vec<String> = rates.iter().map(|rate| format(value(*rate))).collect();
        format!("| {name} | {} |", cells.join(" | "))
    };
    let plain = |number: f64| grouped(number);
    let tenth = |number: f64| format!("{number:.1}");
    let api = |rate: f64| (rate / ACCEPTED_PER_PROCESS).ceil();
    let per_request = |rate: f64| (rate / api(rate) * CALL_S / SENDS).max(1.0);
    let requests = |rate: f64| rate / per_request(rate);
    let units = |rate: f64| rate * WRITE_UNITS;
    assert_document_has(&[
        "| | 1x | 10x | 100x | 1,000x |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
        row("orders a second, total", &|rate| rate, &plain),
        row("orders a second, each of 100 items", &|rate| rate / ITEMS, &plain),
        row("API processes at 20,000/s", &api, &plain),
        row("orders in a send request, minimum", &per_request, &tenth),
        row("SQS sends a second, maximum", &requests, &plain),
        row("worker processes at 3,000/s", &|rate| (rate / DECIDED_PER_PROCESS).ceil(), &plain),
        row("write units a second", &units, &plain),
        row("order partitions", &|rate| (units(rate) / UNITS_PER_PARTITION).ceil(), &plain),
        row("write units / default table quota", &|rate| units(rate) / TABLE_QUOTA, &|part| {
            format!("{part:.2}")
        }),
        row(
            "notifications from Redis, MB/s",
            &|rate| 16.0 * rate * api(rate) / 1e6,
            &|megabytes| format!("{megabytes:.2}"),
        ),
        row("SET a second, every order keyed", &|rate| rate, &plain),
        row("dollars a second, DynamoDB writes", &|rate| units(rate) * WRITE_USD, &|usd| {
            format!("{usd:.4}")
        }),
    ]);
}

/// Throughput of one item by the duration of a commit.
#[test]
fn one_hot_item_by_commit_time() {
    let mut table = vec![
        "| commit | sold orders a second, one hot item | time to sell 1,000 units | item row's write units a second |"
            .to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for commit_ms in [2.0, 5.0, 10.0, 20.0, 50.0] {
        let commits = 1_000.0 / commit_ms;
        let sold = commits * COMMIT as f64;
        let out = (STOCK / COMMIT as f64).ceil() * commit_ms;
        let row = commits * WRITE_UNITS;
        table.push(format!(
            "| {commit_ms:.0} ms | {} | {out:.0} ms | {} |",
            grouped(sold),
            grouped(row)
        ));
    }
    assert_document_has(&table);
    let limit_s = WRITE_UNITS / UNITS_PER_PARTITION;
    assert_eq!(limit_s, 0.002, "below this commit time the item row's partition is the limit");
}

/// Dollars per million orders, by the size of messages and commits.
#[test]
fn cost_of_a_million_orders() {
    // Name, then per order: SQS requests, write units, read units.
    let cases = [
        ("one order per message, lock and commit", 3.0, 4.0, 1.0),
        ("64 connections, measured", 0.3748, 2.0032, 0.0172),
        ("512 connections, measured", 0.0537, 2.0014, 0.0027),
        // 990 orders of about 150 bytes are billed as three requests to send and three to receive.
        ("every message and commit full", 7.0 / 990.0, 200.0 / 99.0, 0.0),
        ("every buyer polls three times", 0.0537, 2.0014, 3.0027),
    ];
    let mut table = vec![
        "| | SQS | DynamoDB writes | reads | total |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for (name, requests, writes, reads) in cases {
        let million = 1e6;
        let parts = [requests * SQS_USD, writes * WRITE_USD, reads * READ_USD].map(|p| p * million);
        let [sqs, writes, reads] = parts.map(|usd| format!("${usd:.3}"));
        let sum: f64 = parts.iter().sum();
        table.push(format!("| {name} | {sqs} | {writes} | {reads} | ${sum:.2} |"));
    }
    assert_document_has(&table);
}

/// The result of a simulated queue.
struct QueueResult {
    commits: usize,
    /// Seconds from arrival to decision, per order.
    waits: Vec<f64>,
}

impl QueueResult {
    fn wait(&self, quantile: f64) -> f64 {
        let mut sorted = self.waits.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * quantile) as usize]
    }
}

/// Simulates one item with one worker: orders arrive at random, and each commit decides all that
/// have arrived, 99 at most.
fn simulate_queue(load: f64, orders: usize) -> QueueResult {
    let mut rng = Rng(1);
    let gap = COMMIT_S / (load * COMMIT as f64);
    let mut clock = 0.0;
    let arrivals: Vec<f64> = (0..orders)
        .map(|_| {
            clock += rng.exponential(gap);
            clock
        })
        .collect();
    let mut done = 0;
    let mut free_at = 0.0_f64;
    let mut result = QueueResult { commits: 0, waits: Vec::with_capacity(orders) };
    while done < orders {
        let begins = free_at.max(arrivals[done]);
        let batch = arrivals[done..].iter().take(COMMIT).take_while(|at| **at <= begins).count();
        free_at = begins + rng.around(COMMIT_S);
        result.waits.extend(arrivals[done..done + batch].iter().map(|at| free_at - at));
        result.commits += 1;
        done += batch;
    }
    result
}

#[test]
fn queue_served_99_at_a_time() {
    let mut table = vec![
        "| load | orders a commit | time to decision, median | p99 | write units an order |"
            .to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for load in [0.05, 0.25, 0.50, 0.80, 0.95] {
        let orders = 400_000;
        let result = simulate_queue(load, orders);
        let batch = orders as f64 / result.commits as f64;
        let median = result.wait(0.5) / COMMIT_S;
        let p99 = result.wait(0.99) / COMMIT_S;
        let units = WRITE_UNITS * (1.0 + 1.0 / batch);
        table.push(format!("| {load:.2} | {batch:.0} | {median:.1} | {p99:.1} | {units:.2} |"));
    }
    assert_document_has(&table);
    // At a load above 1, more than 99 orders arrive per commit, and the queue grows without bound.
    let overload = simulate_queue(1.1, 100_000);
    assert!(overload.wait(0.99) > 50.0 * COMMIT_S && overload.commits <= 100_000 / COMMIT + 100);
}

/// The result of workers that decide one item without a lock.
struct Contention {
    /// Orders decided per second.
    per_second: f64,
    /// Write units per order.
    units: f64,
}

/// Simulates workers of one item, each with full batches and without a lock. A worker reads the
/// item, then commits on the condition that the version is unchanged. The commit is cancelled if
/// another one of the item is in progress, or if the version has changed. Cancelled commits are
/// billed too. After a conflict the worker pauses (up to 25 ms, doubled each time); after a changed
/// version it reads again.
fn simulate_contention(workers: usize, seconds: f64) -> Contention {
    enum Step {
        Read,
        Begin { version: u64, tries: i32 },
        End { version: u64 },
    }
    let mut rng = Rng(2);
    let mut version = 0;
    let mut busy = false;
    let mut decided = 0;
    let mut billed_rows = 0;
    // The next step of each worker, and its time in nanoseconds.
    let mut steps: Vec<Step> = (0..workers).map(|_| Step::Read).collect();
    let mut next: BinaryHeap<Reverse<(u64, usize)>> =
        (0..workers).map(|worker| Reverse((worker as u64, worker))).collect();
    let end = (seconds * 1e9) as u64;
    while let Some(Reverse((now, worker))) = next.pop().filter(|Reverse((now, _))| *now < end) {
        let (step, duration) = match steps[worker] {
            Step::Read => (Step::Begin { version, tries: 0 }, rng.around(CALL_S / 2.0)),
            Step::Begin { version: read, tries } if busy => {
                billed_rows += COMMIT + 1;
                let pause = (0.025 * 2.0_f64.powi(tries)).min(1.0) * rng.uniform();
                (Step::Begin { version: read, tries: tries + 1 }, pause)
            }
            Step::Begin { version: read, .. } => {
                busy = read == version;
                billed_rows += COMMIT + 1;
                (Step::End { version: read }, rng.around(COMMIT_S))
            }
            Step::End { version: read } if read == version => {
                version += 1;
                busy = false;
                decided += COMMIT;
                // The worker knows the item that it wrote, and does not read it.
                (Step::Begin { version, tries: 0 }, rng.around(GAP_S))
            }
            Step::End { .. } => (Step::Read, 0.0),
        };
        steps[worker] = step;
        next.push(Reverse((now + (duration * 1e9) as u64 + 1, worker)));
    }
    Contention {
        per_second: decided as f64 / seconds,
        units: billed_rows as f64 * WRITE_UNITS / decided as f64,
    }
}

#[test]
fn workers_of_one_item_without_lock() {
    let mut table = vec![
        "| workers | decided a second | write units an order |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for workers in [1, 2, 4, 8, 16] {
        let Contention { per_second, units } = simulate_contention(workers, 200.0);
        // Rounded to hundreds; lower digits depend on the seed.
        let per_second = grouped((per_second / 100.0).round() * 100.0);
        table.push(format!("| {workers} | {per_second} | {units:.1} |"));
    }
    assert_document_has(&table);
}

/// Seconds until the stock is sold if an item's orders are distributed evenly among the workers,
/// which take turns with its lock. A turn ends after `turn` commits, after 200 ms, or when the
/// worker has no orders.
fn sold_out_after(workers: usize, rate: f64, turn: usize) -> f64 {
    let mut rng = Rng(3);
    let mut decided = vec![0.0; workers];
    let mut clock = 0.0;
    let mut sold = 0.0;
    while sold < STOCK {
        clock += rng.around(LOCK_CALL_S);
        let worker = (rng.uniform() * workers as f64) as usize % workers;
        let turn_ends = clock + 0.200;
        for _ in 0..turn {
            let arrived = rate * clock / workers as f64;
            let batch = (arrived - decided[worker]).floor().min(COMMIT as f64);
            if batch < 1.0 || clock >= turn_ends {
                break;
            }
            decided[worker] += batch;
            sold += batch;
            clock += rng.around(COMMIT_S);
        }
    }
    clock
}

#[test]
fn one_items_orders_spread_over_workers() {
    let mut table = vec![
        "| workers | sold out after | with turns of one commit |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for workers in [1, 4, 16, 64, 334] {
        let [as_is, short] = [10, 1].map(|turn| sold_out_after(workers, 10_000.0, turn));
        table.push(format!("| {workers} | {as_is:.1} s | {short:.1} s |"));
    }
    assert_document_has(&table);
}
