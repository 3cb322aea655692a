//! What must be so in every state, and what must be so in some, lest the model be empty.

use flux::core::model::{Decision, Reason};
use stateright::Property;

use super::ledger::ORDERS;
use super::sale::{Message, Sale, State, Worker};

pub const NEVER_OVERSOLD: &str = "P1: no more is given away than there is";
pub const CONSERVED: &str = "P2: the item and its orders' rows say the same";
pub const NEVER_STRANDED: &str = "P2: who was turned away was so rightly, after it was sent";
pub const NOT_WHEN_CLOSED: &str = "no unit is given away while the sale is closed";
pub const NEVER_LOST: &str = "P3: what is undecided is in the queue or in a worker's hand";
pub const FINAL: &str = "P4: what is decided is not decided again";
pub const DECIDED_AT_LAST: &str = "P3: when nothing more happens, all is decided and acknowledged";

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
            !s.is_at_rest(sale) || is_settled(sale, s)
        }),
        Property::sometimes("everything is sold, the restock too", |sale: &Sale, s: &State| {
            s.ledger.item.sold > sale.stocks[0] && s.ledger.item.free == 0
        }),
        Property::sometimes("sold out is said", |_, s: &State| says(s, Reason::SoldOut)),
        Property::sometimes("not enough is said", |_, s: &State| says(s, Reason::NotEnough)),
        Property::sometimes("two workers have read the same, to write on it", |_, s: &State| {
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
        && !state.is_with_somebody(order)
}

fn is_settled(sale: &Sale, state: &State) -> bool {
    (0..sale.orders.len()).all(|order| {
        state.ledger.rows[order].is_some() && state.messages[order] == Message::Acknowledged
    })
}

fn says(state: &State, reason: Reason) -> bool {
    state.ledger.rows.contains(&Some(Decision::Rejected(reason)))
}
