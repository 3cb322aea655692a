//! The properties of every state, and properties of some states, which prove that the model is not
//! empty.

use flux::core::model::{Decision, Reason};
use stateright::Property;

use super::ledger::ORDERS;
use super::sale::{Message, Sale, State, Worker};

pub const NEVER_OVERSOLD: &str = "P1: no more units are sold than exist";
pub const CONSERVED: &str = "P2: the item matches its orders' rows";
pub const NEVER_STRANDED: &str = "P2: each rejection was correct after its order was sent";
pub const NOT_WHEN_CLOSED: &str = "no unit is sold while the sale is closed";
pub const NEVER_LOST: &str = "P3: an undecided order is in the queue or in flight";
pub const FINAL: &str = "P4: no decision overwrites another";
pub const DECIDED_AT_LAST: &str = "P3: in the end all orders are decided and acknowledged";

pub fn all() -> Vec<Property<Sale>> {
    vec![
        Property::always(NEVER_OVERSOLD, |_, s: &State| {
            s.ledger.books.given <= s.ledger.item.stock
        }),
        Property::always(CONSERVED, conserved),
        Property::always(NEVER_STRANDED, |_, s: &State| !s.ledger.books.wrongly_refused),
        Property::always(NOT_WHEN_CLOSED, |_, s: &State| !s.ledger.books.sold_when_closed),
        Property::always(NEVER_LOST, |_, s: &State| (0..ORDERS).all(|order| !is_lost(s, order))),
        Property::always(FINAL, |_, s: &State| !s.ledger.books.decided_again),
        Property::always(DECIDED_AT_LAST, |sale: &Sale, s: &State| {
            !s.is_at_rest(sale) || is_finished(sale, s)
        }),
        Property::sometimes("everything is sold, the restock too", |sale: &Sale, s: &State| {
            s.ledger.item.sold > sale.stocks[0] && s.ledger.item.free == 0
        }),
        Property::sometimes("an order is sold_out", |_, s: &State| {
            has_rejected(s, Reason::SoldOut)
        }),
        Property::sometimes("an order is not_enough", |_, s: &State| {
            has_rejected(s, Reason::NotEnough)
        }),
        Property::sometimes("two workers will commit on the same read", |_, s: &State| {
            let commits_on = |worker: &&Worker| worker.would_commit_on(s.ledger.item);
            s.workers.iter().filter(commits_on).count() > 1
        }),
        Property::sometimes("a write is late and its order decided", |_, s: &State| {
            s.late.as_ref().is_some_and(|write| {
                (0..ORDERS).any(|o| write.decided[o].is_some() && s.ledger.rows[o].is_some())
            })
        }),
    ]
}

fn conserved(sale: &Sale, state: &State) -> bool {
    let item = &state.ledger.item;
    let sold = sale.orders.iter().zip(state.ledger.rows);
    let sold = sold.filter(|(_, decision)| *decision == Some(Decision::Sold));
    let units: u64 = sold.map(|(order, _)| order.quantity.units()).sum();
    item.free + item.sold == item.stock && u64::from(item.sold) == units
}

fn is_lost(state: &State, order: usize) -> bool {
    state.messages[order] == Message::Acknowledged
        && state.ledger.rows[order].is_none()
        && !state.is_in_flight(order)
}

fn is_finished(sale: &Sale, state: &State) -> bool {
    (0..sale.orders.len()).all(|order| {
        state.ledger.rows[order].is_some() && state.messages[order] == Message::Acknowledged
    })
}

fn has_rejected(state: &State, reason: Reason) -> bool {
    state.ledger.rows.contains(&Some(Decision::Rejected(reason)))
}
