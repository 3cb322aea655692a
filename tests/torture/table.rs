//! The whole run behind `scripts/torture`: every fault, many times, each in a sale of its own.

use std::any::Any;
use std::fmt::Display;
use std::time::Duration;

use tokio::task::JoinError;

use super::overload::{Abuse, Figures, abused};
use super::row::Row;
use super::{Chance, cloud, embedded};

/// Kills per backend; the other faults come in proportion.
const KILLS: &str = "FLUX_TORTURE_KILLS";
/// Part of the names of the faults that are wanted; all without.
const ONLY: &str = "FLUX_TORTURE_ONLY";

/// Connections of the abused server.
const CONNECTIONS: &str = "FLUX_TORTURE_CONNECTIONS";

fn told(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// Prints a row, or in its place what broke; whether the promises held.
fn say(fault: &str, ended: Result<Row, JoinError>) -> bool {
    let ended = ended.map(|row| Row { fault: fault.to_owned(), ..row });
    tell(fault, ended, Row::is_well)
}

fn tell<T: Display>(
    what: &str,
    ended: Result<T, JoinError>,
    is_well: impl FnOnce(&T) -> bool,
) -> bool {
    match ended {
        Ok(row) => {
            println!("{row}");
            is_well(&row)
        }
        Err(e) => {
            let why = e.try_into_panic().unwrap_or_else(|e| Box::new(e.to_string()));
            let why = words(&*why);
            let first = why.lines().next().unwrap_or_default();
            println!("| {what} | BROKE: {first:.300} |");
            false
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes: scripts/torture runs it"]
async fn every_fault_many_times() {
    let mut chance = Chance::seeded();
    let kills: usize = told(KILLS, "200").parse().expect("a number of kills");
    let only = told(ONLY, "");
    println!("{}", Row::HEAD);
    let mut all_well = true;
    for (fault, name) in embedded::Fault::ALL {
        let name = format!("embedded: {name}");
        let mut chance = chance.fork();
        if name.contains(&only) {
            let run = async move { fault.befalls(fault.times(kills), &mut chance).await };
            all_well &= say(&name, tokio::spawn(run).await);
        }
    }
    for (fault, name) in cloud::Fault::ALL {
        let name = format!("aws: {name}");
        let mut chance = chance.fork();
        if name.contains(&only) {
            let run = async move { fault.befalls(fault.times(kills), &mut chance).await };
            all_well &= say(&name, tokio::spawn(run).await);
        }
    }
    assert!(all_well, "a promise broke");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: scripts/torture runs it"]
async fn every_abuse_by_ten_thousand() {
    let most: usize = told(CONNECTIONS, "10000").parse().expect("a number of connections");
    let only = told(ONLY, "");
    println!("{}", Figures::HEAD);
    let mut all_well = true;
    for abuse in Abuse::ALL {
        let name = format!("abuse: {}", abuse.1);
        if name.contains(&only) {
            // On two cores those who do something cannot be as many and all get a turn.
            let connections = if abuse.0 == Abuse::Idle { most } else { most / 5 };
            let run = tokio::spawn(abused(abuse, connections, Duration::from_secs(15)));
            all_well &= tell(&name, run.await, Figures::is_well);
        }
    }
    assert!(all_well, "a promise broke");
}
