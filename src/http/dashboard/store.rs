//! What the stores know of the sale, read in bounded pieces.

use std::time::Duration;

use tokio::time::timeout;

use crate::core::engine::Ports;
use crate::core::model::Item;
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::ledger::{Page, StoreTotals};
use crate::core::ports::queue::Backlog;

/// A store that takes longer than this to answer is shown as not known.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Items that are shown.
pub const ITEMS_SHOWN: usize = 100;
/// Items whose counters are looked at in one sample, of the embedded store and of others.
const SWEEP_EMBEDDED: usize = 1_000;
const SWEEP_PAID: usize = ITEMS_SHOWN;
/// Dead letters that are shown.
const LETTERS_SHOWN: usize = 20;

#[derive(Debug, Clone, Default)]
pub struct StoreView {
    pub backlog: Option<Backlog>,
    /// Oldest first. Only the embedded queue shows them without touching them.
    pub letters: Vec<DeadLetter>,
    pub tally: Option<StoreTotals>,
    /// `None` until they were read.
    pub items: Option<Vec<Item>>,
    pub items_more: bool,
    /// `None` until all items were looked at, unless something is wrong.
    pub wrong: Option<Wrong>,
}

/// Units that the items' own counters say are oversold, and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrong {
    pub oversold: u64,
    pub stranded: u64,
}

impl Wrong {
    fn of(items: &[Item]) -> Wrong {
        items.iter().fold(Wrong::default(), |sum, item| {
            let taken = item.held.saturating_add(item.sold);
            Wrong {
                oversold: sum.oversold + taken.saturating_sub(item.stock),
                stranded: sum.stranded + item.stock.abs_diff(item.free.saturating_add(taken)),
            }
        })
    }

    fn plus(self, other: Wrong) -> Wrong {
        let oversold = self.oversold + other.oversold;
        Wrong { oversold, stranded: self.stranded + other.stranded }
    }
}

/// Goes over all items, a page in each sample.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Where the next page begins.
    next: Option<String>,
    /// Of the items since the sweep began.
    running: Wrong,
    /// Of the last whole sweep, if there was one.
    whole: Option<Wrong>,
}

impl Sweep {
    fn take(&mut self, page: &Page<Item>) {
        self.running = self.running.plus(Wrong::of(&page.rows));
        self.next.clone_from(&page.next);
        if page.next.is_none() {
            self.whole = Some(std::mem::take(&mut self.running));
        }
    }

    fn wrong(&self) -> Option<Wrong> {
        let running = Some(self.running).filter(|running| *running != Wrong::default());
        let whole = self.whole.or(running)?;
        Some(Wrong {
            oversold: whole.oversold.max(self.running.oversold),
            stranded: whole.stranded.max(self.running.stranded),
        })
    }
}

/// Reads the stores, one thing after another, so that it never takes more than one of their
/// readers. What is not answered in time stays as it was in `before`, or is not known.
pub async fn look(
    ports: &Ports,
    embedded: bool,
    sweep: &mut Sweep,
    before: &StoreView,
) -> StoreView {
    let backlog = within(ports.queue.backlog()).await;
    let count = |backlog: &Option<Backlog>| backlog.as_ref().map(|b| b.dead_letters);
    let letters = match count(&backlog) {
        Some(0) => Vec::new(),
        Some(_) if embedded && count(&backlog) != count(&before.backlog) => {
            within(ports.queue.dead_letters(LETTERS_SHOWN)).await.unwrap_or_default()
        }
        _ => before.letters.clone(),
    };
    let tally = within(ports.ledger.totals()).await.flatten();
    let mut view = StoreView { backlog, letters, tally, ..StoreView::default() };
    let swept = if embedded { SWEEP_EMBEDDED } else { SWEEP_PAID };
    let from = sweep.next.clone();
    let page = within(ports.ledger.items(from.as_deref(), swept)).await;
    if let Some(page) = &page {
        sweep.take(page);
    }
    let first = match (from, page) {
        (None, page) => page,
        (Some(_), _) => within(ports.ledger.items(None, ITEMS_SHOWN)).await,
    };
    match first {
        Some(Page { mut rows, next }) => {
            view.items_more = next.is_some() || rows.len() > ITEMS_SHOWN;
            rows.truncate(ITEMS_SHOWN);
            view.items = Some(rows);
        }
        None => {
            view.items_more = before.items_more;
            view.items.clone_from(&before.items);
        }
    }
    view.wrong = sweep.wrong();
    view
}

/// The answer, if it is a good one and comes in time.
async fn within<T, E: std::fmt::Display>(answer: impl Future<Output = Result<T, E>>) -> Option<T> {
    match timeout(READ_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(e)) => {
            tracing::debug!("dashboard sample without a part: {e}");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::ItemId;

    fn item(stock: u64, free: u64, sold: u64) -> Item {
        let item = Item::new(ItemId::parse("x").unwrap(), stock);
        Item { free, sold, ..item }
    }

    #[test]
    fn a_sweep_sums_up_what_is_wrong_over_all_its_pages_and_shows_it_at_once() {
        let page =
            |item, next: Option<&str>| Page { rows: vec![item], next: next.map(str::to_owned) };
        let mut sweep = Sweep::default();
        assert_eq!(sweep.wrong(), None);
        sweep.take(&page(item(1, 1, 0), Some("a")));
        assert_eq!(sweep.wrong(), None, "not all were looked at");
        sweep.take(&page(item(1, 0, 2), Some("x")));
        assert_eq!(sweep.wrong(), Some(Wrong { oversold: 1, stranded: 1 }));
        sweep.take(&page(item(5, 1, 1), None));
        assert_eq!(sweep.wrong(), Some(Wrong { oversold: 1, stranded: 4 }));
        sweep.take(&page(item(5, 4, 1), None));
        assert_eq!(sweep.wrong(), Some(Wrong::default()));
    }
}
