//! The auditor: re-derives the promises from the stored orders.
//!
//! Units are counted from order rows; the item's own counters are then held against them. Rows are
//! read in the ledger's pages and tallied per item, so memory grows with items, never with orders.
//!
//! A store may be in use meanwhile: items are read before and after the orders, and a counter that
//! moved in between is only held to the range it moved through. Nothing is reported that a sale
//! in progress could explain.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::time::Duration;

use super::figures::{AuditReport, Figures, ItemAudit};
use crate::core::ledger::{AuditedItem, AuditedOrder, Ledger, LedgerError, OrderState};
use crate::core::order::{Decision, Item, ItemId, Order, Quantity, Reason, Timestamp};

/// How often a page that the ledger is too busy to give is asked for.
const READ_ATTEMPTS: u32 = 7;
/// Pause before the second attempt; doubled for each further one.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// An order accepted within so long of a restock, or of a close, may have been decided before it,
/// or by a clock that is behind: it counts as from before.
const CHANGE_SETTLES: Duration = Duration::from_secs(1);

/// Audits one item, or all. Reads only; safe to cancel and to repeat.
pub async fn audit(ledger: &dyn Ledger, item: Option<&ItemId>) -> Result<AuditReport, LedgerError> {
    audit_seeing(ledger, item, &mut |_| {}).await
}

/// Like [`audit`], and shows each order row as it is read.
pub async fn audit_seeing(
    ledger: &dyn Ledger,
    item: Option<&ItemId>,
    see: &mut (dyn FnMut(&AuditedOrder) + Send),
) -> Result<AuditReport, LedgerError> {
    let mut tallies: HashMap<ItemId, Tally> = HashMap::new();
    each_item(ledger, item, |before| {
        let id = before.item.id.clone();
        tallies.insert(id, Tally { before: Some(before), ..Tally::default() });
    })
    .await?;
    each_order(ledger, item, |row| {
        see(row);
        tallies.entry(row.record.order.item.clone()).or_default().add(row);
    })
    .await?;
    let mut items = Vec::with_capacity(tallies.len());
    let mut lines = HashMap::new();
    let mut settle = |after: AuditedItem, tally: Tally| {
        if let Some(line) = tally.line_was_jumped(&after) {
            lines.insert(after.item.id.clone(), line);
        }
        let (item_id, status) = (after.item.id.clone(), after.item.status());
        items.push(ItemAudit { item_id, status, figures: tally.figures(&after) });
    };
    each_item(ledger, item, |after| {
        settle(after.clone(), tallies.remove(&after.item.id).unwrap_or_default());
    })
    .await?;
    for (id, tally) in tallies {
        let nothing = Item::new(id, 0);
        settle(AuditedItem { item: nothing, orders: None }, tally);
    }
    items.sort_by(|a, b| a.item_id.cmp(&b.item_id));
    count_inversions(ledger, item, &lines, &mut items).await?;
    Ok(AuditReport::of(items))
}

/// What the rows of one item say, and what the item said before they were read.
#[derive(Default)]
struct Tally {
    before: Option<AuditedItem>,
    rows: Figures,
    /// Per quantity: the first to be told `sold_out` since the last restock, and the last to buy.
    spans: BTreeMap<Quantity, Span>,
}

#[derive(Default, Clone, Copy)]
struct Span {
    first_no: Option<Timestamp>,
    last_sold: Option<Timestamp>,
}

impl Tally {
    fn add(&mut self, row: &AuditedOrder) {
        let order = &row.record.order;
        self.rows.orders += 1;
        self.rows.changed_decisions += u64::from(!row.sealed);
        match row.record.state {
            OrderState::Queued => self.rows.undecided += 1,
            OrderState::DeadLettered => self.rows.dead_lettered += 1,
            OrderState::Decided { decision, .. } => self.decided(order, decision),
        }
    }

    fn decided(&mut self, order: &Order, decision: Decision) {
        match decision {
            Decision::Sold => {
                self.rows.sold += order.quantity.units();
                self.rows.sold_when_closed += u64::from(self.since_close(order));
                let last = &mut self.spans.entry(order.quantity).or_default().last_sold;
                *last = (*last).max(Some(order.accepted_at));
            }
            Decision::Rejected(reason) => {
                self.rows.rejected += 1;
                if reason == Reason::SoldOut && self.since_restock(order) {
                    let first = &mut self.spans.entry(order.quantity).or_default().first_no;
                    *first = Some(first.map_or(order.accepted_at, |at| at.min(order.accepted_at)));
                }
            }
            Decision::Expired => self.rows.expired += 1,
        }
    }

    fn restocked_at(&self) -> Option<Timestamp> {
        self.before.as_ref().and_then(|b| b.item.restocked_at)
    }

    fn since_restock(&self, order: &Order) -> bool {
        self.restocked_at().is_none_or(|at| order.accepted_at > at.plus(CHANGE_SETTLES))
    }

    fn closed_at(&self) -> Option<Timestamp> {
        self.before.as_ref().and_then(|b| b.item.closed_at)
    }

    fn since_close(&self, order: &Order) -> bool {
        self.closed_at().is_some_and(|at| order.accepted_at > at.plus(CHANGE_SETTLES))
    }

    /// Holds the rows against the item as it was before and after they were read.
    fn figures(&self, after: &AuditedItem) -> Figures {
        let item = &after.item;
        let rows = &self.rows;
        let (sold_before, orders_before) =
            self.before.as_ref().map_or((0, None), |b| (b.item.sold, b.orders));
        let moved = item.sold.saturating_sub(sold_before);
        let taken = item.held.saturating_add(rows.sold).saturating_add(moved);
        let open = item.stock.saturating_sub(taken);
        let refused_one = self.spans.iter().find(|(_, span)| span.first_no.is_some());
        let stranded = refused_one.is_some_and(|(quantity, _)| quantity.units() <= open);
        let counted = item.free.saturating_add(item.held).saturating_add(item.sold);
        Figures {
            stock: item.stock,
            free: item.free,
            held: item.held,
            oversold_units: item.held.saturating_add(rows.sold).saturating_sub(item.stock),
            stranded_units: if stranded && !self.restocked_meanwhile(after) { open } else { 0 },
            unaccounted_units: sold_before.min(item.sold).saturating_sub(rows.sold),
            uncounted_units: rows.sold.saturating_sub(item.sold),
            unbalanced_units: counted.abs_diff(item.stock),
            missing_orders: orders_before.map_or(0, |must| must.saturating_sub(rows.orders)),
            sold_when_closed: if self.closed_at() == item.closed_at {
                rows.sold_when_closed
            } else {
                0
            },
            unexpected_orders: after.orders.map_or(0, |must| rows.orders.saturating_sub(must)),
            ..rows.clone()
        }
    }

    fn restocked_meanwhile(&self, after: &AuditedItem) -> bool {
        self.before.is_some() && self.restocked_at() != after.item.restocked_at
    }

    /// When somebody bought who came after one that was told `sold_out`: from when on buyers were
    /// too late.
    fn line_was_jumped(&self, after: &AuditedItem) -> Option<Line> {
        let mut late_from = Line::default();
        let mut earliest = None;
        let mut jumped = false;
        for (quantity, span) in &self.spans {
            earliest = [earliest, span.first_no].into_iter().flatten().min();
            if let Some(first_no) = earliest {
                late_from.0.insert(*quantity, first_no);
                jumped |= span.last_sold.is_some_and(|sold| sold > first_no);
            }
        }
        (jumped && !self.restocked_meanwhile(after)).then_some(late_from)
    }
}

/// Per quantity, the instant after which an order of it stands behind one that was told
/// `sold_out` for the same or less.
#[derive(Default)]
struct Line(BTreeMap<Quantity, Timestamp>);

/// Reads the orders once more, and only when some item's line was jumped.
async fn count_inversions(
    ledger: &dyn Ledger,
    item: Option<&ItemId>,
    lines: &HashMap<ItemId, Line>,
    items: &mut [ItemAudit],
) -> Result<(), LedgerError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut inversions: HashMap<&ItemId, u64> = HashMap::new();
    let only = if lines.len() == 1 { lines.keys().next() } else { item };
    each_order(ledger, only, |row| {
        let order = &row.record.order;
        let sold = matches!(row.record.state, OrderState::Decided { decision: Decision::Sold, .. });
        if let (true, Some((id, line))) = (sold, lines.get_key_value(&order.item))
            && line.0.get(&order.quantity).is_some_and(|late| order.accepted_at > *late)
        {
            *inversions.entry(id).or_default() += 1;
        }
    })
    .await?;
    for audited in items {
        audited.figures.inversions = inversions.get(&audited.item_id).copied().unwrap_or(0);
    }
    Ok(())
}

async fn each_item(
    ledger: &dyn Ledger,
    wanted: Option<&ItemId>,
    mut each: impl FnMut(AuditedItem),
) -> Result<(), LedgerError> {
    let mut after: Option<String> = None;
    loop {
        let page = patiently(|| ledger.audit_items(after.as_deref())).await?;
        page.rows
            .into_iter()
            .filter(|i| wanted.is_none_or(|w| *w == i.item.id))
            .for_each(&mut each);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

async fn each_order(
    ledger: &dyn Ledger,
    item: Option<&ItemId>,
    mut each: impl FnMut(&AuditedOrder),
) -> Result<(), LedgerError> {
    let mut after: Option<String> = None;
    loop {
        let page = patiently(|| ledger.audit_orders(item, after.as_deref())).await?;
        page.rows.iter().for_each(&mut each);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Repeats a read while the ledger is busy, a bounded number of times.
pub(super) async fn patiently<T, F: Future<Output = Result<T, LedgerError>>>(
    mut read: impl FnMut() -> F,
) -> Result<T, LedgerError> {
    let mut pause = READ_PAUSE;
    for _ in 1..READ_ATTEMPTS {
        match read().await {
            Err(LedgerError::Busy(_) | LedgerError::OutcomeUnknown(_)) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    read().await
}
