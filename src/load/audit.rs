//! The auditor: checks the promises against the stored orders.
//!
//! Units are counted from order rows and then compared with the item's own counters. Rows are read
//! page by page and summed per item, so memory grows with the number of items, not of orders.
//!
//! The store may be in use during the audit. Items are therefore read before and after the orders.
//! A counter that changed in between is only checked to be within the two values. The audit reports
//! nothing that a sale in progress could explain.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

use super::summary::{AuditReport, AuditSummary, Findings, ItemAudit};
use crate::core::model::{Decision, Item, ItemId, MacCheck, Order, Quantity, Reason, Timestamp};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, ItemCounts, Ledger, LedgerError, OrderRecord, OrderState, StoreAudit,
};

/// Retries of a read while the ledger is busy: the first after 50 ms, each further one after twice
/// the pause.
const READ_RETRIES: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(50)).with_max_times(6);
/// An order accepted within this time after a restock or a close counts as accepted before it,
/// because clocks of different processes differ.
const CHANGE_TOLERANCE: Duration = Duration::from_secs(1);

/// Audits one item, or all. Only reads, so it is safe to cancel and to repeat.
pub async fn audit(ledger: &dyn Ledger, item: Option<&ItemId>) -> Result<AuditReport, LedgerError> {
    audit_with(ledger, item, &mut |_| {}).await
}

/// Like [`audit`], and passes each order row to `on_order`.
pub async fn audit_with(
    ledger: &dyn Ledger,
    item: Option<&ItemId>,
    on_order: &mut (dyn FnMut(&AuditedOrder) + Send),
) -> Result<AuditReport, LedgerError> {
    let store_before = retry_while_busy(|| ledger.audit_store()).await?;
    let mut findings = Findings::default();
    let mut totals: HashMap<ItemId, AuditTotals> = HashMap::new();
    each_item(ledger, item, |before| {
        if let Ok(item) = before.item {
            let id = item.id.clone();
            let before = Some(ItemSnapshot { item, counts: before.counts, mac: before.mac });
            totals.insert(id, AuditTotals { before, ..AuditTotals::default() });
        }
    })
    .await?;
    let mut decided: HashMap<Decision, u64> = HashMap::new();
    each_order(ledger, item, |row| {
        on_order(row);
        match &row.record {
            Ok(record) => {
                if let OrderState::Decided { decision, .. } = record.state {
                    *decided.entry(decision).or_default() += 1;
                }
                totals.entry(record.order.item.clone()).or_default().add(record, row.mac);
            }
            Err(why) => findings.add(why.clone()),
        }
    })
    .await?;
    let mut items = Vec::with_capacity(totals.len());
    let mut late = HashMap::new();
    let mut finish = |after: ItemSnapshot, total: AuditTotals| {
        if let Some(late_from) = total.inversion_bounds(&after) {
            late.insert(after.item.id.clone(), late_from);
        }
        let status = after.item.status();
        let summary = total.summary(&after);
        items.push(ItemAudit { item_id: after.item.id, status, summary });
    };
    each_item(ledger, item, |after| match after.item {
        Ok(item) => {
            let total = totals.remove(&item.id).unwrap_or_default();
            finish(ItemSnapshot { item, counts: after.counts, mac: after.mac }, total);
        }
        Err(why) => findings.add(why),
    })
    .await?;
    for (id, total) in totals {
        // Orders of an item without a row: as if it had no stock.
        let missing = Item::new(id, 0);
        finish(ItemSnapshot { item: missing, counts: None, mac: MacCheck::Fits }, total);
    }
    items.sort_by(|a, b| a.item_id.cmp(&b.item_id));
    count_inversions(ledger, item, &late, &mut items).await?;
    let store = retry_while_busy(|| ledger.audit_store()).await?;
    if item.is_none() {
        compare_decisions(&decided, &store_before, &store, &mut findings);
    }
    store.findings.into_iter().for_each(|finding| findings.add(finding));
    Ok(AuditReport::of(items, findings, store.old_rule))
}

/// Compares the store's table of decision counts with the order rows. The rows were read between
/// the two reads of the table, so their number must be within the two counts.
fn compare_decisions(
    rows: &HashMap<Decision, u64>,
    before: &StoreAudit,
    after: &StoreAudit,
    findings: &mut Findings,
) {
    let Some(before) = &before.decided else { return };
    let Some(after) = &after.decided else { return };
    let count = |table: &[(Decision, u64)], decision| {
        let row = table.iter().find(|(counted, _)| *counted == decision);
        row.map_or(0, |(_, orders)| *orders)
    };
    for decision in Decision::all() {
        let orders = rows.get(&decision).copied().unwrap_or(0);
        let min = count(before, decision);
        let max = count(after, decision);
        if !(min..=max).contains(&orders) {
            let reason = decision.reason().map_or("", Reason::as_str);
            findings.add(format!(
                "{orders} orders are {} {reason}, but the table decisions counts {max}",
                decision.status()
            ));
        }
    }
}

/// A readable item at one time of the audit.
struct ItemSnapshot {
    item: Item,
    counts: Option<ItemCounts>,
    mac: MacCheck,
}

/// Sums over the order rows of one item.
#[derive(Default)]
struct AuditTotals {
    /// The item before the orders were read.
    before: Option<ItemSnapshot>,
    rows: AuditSummary,
    decided: u64,
    /// True if a sold order is of the item's owner.
    owner_bought: bool,
    spans: BTreeMap<Quantity, SaleSpan>,
}

/// For orders of one quantity: when the first that was rejected `sold_out` since the last restock
/// was accepted, and the last that was sold.

#[derive(Default, Clone, Copy)]
struct SaleSpan {
    first_sold_out: Option<Timestamp>,
    last_sold: Option<Timestamp>,
}

impl AuditTotals {
    fn add(&mut self, record: &OrderRecord, mac: MacCheck) {
        let order = &record.order;
        self.rows.orders += 1;
        self.rows.changed_decisions += u64::from(mac == MacCheck::Wrong);
        self.rows.old_rule_orders += u64::from(mac == MacCheck::OldRule);
        match record.state {
            OrderState::Queued => self.rows.undecided += 1,
            OrderState::DeadLettered => self.rows.dead_lettered += 1,
            OrderState::Decided { decision, .. } => self.decided(order, decision),
        }
    }

    fn decided(&mut self, order: &Order, decision: Decision) {
        self.decided += 1;
        match decision {
            Decision::Sold => {
                let owner = self.before.as_ref().and_then(|before| before.item.owner.as_ref());
                self.owner_bought |= owner == Some(&order.user);
                self.rows.sold += order.quantity.units();
                self.rows.sold_when_closed += u64::from(self.since_close(order));
                let last = &mut self.spans.entry(order.quantity).or_default().last_sold;
                *last = (*last).max(Some(order.accepted_at));
            }
            Decision::Rejected(reason) => {
                self.rows.rejected += 1;
                if reason == Reason::SoldOut && self.since_restock(order) {
                    let first = &mut self.spans.entry(order.quantity).or_default().first_sold_out;
                    *first = Some(first.map_or(order.accepted_at, |at| at.min(order.accepted_at)));
                }
            }
            Decision::Expired => self.rows.expired += 1,
            Decision::Dropped => self.rows.dropped += 1,
        }
    }

    fn restocked_at(&self) -> Option<Timestamp> {
        self.before.as_ref().and_then(|b| b.item.restocked_at)
    }

    fn since_restock(&self, order: &Order) -> bool {
        self.restocked_at().is_none_or(|at| order.accepted_at > at.plus(CHANGE_TOLERANCE))
    }

    fn closed_at(&self) -> Option<Timestamp> {
        self.before.as_ref().and_then(|b| b.item.closed_at)
    }

    fn since_close(&self, order: &Order) -> bool {
        self.closed_at().is_some_and(|at| order.accepted_at > at.plus(CHANGE_TOLERANCE))
    }

    /// Compares the rows with the item before and after the rows were read.
    ///
    /// Orders may be decided between the three reads. A row that was read as undecided may be sold
    /// by the time the item is read again, so the units sold in between (`sold_meanwhile`) are not
    /// counted as stranded: the audit may then miss stranded units of a running sale, and reports
    /// them once the sale pauses. Each other difference is reported only if both reads of the item
    /// show it.
    fn summary(&self, after: &ItemSnapshot) -> AuditSummary {
        let item = &after.item;
        let rows = &self.rows;
        let sold_before = self.before.as_ref().map_or(0, |before| before.item.sold);
        let sold_meanwhile = item.sold.saturating_sub(sold_before);
        let taken = item.held.saturating_add(rows.sold).saturating_add(sold_meanwhile);
        let open = item.stock.saturating_sub(taken);
        let smallest_sold_out = self.spans.iter().find(|(_, span)| span.first_sold_out.is_some());
        let stranded = smallest_sold_out.is_some_and(|(quantity, _)| quantity.units() <= open);
        let counted = item.free.saturating_add(item.held).saturating_add(item.sold);
        AuditSummary {
            stock: item.stock,
            free: item.free,
            held: item.held,
            oversold_units: item.held.saturating_add(rows.sold).saturating_sub(item.stock),
            stranded_units: if stranded && !self.was_restocked(after) { open } else { 0 },
            unaccounted_units: sold_before.min(item.sold).saturating_sub(rows.sold),
            uncounted_units: rows.sold.saturating_sub(item.sold),
            unbalanced_units: counted.abs_diff(item.stock),
            changed_items: u64::from(after.mac == MacCheck::Wrong),
            old_rule_items: u64::from(after.mac == MacCheck::OldRule),
            wrong_owners: u64::from(self.owner_is_wrong(after)),
            sold_when_closed: if self.closed_at() == item.closed_at {
                rows.sold_when_closed
            } else {
                0
            },
            ..self.counted(after)
        }
    }

    /// Compares the number of rows with the store's counts. Between the two reads of the counts,
    /// orders may arrive, be decided, and move to another position or to another item.
    fn counted(&self, after: &ItemSnapshot) -> AuditSummary {
        let rows = &self.rows;
        let Some(now) = after.counts else { return rows.clone() };
        let before = self.before.as_ref().and_then(|before| before.counts);
        let before = before.unwrap_or(ItemCounts {
            orders: 0,
            moved: now.moved,
            decided: 0,
            dead_lettered: 0,
        });
        let moved = now.moved.saturating_sub(before.moved);
        let dead_may_change =
            self.before.is_none() || moved > 0 || before.dead_lettered != now.dead_lettered;
        AuditSummary {
            missing_orders: before.orders.saturating_sub(rows.orders).saturating_sub(moved),
            unexpected_orders: rows.orders.saturating_sub(now.orders).saturating_sub(moved),
            undone_decisions: before.decided.saturating_sub(self.decided),
            uncounted_decisions: self.decided.saturating_sub(now.decided),
            miscounted_dead_letters: match dead_may_change {
                true => 0,
                false => rows.dead_lettered.abs_diff(now.dead_lettered),
            },
            ..rows.clone()
        }
    }

    /// True if the item has an owner that did not change during the audit, and none of its sold
    /// orders is the owner's.
    fn owner_is_wrong(&self, after: &ItemSnapshot) -> bool {
        let before = self.before.as_ref().map(|before| &before.item);
        let unchanged = before.is_some_and(|before| before.owner == after.item.owner);
        unchanged && after.item.owner.is_some() && !self.owner_bought
    }

    /// True if the item was restocked during the audit.
    fn was_restocked(&self, after: &ItemSnapshot) -> bool {
        self.before.is_some() && self.restocked_at() != after.item.restocked_at
    }

    /// The bounds by which [`count_inversions`] finds inversions; `None` if there is none.
    fn inversion_bounds(&self, after: &ItemSnapshot) -> Option<LateFrom> {
        let mut late_from = LateFrom::default();
        let mut earliest = None;
        let mut has_inversion = false;
        for (quantity, span) in &self.spans {
            earliest = [earliest, span.first_sold_out].into_iter().flatten().min();
            if let Some(first_sold_out) = earliest {
                late_from.0.insert(*quantity, first_sold_out);
                has_inversion |= span.last_sold.is_some_and(|sold| sold > first_sold_out);
            }
        }
        (has_inversion && !self.was_restocked(after)).then_some(late_from)
    }
}

/// Per quantity: when the first order of the same or a smaller quantity that was rejected
/// `sold_out` was accepted. A sold order accepted later is an inversion.
#[derive(Default)]
struct LateFrom(BTreeMap<Quantity, Timestamp>);

/// Reads the orders a second time to count inversions, only if there is one.
async fn count_inversions(
    ledger: &dyn Ledger,
    item: Option<&ItemId>,
    late: &HashMap<ItemId, LateFrom>,
    items: &mut [ItemAudit],
) -> Result<(), LedgerError> {
    if late.is_empty() {
        return Ok(());
    }
    let mut inversions: HashMap<&ItemId, u64> = HashMap::new();
    let only = if late.len() == 1 { late.keys().next() } else { item };
    each_order(ledger, only, |row| {
        let Ok(record) = &row.record else { return };
        let order = &record.order;
        let sold = matches!(record.state, OrderState::Decided { decision: Decision::Sold, .. });
        if sold
            && let Some((id, late_from)) = late.get_key_value(&order.item)
            && late_from.0.get(&order.quantity).is_some_and(|late| order.accepted_at > *late)
        {
            *inversions.entry(id).or_default() += 1;
        }
    })
    .await?;
    for audited in items {
        audited.summary.inversions = inversions.get(&audited.item_id).copied().unwrap_or(0);
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
        let page = retry_while_busy(|| ledger.audit_items(after.as_deref())).await?;
        page.rows
            .into_iter()
            .filter(|i| i.item.as_ref().map_or(true, |i| wanted.is_none_or(|w| *w == i.id)))
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
        let page = retry_while_busy(|| ledger.audit_orders(item, after.as_deref())).await?;
        page.rows.iter().for_each(&mut each);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Repeats a read while the ledger is busy; see [`READ_RETRIES`].
pub(super) async fn retry_while_busy<T, F: Future<Output = Result<T, LedgerError>>>(
    read: impl FnMut() -> F,
) -> Result<T, LedgerError> {
    let is_temporary =
        |e: &LedgerError| matches!(e, LedgerError::Busy(_) | LedgerError::OutcomeUnknown(_));
    read.retry(READ_RETRIES).when(is_temporary).await
}
