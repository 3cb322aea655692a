//! The run of `scripts/torture`: every fault, many times, each in a separate sale.

use std::any::Any;
use std::fmt::Display;
use std::time::Duration;

use tokio::task::JoinError;

use super::overload::{Abuse, Figures, abused};
use super::row::Row;
use super::{TestRng, cloud, embedded};

/// Kills per backend. The numbers of the other faults are in proportion to it.
const KILLS: &str = "FLUX_TORTURE_KILLS";
/// Part of the names of the faults to inject. All, if it is not set.
const ONLY: &str = "FLUX_TORTURE_ONLY";

/// Connections of the abused server.
const CONNECTIONS: &str = "FLUX_TORTURE_CONNECTIONS";

fn variable_or(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// Prints a row, or the failure instead. Returns whether the promises were kept.
fn print_row(fault: &str, ended: Result<Row, JoinError>) -> bool {
    let ended = ended.map(|row| Row { fault: fault.to_owned(), ..row });
    print_result(fault, ended, Row::holds)
}

fn print_result<T: Display>(
    what: &str,
    ended: Result<T, JoinError>,
    holds: impl FnOnce(&T) -> bool,
) -> bool {
    match ended {
        Ok(row) => {
            println!("{row}");
            holds(&row)
        }
        Err(e) => {
            let why = e.try_into_panic().unwrap_or_else(|e| Box::new(e.to_string()));
            let why = panic_message(&*why);
            let first = why.lines().next().unwrap_or_default();
            println!("| {what} | BROKE: {first:.300} |");
            false
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes: scripts/torture runs it"]
async fn every_fault_many_times() {
    let mut rng = TestRng::seeded();
    let kills: usize = variable_or(KILLS, "200").parse().expect("a number of kills");
    let only = variable_or(ONLY, "");
    println!("{}", Row::HEAD);
    let mut all_well = true;
    for (fault, name) in embedded::Fault::ALL {
        let name = format!("embedded: {name}");
        let mut rng = rng.fork();
        if name.contains(&only) {
            let run = async move { fault.inject(fault.times(kills), &mut rng).await };
            all_well &= print_row(&name, tokio::spawn(run).await);
        }
    }
    for (fault, name) in cloud::Fault::ALL {
        let name = format!("aws: {name}");
        let mut rng = rng.fork();
        if name.contains(&only) {
            let run = async move { fault.inject(fault.times(kills), &mut rng).await };
            all_well &= print_row(&name, tokio::spawn(run).await);
        }
    }
    assert!(all_well, "a promise broke");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: scripts/torture runs it"]
async fn every_abuse_by_ten_thousand() {
    let most: usize = variable_or(CONNECTIONS, "10000").parse().expect("a number of connections");
    let only = variable_or(ONLY, "");
    println!("{}", Figures::HEAD);
    let mut all_well = true;
    for abuse in Abuse::ALL {
        let name = format!("abuse: {}", abuse.1);
        if name.contains(&only) {
            // Two cores cannot serve as many clients if all of them are active.
            let connections = if abuse.0 == Abuse::Idle { most } else { most / 5 };
            let run = tokio::spawn(abused(abuse, connections, Duration::from_secs(15)));
            all_well &= print_result(&name, run.await, Figures::holds);
        }
    }
    assert!(all_well, "a promise broke");
}
