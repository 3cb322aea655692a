//! What an audit found, in figures and in words.

use std::fmt;
use std::ops::AddAssign;

use serde::Serialize;

use crate::core::model::ItemId;

/// How many items without a finding are listed in text; those with one always are.
const LISTED: usize = 20;
/// How many findings in words are kept.
const FINDINGS_KEPT: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditResult {
    Pass,
    Fail,
}

impl AuditResult {
    pub fn passed_if(passed: bool) -> Self {
        if passed { AuditResult::Pass } else { AuditResult::Fail }
    }
}

impl fmt::Display for AuditResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == AuditResult::Pass { "PASS" } else { "FAIL" })
    }
}

/// Figures of one item, or of all together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AuditSummary {
    /// Units, as the item says.
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    /// Units of the order rows that say sold.
    pub sold: u64,
    /// Order rows, whatever became of them.
    pub orders: u64,
    pub rejected: u64,
    pub expired: u64,
    /// Orders whose dead letters the organiser dropped.
    pub dropped: u64,
    /// Orders that still wait for a decision. No fault in a store that is in use.
    pub undecided: u64,
    /// Orders that ended in the dead-letter queue: allowed by P3, and worth a look.
    pub dead_lettered: u64,
    /// P1: units held and sold above the stock.
    pub oversold_units: u64,
    /// P2: units nobody has by the order rows, although an order of that quantity or less,
    /// accepted after the last restock, was rejected `sold_out`.
    pub stranded_units: u64,
    /// Units that the item's counter says are sold, and no order row has.
    pub unaccounted_units: u64,
    /// Units of order rows that the item's counter does not say are sold.
    pub uncounted_units: u64,
    /// By how much free + held + sold differs from the stock.
    pub unbalanced_units: u64,
    /// P4: order rows that do not fit their MAC, whatever they say.
    pub changed_decisions: u64,
    /// Decisions that the item counts, and no order row has any more.
    pub undone_decisions: u64,
    /// Decisions of order rows that the item does not count.
    pub uncounted_decisions: u64,
    /// By how much the item's count of dead-lettered orders differs from its rows.
    pub miscounted_dead_letters: u64,
    /// Items whose row does not fit its MAC.
    pub changed_items: u64,
    /// One-of-a-kind items whose owner bought no unit by the order rows.
    pub wrong_owners: u64,
    /// P3: order rows that the store says there are, and are not there.
    pub missing_orders: u64,
    /// Order rows beyond those that the store says there are.
    pub unexpected_orders: u64,
    /// Sold orders accepted after their item's sale was closed, and it still is.
    pub sold_when_closed: u64,
    /// P6: sold orders accepted later than one of the same or smaller quantity, accepted after the
    /// last restock, that was rejected `sold_out`. Reported, no fault: a standard queue does not
    /// keep the order of arrival, and neither do the clocks of several API processes.
    pub inversions: u64,
    /// Items and orders from before MACs, or written by a process from before: they were checked by
    /// the old rule, which finds less. No fault.
    pub old_rule_items: u64,
    pub old_rule_orders: u64,
}

impl AuditSummary {
    /// What breaks a promise: the name and the amount, in the order of the promises.
    pub fn faults(&self) -> Vec<(&'static str, u64)> {
        let mut faults = vec![
            ("oversold units", self.oversold_units),
            ("stranded units", self.stranded_units),
            ("sold units that no order accounts for", self.unaccounted_units),
            ("units of sold orders that the item does not count", self.uncounted_units),
            ("units by which free + held + sold differs from the stock", self.unbalanced_units),
            ("orders changed by something other than flux", self.changed_decisions),
            ("decisions that are gone", self.undone_decisions),
            ("decisions that the item does not count", self.uncounted_decisions),
            ("dead-lettered orders more or less than counted", self.miscounted_dead_letters),
            ("items changed by something other than flux", self.changed_items),
            ("owners who bought nothing", self.wrong_owners),
            ("orders missing", self.missing_orders),
            ("orders that the store never counted", self.unexpected_orders),
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
            ("decided out of turn", self.inversions),
        ];
        others.iter().filter(|(_, n)| *n > 0).try_for_each(|(name, n)| write!(f, ", {name} {n}"))
    }
}

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

/// The outcome of an audit: the sums over all items, and each item by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// `fail` when any of [`AuditSummary::faults`] or `findings` is there. Orders that wait, dead letters,
    /// inversions and what was checked by the old rule are reported and fail nothing here.
    pub verdict: AuditResult,
    #[serde(flatten)]
    pub total: AuditSummary,
    /// What is wrong with the store as a whole, and rows that cannot be read; the first of many.
    pub findings: Vec<String>,
    /// Dead letters from before MACs.
    pub old_rule_letters: u64,
    pub items: Vec<ItemAudit>,
}

impl AuditReport {
    pub(super) fn of(items: Vec<ItemAudit>, findings: Findings, old_rule_letters: u64) -> Self {
        let mut total = AuditSummary::default();
        items.iter().for_each(|item| total += &item.summary);
        let findings = findings.into_lines();
        let passed = total.faults().is_empty() && findings.is_empty();
        let verdict = AuditResult::passed_if(passed);
        Self { verdict, total, findings, old_rule_letters, items }
    }

    /// Nothing was wrong because nothing was there: no items, or no orders.
    pub fn is_of_nothing(&self) -> bool {
        self.verdict == AuditResult::Pass && (self.items.is_empty() || self.total.orders == 0)
    }
}

/// Findings in words, of which only the first are kept.
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

/// For people: what is not decided yet, items, what is wrong with them, and the verdict in the last
/// line.
impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total.undecided > 0 {
            let orders = self.total.undecided;
            writeln!(
                f,
                "UNDECIDED: {orders} orders wait for a decision; the audit covers the others"
            )?;
        }
        let (faulty, sound): (Vec<_>, Vec<_>) =
            self.items.iter().partition(|item| !item.summary.faults().is_empty());
        for item in sound.iter().take(LISTED) {
            writeln!(f, "{item}")?;
        }
        if sound.len() > LISTED {
            writeln!(f, "... and {} items more without a fault", sound.len() - LISTED)?;
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
        let known = ["oversold units", "stranded units"];
        let mut others = total.faults();
        others.retain(|(name, _)| !known.contains(name));
        others.iter().try_for_each(|(name, amount)| write!(f, ", {amount} {name}"))?;
        match self.findings.len() {
            0 => Ok(()),
            findings => write!(f, ", {findings} other findings"),
        }
    }
}
