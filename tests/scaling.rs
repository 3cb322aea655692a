//! Computes the tables of docs/scaling.md, and fails if the document has other values.
//!
//! The document explains the formulas and the source of each number. Two simulations check what a
//! formula alone would assume: a queue that is served 99 orders at a time, and several workers that
//! decide one item without a lock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const DOCUMENT: &str = include_str!("../docs/scaling.md");

/// Orders in a commit, and in a message.
const COMMIT: usize = 99;
/// A commit's time in the examples, in seconds: assumed, not measured on AWS.
const COMMIT_S: f64 = 0.020;
/// An SQS request's and a read's time in the examples, in seconds: assumed.
const CALL_S: f64 = 0.010;
/// Sends of an API process that are on their way at once.
const SENDS: f64 = 8.0;
/// Orders that an API process takes in a second, and that a worker decides: assumed.
const TAKEN_PER_PROCESS: f64 = 20_000.0;
const DECIDED_PER_PROCESS: f64 = 3_000.0;
/// From the end of a commit on the server to the begin of the same decider's next: assumed.
const GAP_S: f64 = 0.002;
/// A lock's acquiring and releasing, until the next has it: assumed.
const LOCK_CALL_S: f64 = 0.003;
const ITEMS: f64 = 100.0;
const STOCK: f64 = 1_000.0;
const WRITE_UNITS: f64 = 2.0;
const UNITS_PER_PARTITION: f64 = 1_000.0;
const TABLE_QUOTA: f64 = 40_000.0;
const SQS_USD: f64 = 0.50e-6;
const WRITE_USD: f64 = 0.625e-6;
const READ_USD: f64 = 0.125e-6;

/// A small generator of the same numbers each time (Steele, Lea, Flood: SplitMix64). Not fastrand:
/// with it the figures in docs/scaling.md would be others.
struct Chance(u64);

impl Chance {
    /// Above 0, and at most 1.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Of an exponential distribution.
    fn pause(&mut self, mean: f64) -> f64 {
        -mean * self.part().ln()
    }

    /// Between half of it and one and a half.
    fn about(&mut self, mean: f64) -> f64 {
        mean * (0.5 + self.part())
    }
}

fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn document_has(table: &[String]) {
    let table = table.join("\n");
    assert!(DOCUMENT.contains(&table), "docs/scaling.md does not have this:\n\n{table}\n");
}

/// One row per part: how it looks at 1, 10, 100 and 1,000 times 1,000 buyers a second.
#[test]
fn parts_at_each_scale() {
    let rates = [1e3, 1e4, 1e5, 1e6];
    let row = |name: &str, value: &dyn Fn(f64) -> f64, shown: &dyn Fn(f64) -> String| {
        let cells: Vec<String> = rates.iter().map(|rate| shown(value(*rate))).collect();
        format!("| {name} | {} |", cells.join(" | "))
    };
    let plain = |number: f64| grouped(number);
    let tenth = |number: f64| format!("{number:.1}");
    let api = |rate: f64| (rate / TAKEN_PER_PROCESS).ceil();
    let per_request = |rate: f64| (rate / api(rate) * CALL_S / SENDS).max(1.0);
    let requests = |rate: f64| rate / per_request(rate);
    let units = |rate: f64| rate * WRITE_UNITS;
    document_has(&[
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

/// How fast one item goes, by the time a commit takes.
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
    document_has(&table);
    let limit_s = WRITE_UNITS / UNITS_PER_PARTITION;
    assert_eq!(limit_s, 0.002, "below this commit time the item row's partition is the limit");
}

/// Dollars per million orders, by how full the messages and commits are.
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
    document_has(&table);
}

/// What a simulated line saw: orders decided, commits, and each order's time in seconds.
struct Line {
    commits: usize,
    waits: Vec<f64>,
}

impl Line {
    fn wait(&self, part: f64) -> f64 {
        let mut sorted = self.waits.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * part) as usize]
    }
}

/// One item, one decider: orders come at random, and each commit takes all that are there, 99 at
/// most.
fn one_lane(load: f64, orders: usize) -> Line {
    let mut chance = Chance(1);
    let gap = COMMIT_S / (load * COMMIT as f64);
    let mut clock = 0.0;
    let arrivals: Vec<f64> = (0..orders)
        .map(|_| {
            clock += chance.pause(gap);
            clock
        })
        .collect();
    let (mut done, mut free_at) = (0, 0.0_f64);
    let mut line = Line { commits: 0, waits: Vec::with_capacity(orders) };
    while done < orders {
        let begins = free_at.max(arrivals[done]);
        let here = arrivals[done..].iter().take(COMMIT).take_while(|at| **at <= begins).count();
        free_at = begins + chance.about(COMMIT_S);
        line.waits.extend(arrivals[done..done + here].iter().map(|at| free_at - at));
        line.commits += 1;
        done += here;
    }
    line
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
        let line = one_lane(load, orders);
        let full = orders as f64 / line.commits as f64;
        let (median, p99) = (line.wait(0.5) / COMMIT_S, line.wait(0.99) / COMMIT_S);
        let units = WRITE_UNITS * (1.0 + 1.0 / full);
        table.push(format!("| {load:.2} | {full:.0} | {median:.1} | {p99:.1} | {units:.2} |"));
    }
    document_has(&table);
    // Above 1 the line grows without end: what comes is more than 99 a commit.
    let over = one_lane(1.1, 100_000);
    assert!(over.wait(0.99) > 50.0 * COMMIT_S && over.commits <= 100_000 / COMMIT + 100);
}

/// What deciders without a lock did: orders decided a second, and write units an order.
struct Contention {
    per_second: f64,
    units: f64,
}

/// Deciders of one item, each with full batches and no lock. One reads the item, then commits
/// under the version it read; a commit is cancelled when another of the item is on its way, or when
/// the version moved since the read. Both are paid. After a conflict it pauses (up to 25 ms,
/// doubled each time), after a moved version it reads again.
fn without_a_lock(deciders: usize, seconds: f64) -> Contention {
    enum Step {
        Read,
        Begin { version: u64, tries: i32 },
        End { version: u64 },
    }
    let mut chance = Chance(2);
    let mut version = 0;
    let mut busy = false;
    let (mut decided, mut paid) = (0, 0);
    // Nanoseconds, who, and what happens then.
    let mut steps: Vec<Step> = (0..deciders).map(|_| Step::Read).collect();
    let mut next: BinaryHeap<Reverse<(u64, usize)>> =
        (0..deciders).map(|who| Reverse((who as u64, who))).collect();
    let end = (seconds * 1e9) as u64;
    while let Some(Reverse((now, who))) = next.pop().filter(|Reverse((now, _))| *now < end) {
        let (step, takes) = match steps[who] {
            Step::Read => (Step::Begin { version, tries: 0 }, chance.about(CALL_S / 2.0)),
            Step::Begin { version: read, tries } if busy => {
                paid += COMMIT + 1;
                let pause = (0.025 * 2.0_f64.powi(tries)).min(1.0) * chance.part();
                (Step::Begin { version: read, tries: tries + 1 }, pause)
            }
            Step::Begin { version: read, .. } => {
                busy = read == version;
                paid += COMMIT + 1;
                (Step::End { version: read }, chance.about(COMMIT_S))
            }
            Step::End { version: read } if read == version => {
                (version, busy) = (version + 1, false);
                decided += COMMIT;
                // It knows the item as it wrote it.
                (Step::Begin { version, tries: 0 }, chance.about(GAP_S))
            }
            Step::End { .. } => (Step::Read, 0.0),
        };
        steps[who] = step;
        next.push(Reverse((now + (takes * 1e9) as u64 + 1, who)));
    }
    Contention {
        per_second: decided as f64 / seconds,
        units: paid as f64 * WRITE_UNITS / decided as f64,
    }
}

#[test]
fn workers_of_one_item_without_lock() {
    let mut table = vec![
        "| workers | decided a second | write units an order |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for deciders in [1, 2, 4, 8, 16] {
        let Contention { per_second, units } = without_a_lock(deciders, 200.0);
        // To hundreds: the rest is chance.
        let per_second = grouped((per_second / 100.0).round() * 100.0);
        table.push(format!("| {deciders} | {per_second} | {units:.1} |"));
    }
    document_has(&table);
}

/// Seconds until the stock is sold when an item's orders come evenly to so many workers, who take
/// turns with its lock: a turn is so many commits or 200 ms at most, and ends when nothing is left.
fn sold_out_after(workers: usize, rate: f64, turn: usize) -> f64 {
    let mut chance = Chance(3);
    let mut taken = vec![0.0; workers];
    let (mut clock, mut sold) = (0.0, 0.0);
    while sold < STOCK {
        clock += chance.about(LOCK_CALL_S);
        let worker = (chance.part() * workers as f64) as usize % workers;
        let turn_ends = clock + 0.200;
        for _ in 0..turn {
            let here = (rate * clock / workers as f64 - taken[worker]).floor().min(COMMIT as f64);
            if here < 1.0 || clock >= turn_ends {
                break;
            }
            taken[worker] += here;
            sold += here;
            clock += chance.about(COMMIT_S);
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
    document_has(&table);
}
