//! Runs the production pipeline, from intake to acknowledgement, on one thread and simulated time,
//! over simulated services that fail in every way that the real ones may.
//!
//! A run is determined by its seed: the same seed gives the same faults, stocks, buyers and delays,
//! until a change of the code draws more or fewer random numbers. So the sequences that a seed
//! found are also written down, step by step, in `scripted`.

mod auditor;
mod buyers;
mod faithful;
mod guards;
mod ledger;
mod lock;
mod messages;
mod outbox;
mod process;
mod queue;
mod scenario;
mod scripted;
mod store;
mod world;

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use guards::Guard;
use scenario::{Report, run};
use world::{Fault, Happened};

/// The totals of many runs.
#[derive(Debug, Default)]
struct RunTotals {
    runs: u64,
    orders: u64,
    sold: u64,
    inversions: u64,
    happened: Happened,
    failed: Vec<(u64, Vec<String>)>,
}

impl fmt::Display for RunTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.runs;
        let broken = self.failed.len();
        write!(f, "{runs} seeds, {broken} of them broke a promise; {} orders, ", self.orders)?;
        writeln!(f, "{} sold, {} out of order on a standard queue", self.sold, self.inversions)?;
        let faults = Fault::ALL.iter().map(|fault| (fault, self.happened[*fault as usize]));
        let faults: Vec<String> = faults.map(|(fault, n)| format!("{fault:?} {n}")).collect();
        write!(f, "{}", faults.join(", "))
    }
}

impl RunTotals {
    fn add(&mut self, seed: u64, report: Report) {
        self.runs += 1;
        self.orders += report.orders;
        self.sold += report.sold;
        self.inversions += report.inversions;
        self.happened.iter_mut().zip(report.happened).for_each(|(sum, one)| *sum += one);
        if self.runs.is_multiple_of(1_000) {
            eprintln!("{} seeds", self.runs);
        }
        if !report.wrong.is_empty() {
            eprintln!("seed {seed}: {}", report.wrong.join("\n  "));
            eprintln!("repeat it with: scripts/simulate --from {seed} --seeds 1 --trace");
            self.failed.push((seed, report.wrong));
        }
    }
}

/// Runs every seed, on as many threads as there are cores.
fn run_all(seeds: Range<u64>) -> RunTotals {
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new(RunTotals::default());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let report = run(seed, None);
                    totals.lock().unwrap().add(seed, report);
                }
            });
        }
    });
    totals.into_inner().unwrap()
}

#[test]
fn a_thousand_seeds_break_no_promise() {
    let totals = run_all(0..1_000);
    assert_eq!(totals.failed, []);
    assert!(totals.sold > 1_000 && totals.orders > 5_000, "{totals:?}");
    let never = Fault::ALL.into_iter().filter(|fault| totals.happened[*fault as usize] < 10);
    assert_eq!(never.collect::<Vec<_>>(), []);
}

#[test]
fn the_loss_of_each_guard_is_found() {
    let missed = Guard::ALL.into_iter().filter(|guard| guards::first_found(*guard).is_none());
    assert_eq!(missed.collect::<Vec<_>>(), []);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..40 {
        let one = run(seed, None).trace;
        let other = run(seed, None).trace;
        let differs = one.iter().zip(&other).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.len(), other.len(), "seed {seed}");
    }
}

/// What `scripts/simulate` runs.
#[test]
#[ignore = "run by scripts/simulate"]
fn simulate() {
    let number = |name: &str, or: u64| {
        std::env::var(name).map_or(or, |text| text.parse().expect("a whole number"))
    };
    let from = number("SIMULATE_FROM", 0);
    let seeds = number("SIMULATE_SEEDS", 1_000);
    if std::env::var_os("SIMULATE_TRACE").is_some() {
        for seed in from..from + seeds {
            run(seed, None).trace.iter().for_each(|line| println!("{line}"));
        }
        return;
    }
    if std::env::var_os("SIMULATE_GUARDS").is_some() {
        return println!("{}", guards::table());
    }
    let begun = std::time::Instant::now();
    let totals = run_all(from..from + seeds);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{totals}");
    println!("{seconds:.0} s, {:.0} seeds a second", seeds as f64 / seconds);
    assert_eq!(totals.failed, []);
}
