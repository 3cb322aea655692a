//! The result of an audit: figures and findings.

use std::fmt;
use std::ops::AddAssign;

use serde::Serialize;

use crate::core::model::ItemId;

/// Items without a fault that are listed in the text; items with a fault are all listed.
const LISTED: usize = 20;
/// Findings that are kept; further ones are counted.
const FINDINGS_KEPT: usize = 50;

/// Whether all promises that were checked hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditResult {
    Pass,
    Fail,
}

impl AuditResult {
    pub fn pass_if(condition: bool) -> Self {
        if condition { AuditResult::Pass } else { AuditResult::Fail }
    }
}

impl fmt::Display for AuditResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == AuditResult::Pass { "PASS" } else { "FAIL" })
    }
}

/// The figures of one item, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AuditSummary {
    /// Units, by the item's row.
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    /// Units of sold order rows.
    pub sold: u64,
    /// Order rows of any status.
    pub orders: u64,
    pub rejected: u64,
    pub expired: u64,
    /// Orders whose dead letters were dropped with `flux dlq drop`.
    pub dropped: u64,
    /// Orders without a decision. No fault, because the sale may still run.
    pub undecided: u64,
    /// Orders in the dead-letter queue. No fault, because P3 allows it.
    pub dead_lettered: u64,
    /// P1: units held or sold in excess of the stock.
    pub oversold_units: u64,
    /// P2: units that are neither held nor sold, although an order for at most that many units was
    /// rejected `sold_out` after the last restock.
    pub stranded_units: u64,
    /// Units that the item counts as sold, without a sold order row.
    pub unaccounted_units: u64,
    /// Units of sold order rows that the item does not count as sold.
    pub uncounted_units: u64,
    /// Difference between free + held + sold and the stock.
    pub unbalanced_units: u64,
    /// P4: order rows of any status that do not match their MAC.
    pub changed_decisions: u64,
    /// Decisions that the item counts, without a decided order row.
    pub undone_decisions: u64,
    /// Decided order rows that the item does not count.
    pub uncounted_decisions: u64,
    /// Difference between the item's count of dead-lettered orders and its order rows.
    pub miscounted_dead_letters: u64,
    /// Item rows that do not match their MAC.
    pub changed_items: u64,
    /// One-of-a-kind items whose owner has no sold order.
    pub wrong_owners: u64,
    /// P3: order rows that the store counts but does not contain.
    pub missing_orders: u64,
    /// Order rows in excess of the store's count.
    pub unexpected_orders: u64,
    /// Sold orders accepted after their item was closed, if it is still closed.
    pub sold_when_closed: u64,
    /// P6: sold orders accepted later than an order for the same or fewer units that was rejected
    /// `sold_out`, both after the last restock. No fault, because neither a standard queue nor the
    /// clocks of several API processes keep the order of arrival.
    pub inversions: u64,
    /// Items and orders written by a version without MACs. They are checked by an older, weaker
    /// rule. No fault.
    pub old_rule_items: u64,
    pub old_rule_orders: u64,
}

impl AuditSummary {
    /// The broken promises: name and amount, in the order of the promises.
    pub fn faults(&self) -> Vec<(&'static str, u64)> {
        let mut faults = vec![
            ("oversold units", self.oversold_units),
            ("stranded units", self.stranded_units),
            ("sold units without a sold order", self.unaccounted_units),
            ("units of sold orders that the item does not count", self.uncounted_units),
            ("units difference between free + held + sold and the stock", self.unbalanced_units),
            ("orders changed by something other than flux", self.changed_decisions),
            ("decisions deleted", self.undone_decisions),
            ("decisions that the item does not count", self.uncounted_decisions),
            ("dead-lettered orders more or fewer than counted", self.miscounted_dead_letters),
            ("items changed by something other than flux", self.changed_items),
            ("owners without a sold order", self.wrong_owners),
            ("orders missing", self.missing_orders),
            ("orders in excess of the store's count", self.unexpected_orders),
            ("orders sold after the sale was closed", self.sold_when_closed),
        ];
        faults.retain(|(_, amount)| *amount > 0);
        faults
    }
}

impl AddAssign<&AuditSummary> for AuditSummary {
    fn add_assign(&mut self, other: &AuditSummary) {
        self.stock += other.stock;
        self.free += other.free;
        self.held += other.held;
        self.sold += other.sold;
        self.orders += other.orders;
        self.rejected += other.rejected;
        self.expired += other.expired;
        self.dropped += other.dropped;
        self.undecided += other.undecided;
        self.dead_lettered += other.dead_lettered;
        self.oversold_units += other.oversold_units;
        self.stranded_units += other.stranded_units;
        self.unaccounted_units += other.unaccounted_units;
        self.uncounted_units += other.uncounted_units;
        self.unbalanced_units += other.unbalanced_units;
        self.changed_decisions += other.changed_decisions;
        self.undone_decisions += other.undone_decisions;
        self.uncounted_decisions += other.uncounted_decisions;
        self.miscounted_dead_letters += other.miscounted_dead_letters;
        self.changed_items += other.changed_items;
        self.wrong_owners += other.wrong_owners;
        self.missing_orders += other.missing_orders;
        self.unexpected_orders += other.unexpected_orders;
        self.sold_when_closed += other.sold_when_closed;
        self.inversions += other.inversions;
        self.old_rule_items += other.old_rule_items;
        self.old_rule_orders += other.old_rule_orders;
    }
}

impl fmt::Display for AuditSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stock {}: free {}, held {}, sold {}; orders {}: rejected {}",
            self.stock, self.free, self.held, self.sold, self.orders, self.rejected
        )?;
        let others = [
            ("expired", self.expired),
            ("dropped", self.dropped),
            ("undecided", self.undecided),
            ("dead-lettered", self.dead_lettered),
            ("decided out of order", self.inversions),
        ];
        others.iter().filter(|(_, n)| *n > 0).try_for_each(|(name, n)| write!(f, ", {name} {n}"))
    }
}

/// The audit of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ItemAudit {
    pub item_id: ItemId,
    /// `open`, `sold_out` or `closed`.
    pub status: &'static str,
    #[serde(flatten)]
    pub summary: AuditSummary,
}

impl fmt::Display for ItemAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = if self.status == "closed" { " (closed)" } else { "" };
        write!(f, "{}{closed}: {}", self.item_id, self.summary)
    }
}

/// The result of an audit: the sums over all items, and the items sorted by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// `fail` if there are any [`AuditSummary::faults`] or `findings`. Undecided orders, dead
    /// letters, inversions and rows checked by the old rule are reported, but are no faults.
    pub verdict: AuditResult,
    #[serde(flatten)]
    pub total: AuditSummary,
    /// Faults of the store as a whole, and unreadable rows; at most 50, then their number.
    pub findings: Vec<String>,
    /// Dead letters written by a version without MACs.
    pub old_rule_letters: u64,
    pub items: Vec<ItemAudit>,
}

impl AuditReport {
    pub(super) fn of(items: Vec<ItemAudit>, findings: Findings, old_rule_letters: u64) -> Self {
        let mut total = AuditSummary::default();
        items.iter().for_each(|item| total += &item.summary);
        let findings = findings.into_lines();
        let verdict = AuditResult::pass_if(total.faults().is_empty() && findings.is_empty());
        Self { verdict, total, findings, old_rule_letters, items }
    }

    /// True if the audit passed only because there are no items or no orders.
    pub fn is_of_nothing(&self) -> bool {
        self.verdict == AuditResult::Pass && (self.items.is_empty() || self.total.orders == 0)
    }
}

/// Collects findings; keeps the first [`FINDINGS_KEPT`].
#[derive(Debug, Default)]
pub(super) struct Findings {
    lines: Vec<String>,
    more: u64,
}

impl Findings {
    pub fn add(&mut self, line: String) {
        if self.lines.len() < FINDINGS_KEPT {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more findings", self.more));
        }
        self.lines
    }
}

/// Text: undecided orders, items with their faults, findings; the last line begins with the
/// verdict.
impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total.undecided > 0 {
            let orders = self.total.undecided;
            writeln!(
                f,
                "UNDECIDED: {orders} orders have no decision yet; the audit covers the others"
            )?;
        }
        let (faulty, sound): (Vec<_>, Vec<_>) =
            self.items.iter().partition(|item| !item.summary.faults().is_empty());
        for item in sound.iter().take(LISTED) {
            writeln!(f, "{item}")?;
        }
        if sound.len() > LISTED {
            writeln!(f, "... and {} more items without a fault", sound.len() - LISTED)?;
        }
        for item in faulty {
            writeln!(f, "{item}")?;
            for (name, amount) in item.summary.faults() {
                writeln!(f, "    {amount} {name}")?;
            }
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let total = &self.total;
        let old_rule = total.old_rule_items + total.old_rule_orders + self.old_rule_letters;
        if old_rule > 0 {
            writeln!(
                f,
                "checked by the old rule: {old_rule} (items {}, orders {}, dead letters {})",
                total.old_rule_items, total.old_rule_orders, self.old_rule_letters
            )?;
        }
        write!(
            f,
            "{}: items {}, orders {}, oversold {}, stranded {}, undecided {}",
            self.verdict,
            self.items.len(),
            total.orders,
            total.oversold_units,
            total.stranded_units,
            total.undecided
        )?;
        let printed = ["oversold units", "stranded units"];
        let mut others = total.faults();
        others.retain(|(name, _)| !printed.contains(name));
        others.iter().try_for_each(|(name, amount)| write!(f, ", {amount} {name}"))?;
        match self.findings.len() {
            0 => Ok(()),
            findings => write!(f, ", {findings} other findings"),
        }
    }
}
