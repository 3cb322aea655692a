//! The model check: examines every state that a small sale can reach, with the real `decide()`,
//! reads and writes as separate steps, and faults at every step.

mod ledger;
mod promises;
mod sale;

use std::time::Instant;

use flux::core::model::{ItemId, Order, OrderId, Quantity, Timestamp, UserId};
use stateright::{Checker, HasDiscoveries, Model};

use promises::{CONSERVED, FINAL, NEVER_LOST, NEVER_OVERSOLD, NEVER_STRANDED, NOT_WHEN_CLOSED};
use sale::{Sale, State, Without};

fn order(n: usize, quantity: u64) -> Order {
    Order {
        id: OrderId::from_bytes([n as u8; 16]),
        user: UserId::parse(&format!("user{n}")).unwrap(),
        item: ItemId::parse("ticket_001").unwrap(),
        quantity: Quantity::new(quantity).unwrap(),
        accepted_at: Timestamp(1_700_000_000_000 + n as u64),
        trace: None,
    }
}

fn sale(workers: usize, quantities: &[u64], faults: u8) -> Sale {
    let orders = quantities.iter().enumerate().map(|(n, &units)| order(n, units)).collect();
    let without = Without::Nothing;
    Sale { without, workers, orders, stocks: vec![1, 2], faults, restocks: 1, closings: 0 }
}

/// Checks every state. States that differ only by swapping workers are checked once.
fn holds_everywhere(sale: Sale) {
    let began = Instant::now();
    let what =
        format!("{} workers, {} orders, {} faults", sale.workers, sale.orders.len(), sale.faults);
    let checker = sale.checker().symmetry_fn(State::canonical).spawn_dfs().join();
    println!(
        "{what}: {} states, {} steps, depth {}, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    checker.assert_properties();
}

/// Finds the shortest path that breaks a promise without a guard.
fn breaks(without: Without, promise: &'static str) {
    breaks_in(Sale { without, ..sale(2, &[1, 1], 2) }, promise);
}

fn breaks_in(sale: Sale, promise: &'static str) {
    let without = sale.without;
    let one = HasDiscoveries::AllOf([promise].into());
    let checker = sale.checker().finish_when(one).spawn_bfs().join();
    let path = checker.discovery(promise).expect("a way to break it");
    let states = checker.unique_state_count();
    let steps = path.into_actions();
    println!("{without:?}: after {states} states: {promise}: {steps:?}");
}

#[test]
fn promises_hold_with_2_workers_2_orders_3_faults() {
    holds_everywhere(sale(2, &[1, 2], 3));
}

#[test]
fn promises_hold_with_3_workers_2_orders_2_faults() {
    holds_everywhere(sale(3, &[1, 2], 2));
}

#[test]
fn promises_hold_with_2_workers_3_orders_2_faults() {
    holds_everywhere(Sale { stocks: vec![2], ..sale(2, &[1, 2, 1], 2) });
}

#[test]
fn promises_hold_if_the_sale_is_closed_at_any_step() {
    let closed = Sale { stocks: vec![2], closings: 1, ..sale(2, &[1, 2], 2) };
    holds_everywhere(closed);
}

#[test]
#[ignore = "takes minutes"]
fn promises_hold_with_3_workers_3_orders_3_faults() {
    holds_everywhere(sale(3, &[1, 2, 1], 3));
}

#[test]
fn no_version_condition_oversells() {
    breaks(Without::Version, NEVER_OVERSOLD);
}

#[test]
fn fencing_number_compared_at_the_commit_oversells() {
    breaks(Without::VersionButFenced, NEVER_OVERSOLD);
}

#[test]
fn no_undecided_condition_changes_decisions_and_loses_units() {
    breaks(Without::Undecided, FINAL);
    breaks(Without::Undecided, CONSERVED);
}

#[test]
fn cached_sold_out_strands_restocked_units() {
    breaks(Without::SoldOutReread, NEVER_STRANDED);
}

#[test]
fn no_version_condition_sells_after_the_close() {
    let sale = Sale { without: Without::Version, closings: 1, ..sale(1, &[1, 1], 0) };
    breaks_in(sale, NOT_WHEN_CLOSED);
}

#[test]
fn ack_before_the_commit_loses_an_order() {
    breaks(Without::AckAfterCommit, NEVER_LOST);
}
