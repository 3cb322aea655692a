//! Reads the queue and the ledger for the dashboard, in bounded pieces.

use std::time::Duration;

use tokio::time::timeout;

use crate::core::engine::Ports;
use crate::core::model::Item;
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::ledger::{Page, StoreTotals};
use crate::core::ports::queue::Backlog;

/// Maximum time of one read; after it the value is unknown.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum items shown.
pub const ITEMS_SHOWN: usize = 100;
/// Items checked per sample, in the embedded store and in stores that charge per request.
const SWEEP_EMBEDDED: usize = 1_000;
const SWEEP_PAID: usize = ITEMS_SHOWN;
/// Maximum dead letters shown.
const DEAD_LETTERS_SHOWN: usize = 20;

#[derive(Debug, Clone, Default)]
pub struct StoreView {
    pub backlog: Option<Backlog>,
    /// Oldest first. Always empty except on the embedded queue, which can list dead letters without
    /// receiving them.
    pub dead_letters: Vec<DeadLetter>,
    pub totals: Option<StoreTotals>,
    /// `None` until the items were read.
    pub items: Option<Vec<Item>>,
    pub items_more: bool,
    /// `None` until all items were checked, unless an error was found.
    pub unit_errors: Option<UnitErrors>,
}

/// Oversold and stranded units, according to the counters of the items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnitErrors {
    pub oversold: u64,
    pub stranded: u64,
}

impl UnitErrors {
    fn of(items: &[Item]) -> UnitErrors {
        items.iter().fold(UnitErrors::default(), |sum, item| {
            let taken = item.held.saturating_add(item.sold);
            UnitErrors {
                oversold: sum.oversold + taken.saturating_sub(item.stock),
                stranded: sum.stranded + item.stock.abs_diff(item.free.saturating_add(taken)),
            }
        })
    }

    fn plus(self, other: UnitErrors) -> UnitErrors {
        let oversold = self.oversold + other.oversold;
        UnitErrors { oversold, stranded: self.stranded + other.stranded }
    }
}

/// Checks all items, one page per sample.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Start of the next page.
    next: Option<String>,
    /// Errors found since this sweep began.
    current: UnitErrors,
    /// Errors of the last complete sweep.
    complete: Option<UnitErrors>,
}

impl Sweep {
    fn add(&mut self, page: &Page<Item>) {
        self.current = self.current.plus(UnitErrors::of(&page.rows));
        self.next.clone_from(&page.next);
        if page.next.is_none() {
            self.complete = Some(std::mem::take(&mut self.current));
        }
    }

    /// Errors of the last complete sweep, or of the current one if it has found more.
    fn unit_errors(&self) -> Option<UnitErrors> {
        let current = Some(self.current).filter(|current| *current != UnitErrors::default());
        let complete = self.complete.or(current)?;
        Some(UnitErrors {
            oversold: complete.oversold.max(self.current.oversold),
            stranded: complete.stranded.max(self.current.stranded),
        })
    }
}

/// Reads the stores one after another, so that it uses at most one of their readers. Values that are
/// not read in time stay as in `before` or become unknown.
pub async fn read(
    ports: &Ports,
    embedded: bool,
    sweep: &mut Sweep,
    before: &StoreView,
) -> StoreView {
    let backlog = within(ports.queue.backlog()).await;
    let count = |backlog: &Option<Backlog>| backlog.as_ref().map(|b| b.dead_letters);
    let dead_letters = match count(&backlog) {
        Some(0) => Vec::new(),
        Some(_) if embedded && count(&backlog) != count(&before.backlog) => {
            within(ports.queue.dead_letters(DEAD_LETTERS_SHOWN)).await.unwrap_or_default()
        }
        _ => before.dead_letters.clone(),
    };
    let totals = within(ports.ledger.totals()).await.flatten();
    let mut view = StoreView { backlog, dead_letters, totals, ..StoreView::default() };
    let limit = if embedded { SWEEP_EMBEDDED } else { SWEEP_PAID };
    let from = sweep.next.clone();
    let page = within(ports.ledger.items(from.as_deref(), limit)).await;
    if let Some(page) = &page {
        sweep.add(page);
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
    view.unit_errors = sweep.unit_errors();
    view
}

/// The value, unless the read fails or takes longer than [`READ_TIMEOUT`].
pub async fn within<T, E: std::fmt::Display>(
    read: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match timeout(READ_TIMEOUT, read).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(e)) => {
            tracing::debug!("dashboard read failed; value unknown: {e}");
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
    fn sweep_sums_errors_over_pages_and_reports_them_at_once() {
        let page =
            |item, next: Option<&str>| Page { rows: vec![item], next: next.map(str::to_owned) };
        let mut sweep = Sweep::default();
        assert_eq!(sweep.unit_errors(), None);
        sweep.add(&page(item(1, 1, 0), Some("a")));
        assert_eq!(sweep.unit_errors(), None, "not all items were checked");
        sweep.add(&page(item(1, 0, 2), Some("x")));
        assert_eq!(sweep.unit_errors(), Some(UnitErrors { oversold: 1, stranded: 1 }));
        sweep.add(&page(item(5, 1, 1), None));
        assert_eq!(sweep.unit_errors(), Some(UnitErrors { oversold: 1, stranded: 4 }));
        sweep.add(&page(item(5, 4, 1), None));
        assert_eq!(sweep.unit_errors(), Some(UnitErrors::default()));
    }
}
