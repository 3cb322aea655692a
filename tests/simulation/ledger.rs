//! The simulated ledger: every write is conditional, and applied as a whole or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flux::core::model::{
    Clock, Decided, Decision, Item, ItemChange, ItemId, OrderId, Timestamp, UserId,
};
use flux::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, Expect, ItemRemoved, ItemSet, Ledger,
    LedgerError, OrderRecord, OrderState, Page, StoreTotals,
};

use super::guards::Guard;
use super::process::{Failed, Process};
use super::store::{State, Store};
use super::world::Fault;

/// Rejections per write.
const RECORDED_TOGETHER: usize = 3;

/// The client of the simulated ledger in one process.
#[derive(Debug)]
pub struct SimLedger {
    process: Arc<Process>,
    store: Arc<Store>,
    /// With the guard `SoldOutReread` disabled: items that rejected all orders when they were read.
    /// They are not read again.
    rejects_all: Mutex<BTreeMap<ItemId, Item>>,
}

impl SimLedger {
    pub fn new(process: Arc<Process>, store: Arc<Store>) -> Self {
        Self { process, store, rejects_all: Mutex::default() }
    }
}

impl fmt::Display for SimLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated ledger")
    }
}

impl From<Failed> for LedgerError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused => LedgerError::Busy("throttled".to_owned()),
            Failed::Unknown => LedgerError::OutcomeUnknown("no reply".to_owned()),
        }
    }
}

impl Store {
    /// True if an order is decided or dead-lettered, and must not get a decision.
    fn is_closed(&self, state: &State, id: OrderId) -> bool {
        if self.is_embedded() && state.letters.contains_key(&id) {
            return true;
        }
        let Some(row) = state.decided.get(&id) else { return false };
        let is_no = row.decision != Decision::Sold;
        !(self.is_disabled(Guard::OrderUndecided) || is_no && self.is_disabled(Guard::FinalNo))
    }

    fn commit(&self, commit: &Commit) -> Committed {
        let mut state = self.state();
        let version = state.items.get(&commit.item.id).map_or(0, |item| item.version);
        let item_changed = match commit.expect {
            Expect::Version(read) => read != version && !self.is_disabled(Guard::Version),
            Expect::Anything => false,
        };
        let ids = commit.decided.iter().map(|one| one.order.id);
        let decided_before: Vec<OrderId> = ids.filter(|id| self.is_closed(&state, *id)).collect();
        let item = &commit.item;
        if item_changed || !decided_before.is_empty() {
            self.world.trace(format_args!(
                "{} refused: changed {item_changed}, decided before {decided_before:?}",
                item.id
            ));
            return Committed::Refused { item_changed, decided_before };
        }
        self.world.trace(format_args!("{} v{}: free {}", item.id, item.version, item.free));
        self.write(&mut state, &commit.decided);
        state.items.insert(item.id.clone(), item.clone());
        self.world.audit(|auditor| auditor.committed(item, &commit.decided));
        Committed::Written
    }

    /// Returns the orders that had a decision, and whether all others were written.
    fn record(&self, rejected: &[Decided]) -> (Vec<OrderId>, bool) {
        let mut state = self.state();
        let mut closed = Vec::new();
        for batch in rejected.chunks(RECORDED_TOGETHER) {
            if self.world.happens(Fault::PartialBatch) {
                return (closed, false);
            }
            let (decided, open): (Vec<Decided>, Vec<Decided>) =
                batch.iter().cloned().partition(|one| self.is_closed(&state, one.order.id));
            closed.extend(decided.into_iter().map(|one| one.order.id));
            self.write(&mut state, &open);
            self.world.audit(|auditor| auditor.recorded(&open));
        }
        (closed, true)
    }

    pub fn write(&self, state: &mut State, decided: &[Decided]) {
        for one in decided {
            self.world.trace(format_args!("{} is {:?}", one.order.id, one.decision));
            state.decided.insert(one.order.id, one.clone());
            if self.is_embedded() {
                state.rows.insert(one.order.id, one.order.clone());
            }
        }
        if self.is_embedded() {
            let ids: Vec<OrderId> = decided.iter().map(|one| one.order.id).collect();
            state.close_rows(&ids);
        }
    }

    fn find(&self, orders: &[OrderId]) -> Vec<Option<OrderRecord>> {
        let state = self.state();
        let one = |id: &OrderId| {
            if let Some(row) = state.decided.get(id) {
                let state =
                    OrderState::Decided { decision: row.decision, decided_at: row.decided_at };
                return Some(OrderRecord { order: row.order.clone(), state });
            }
            let order = state.rows.get(id)?.clone();
            let dead = state.letters.contains_key(id);
            let state = if dead { OrderState::DeadLettered } else { OrderState::Queued };
            Some(OrderRecord { order, state })
        };
        orders.iter().map(one).collect()
    }

    pub fn set_item(&self, id: &ItemId, change: ItemChange, now: Timestamp) -> ItemSet {
        let mut state = self.state();
        let set = ItemSet::plan(id, state.items.get(id), change, now);
        if let ItemSet::Created(item) | ItemSet::Changed(item) = &set {
            let Item { version, stock, free, .. } = item;
            let status = item.status();
            self.world.trace(format_args!("{id} v{version}: {status}, stock {stock}, free {free}"));
            state.items.insert(id.clone(), item.clone());
            self.world.audit(|auditor| auditor.changed(item));
        }
        set
    }
}

impl Store {
    fn remove_item(&self, id: &ItemId) -> ItemRemoved {
        let mut state = self.state();
        let ordered = self.is_embedded() && state.rows.values().any(|order| order.item == *id);
        let removed = ItemRemoved::plan(state.items.get(id), ordered);
        if let ItemRemoved::Removed(item) = &removed {
            self.world.trace(format_args!("{id} v{}: removed", item.version));
            state.items.insert(id.clone(), item.clone());
            self.world.audit(|auditor| auditor.changed(item));
        }
        removed
    }
}

fn not_paged<T>() -> Result<Page<T>, LedgerError> {
    Err(LedgerError::Broken("the simulated ledger has no pages".to_owned()))
}

#[async_trait]
impl Ledger for SimLedger {
    fn max_commit(&self) -> usize {
        self.store.setup.commit_max
    }

    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError> {
        if let Some(remembered) = self.rejects_all.lock().unwrap().get(item) {
            return Ok(Some(remembered.clone()));
        }
        let store = self.store.clone();
        let id = item.clone();
        let read = move || store.state().items.get(&id).cloned();
        let found = self.process.call(format!("reads {item}"), read).await?;
        if self.store.is_disabled(Guard::SoldOutReread)
            && let Some(item) = found.as_ref().filter(|item| item.rejects_all())
        {
            self.rejects_all.lock().unwrap().insert(item.id.clone(), item.clone());
        }
        Ok(found)
    }

    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError> {
        let store = self.store.clone();
        let orders = orders.to_vec();
        Ok(self.process.call("finds".to_owned(), move || store.find(&orders)).await?)
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError> {
        let store = self.store.clone();
        let it = commit.clone();
        let what = format!("commits {} of {}", commit.decided.len(), commit.item.id);
        Ok(self.process.call(what, move || store.commit(&it)).await?)
    }

    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        let store = self.store.clone();
        let batch = rejected.to_vec();
        let what = format!("records {}", rejected.len());
        match self.process.call(what, move || store.record(&batch)).await? {
            (decided_before, true) => Ok(decided_before),
            (_, false) => Err(LedgerError::Busy("some were not written".to_owned())),
        }
    }

    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError> {
        let store = self.store.clone();
        let id = item.clone();
        let now = self.process.now();
        let set = move || store.set_item(&id, change, now);
        Ok(self.process.call(format!("changes {item}: {change:?}"), set).await?)
    }

    async fn remove_item(&self, item: &ItemId) -> Result<ItemRemoved, LedgerError> {
        let store = self.store.clone();
        let id = item.clone();
        let remove = move || store.remove_item(&id);
        Ok(self.process.call(format!("removes {item}"), remove).await?)
    }

    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError> {
        Ok(None)
    }

    async fn items(&self, _: Option<&str>, _: usize) -> Result<Page<Item>, LedgerError> {
        not_paged()
    }

    async fn inventory(
        &self,
        _: Option<&str>,
        _: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError> {
        not_paged()
    }

    async fn audit_items(&self, _: Option<&str>) -> Result<Page<AuditedItem>, LedgerError> {
        not_paged()
    }

    async fn audit_orders(
        &self,
        _: Option<&ItemId>,
        _: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError> {
        not_paged()
    }

    async fn check(&self) -> Result<(), LedgerError> {
        Ok(())
    }
}
