//! The model check: every state that a small sale can get into, with the real `decide()`, reads
//! and writes apart, and faults wherever they can strike.

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

/// Looks at every state, workers being alike.
fn holds_everywhere(sale: Sale) {
    let began = Instant::now();
    let what =
        format!("{} workers, {} orders, {} faults", sale.workers, sale.orders.len(), sale.faults);
    let checker = sale.checker().symmetry_fn(State::nameless).spawn_dfs().join();
    println!(
        "{what}: {} states, {} steps, depth {}, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    checker.assert_properties();
}

/// Without its guard, the shortest way to break a promise.
fn breaks(without: Without, promise: &'static str) {
    breaks_in(Sale { without, ..sale(2, &[1, 1], 2) }, promise);
}

fn breaks_in(sale: Sale, promise: &'static str) {
    let without = sale.without;
    let one = HasDiscoveries::AllOf([promise].into());
    let checker = sale.checker().finish_when(one).spawn_bfs().join();
    let path = checker.discovery(promise).expect("a way to break it");
    let (states, steps) = (checker.unique_state_count(), path.into_actions());
    println!("{without:?}: after {states} states: {promise}: {steps:?}");
}

#[test]
fn two_workers_and_two_orders_keep_every_promise_whatever_three_faults_strike() {
    holds_everywhere(sale(2, &[1, 2], 3));
}

#[test]
fn three_workers_and_two_orders_keep_every_promise_whatever_two_faults_strike() {
    holds_everywhere(sale(3, &[1, 2], 2));
}

#[test]
fn two_workers_and_three_orders_keep_every_promise_whatever_two_faults_strike() {
    holds_everywhere(Sale { stocks: vec![2], ..sale(2, &[1, 2, 1], 2) });
}

#[test]
fn a_sale_that_is_closed_at_any_moment_keeps_every_promise_whatever_two_faults_strike() {
    let closed = Sale { stocks: vec![2], closings: 1, ..sale(2, &[1, 2], 2) };
    holds_everywhere(closed);
}

#[test]
#[ignore = "takes minutes"]
fn three_workers_and_three_orders_keep_every_promise_whatever_three_faults_strike() {
    holds_everywhere(sale(3, &[1, 2, 1], 3));
}

#[test]
fn without_the_version_condition_it_oversells() {
    breaks(Without::Version, NEVER_OVERSOLD);
}

#[test]
fn a_fencing_number_compared_only_at_the_commit_oversells() {
    breaks(Without::VersionButFenced, NEVER_OVERSOLD);
}

#[test]
fn without_the_unseen_condition_a_decision_changes_and_units_go_astray() {
    breaks(Without::Unseen, FINAL);
    breaks(Without::Unseen, CONSERVED);
}

#[test]
fn a_sold_out_remembered_from_before_turns_away_who_came_after_a_restock() {
    breaks(Without::SoldOutReadAnew, NEVER_STRANDED);
}

#[test]
fn without_the_version_condition_units_are_sold_after_the_close() {
    let sale = Sale { without: Without::Version, closings: 1, ..sale(1, &[1, 1], 0) };
    breaks_in(sale, NOT_WHEN_CLOSED);
}

#[test]
fn acknowledging_before_the_commit_loses_an_order() {
    breaks(Without::AckAfterCommit, NEVER_LOST);
}
