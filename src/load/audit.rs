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

use backon::{ExponentialBuilder, Retryable};

use super::summary::{AuditReport, AuditSummary, Findings, ItemAudit};
use crate::core::model::{Decision, Item, ItemId, MacCheck, Order, Quantity, Reason, Timestamp};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, ItemCounts, Ledger, LedgerError, OrderRecord, OrderState, StoreAudit,
};

/// How often a page that the ledger is too busy to give is asked for again: after 50 ms, and each time
/// after twice as long.
const READ_RETRIES: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(50)).with_max_times(6);
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
    let store_before = retry_while_busy(|| ledger.audit_store()).await?;
    let mut findings = Findings::default();
    let mut totals: HashMap<ItemId, AuditTotals> = HashMap::new();
    each_item(ledger, item, |before| {
        if let Ok(item) = before.item {
            let id = item.id.clone();
            let before = Some(ItemSeen { item, counts: before.counts, mac: before.mac });
            totals.insert(id, AuditTotals { before, ..AuditTotals::default() });
        }
    })
    .await?;
    let mut decided: HashMap<Decision, u64> = HashMap::new();
    each_order(ledger, item, |row| {
        see(row);
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
    let mut finish = |after: ItemSeen, total: AuditTotals| {
        if let Some(late_from) = total.sold_out_of_turn(&after) {
            late.insert(after.item.id.clone(), late_from);
        }
        let status = after.item.status();
        let summary = total.summary(&after);
        items.push(ItemAudit { item_id: after.item.id, status, summary });
    };
    each_item(ledger, item, |after| match after.item {
        Ok(item) => {
            let total = totals.remove(&item.id).unwrap_or_default();
            finish(ItemSeen { item, counts: after.counts, mac: after.mac }, total);
        }
        Err(why) => findings.add(why),
    })
    .await?;
    for (id, total) in totals {
        let nothing = Item::new(id, 0);
        finish(ItemSeen { item: nothing, counts: None, mac: MacCheck::Fits }, total);
    }
    items.sort_by(|a, b| a.item_id.cmp(&b.item_id));
    count_inversions(ledger, item, &late, &mut items).await?;
    let store = retry_while_busy(|| ledger.audit_store()).await?;
    if item.is_none() {
        compare_decisions(&decided, &store_before, &store, &mut findings);
    }
    store.findings.into_iter().for_each(|line| findings.add(line));
    Ok(AuditReport::of(items, findings, store.old_rule))
}

/// Holds the store's table of decisions against the order rows, of which each was read between the
/// two readings of the table.
fn compare_decisions(
    rows: &HashMap<Decision, u64>,
    before: &StoreAudit,
    after: &StoreAudit,
    findings: &mut Findings,
) {
    let Some(before) = &before.decided else { return };
    let Some(after) = &after.decided else { return };
    let counted = |table: &[(Decision, u64)], decision| {
        let found = table.iter().find(|(counted, _)| *counted == decision);
        found.map_or(0, |(_, orders)| *orders)
    };
    for decision in Decision::all() {
        let orders = rows.get(&decision).copied().unwrap_or(0);
        let least = counted(before, decision);
        let most = counted(after, decision);
        if !(least..=most).contains(&orders) {
            let reason = decision.reason().map_or("", Reason::as_str);
            findings.add(format!(
                "{orders} orders are {} {reason}, and the table decisions has {most}",
                decision.status()
            ));
        }
    }
}

/// An item that can be read, as it was at one time.
struct ItemSeen {
    item: Item,
    counts: Option<ItemCounts>,
    mac: MacCheck,
}

/// What the rows of one item say, and what the item said before they were read.
#[derive(Default)]
struct AuditTotals {
    before: Option<ItemSeen>,
    rows: AuditSummary,
    decided: u64,
    /// The item's owner has a sold order.
    owner_bought: bool,
    /// Per quantity: the first to be told `sold_out` since the last restock, and the last to buy.
    spans: BTreeMap<Quantity, SaleSpan>,
}

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
        self.restocked_at().is_none_or(|at| order.accepted_at > at.plus(CHANGE_SETTLES))
    }

    fn closed_at(&self) -> Option<Timestamp> {
        self.before.as_ref().and_then(|b| b.item.closed_at)
    }

    fn since_close(&self, order: &Order) -> bool {
        self.closed_at().is_some_and(|at| order.accepted_at > at.plus(CHANGE_SETTLES))
    }

    /// Holds the rows against the item as it was before and after they were read.
    fn summary(&self, after: &ItemSeen) -> AuditSummary {
        let item = &after.item;
        let rows = &self.rows;
        let sold_before = self.before.as_ref().map_or(0, |before| before.item.sold);
        let moved = item.sold.saturating_sub(sold_before);
        let taken = item.held.saturating_add(rows.sold).saturating_add(moved);
        let open = item.stock.saturating_sub(taken);
        let refused_one = self.spans.iter().find(|(_, span)| span.first_sold_out.is_some());
        let stranded = refused_one.is_some_and(|(quantity, _)| quantity.units() <= open);
        let counted = item.free.saturating_add(item.held).saturating_add(item.sold);
        AuditSummary {
            stock: item.stock,
            free: item.free,
            held: item.held,
            oversold_units: item.held.saturating_add(rows.sold).saturating_sub(item.stock),
            stranded_units: if stranded && !self.restocked_meanwhile(after) { open } else { 0 },
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

    /// The rows' figures, held against what the store counts. Between the two readings orders may
    /// arrive and be decided, and leave their place for a later one, or for another item's line.
    fn counted(&self, after: &ItemSeen) -> AuditSummary {
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

    /// Whether the item has an owner, had the same before the orders were read, and none of its
    /// sold orders is the owner's.
    fn owner_is_wrong(&self, after: &ItemSeen) -> bool {
        let before = self.before.as_ref().map(|before| &before.item);
        let unchanged = before.is_some_and(|before| before.owner == after.item.owner);
        unchanged && after.item.owner.is_some() && !self.owner_bought
    }

    fn restocked_meanwhile(&self, after: &ItemSeen) -> bool {
        self.before.is_some() && self.restocked_at() != after.item.restocked_at
    }

    /// When somebody bought who came after one that was told `sold_out`: from when on buyers were
    /// too late.
    fn sold_out_of_turn(&self, after: &ItemSeen) -> Option<LateFrom> {
        let mut late_from = LateFrom::default();
        let mut earliest = None;
        let mut out_of_turn = false;
        for (quantity, span) in &self.spans {
            earliest = [earliest, span.first_sold_out].into_iter().flatten().min();
            if let Some(first_sold_out) = earliest {
                late_from.0.insert(*quantity, first_sold_out);
                out_of_turn |= span.last_sold.is_some_and(|sold| sold > first_sold_out);
            }
        }
        (out_of_turn && !self.restocked_meanwhile(after)).then_some(late_from)
    }
}

/// Per quantity, the instant after which an order of it stands behind one that was told
/// `sold_out` for the same or less.
#[derive(Default)]
struct LateFrom(BTreeMap<Quantity, Timestamp>);

/// Reads the orders once more, and only when some item was sold out of turn.
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

/// Repeats a read while the ledger is busy, a bounded number of times.
pub(super) async fn retry_while_busy<T, F: Future<Output = Result<T, LedgerError>>>(
    read: impl FnMut() -> F,
) -> Result<T, LedgerError> {
    let may_pass =
        |e: &LedgerError| matches!(e, LedgerError::Busy(_) | LedgerError::OutcomeUnknown(_));
    read.retry(READ_RETRIES).when(may_pass).await
}
