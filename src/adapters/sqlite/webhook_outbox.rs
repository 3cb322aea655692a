//! The webhook outbox in the embedded store: a table, into which triggers on `orders` write an event
//! for each decision. The triggers are in the file, so they work in every process that decides,
//! whatever its settings are. Without the triggers, no events are written, and there is no cost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::time::Instant;

use super::store::objects::{WEBHOOKS_PUT, webhook_triggers};
use super::store::{Store, StoreError, state};
use crate::core::model::event::Kinds;
use crate::core::model::{Clock, Decided, ItemId, Order, OrderId, Quantity, Timestamp, UserId};
use crate::core::ports::dead_letters::{DlqAction, DlqFilter};
use crate::core::ports::webhook_outbox::{
    AttemptResult, DeadEvent, DueEvent, Lease, OutboxBacklog, OutboxError, WebhookOutbox,
};

/// Interval at which a waiting `take` checks whether the file has changed.
const CHECK_EVERY: Duration = Duration::from_millis(10);
/// Longest time between two reads of the file: retried events become due without a change.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// The longest retry delay or lease. An event that is due later than this was written before the
/// clock was set back, and counts as due.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 3600);

/// `place` is that of the order. `due` is at first the time of the decision.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS webhooks (
    place INTEGER PRIMARY KEY,
    due INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    dead_at INTEGER,
    reason TEXT
);
CREATE INDEX IF NOT EXISTS webhooks_due ON webhooks (due) WHERE dead_at IS NULL;
";
const NO_TRIGGERS: &str = "
DROP TRIGGER IF EXISTS webhooks_put;
DROP TRIGGER IF EXISTS webhooks_take_back;
";

#[derive(Debug)]
pub struct SqliteOutbox {
    store: Store,
    clock: Arc<dyn Clock>,
    kinds: Kinds,
}

impl SqliteOutbox {
    /// Opens the outbox, and creates its table if it is missing. [`WebhookOutbox::begin`] switches it
    /// on. `kinds` are the events that are written.
    pub async fn open(
        store: Store,
        clock: Arc<dyn Clock>,
        kinds: Kinds,
    ) -> Result<Self, OutboxError> {
        store.write(|tx| tx.execute_batch(TABLE)).await?;
        Ok(Self { store, clock, kinds })
    }

    /// Whether events are written in this file.
    pub async fn is_on(store: &Store) -> Result<bool, OutboxError> {
        let find = "SELECT count(*) FROM sqlite_schema WHERE name = 'webhooks_put'";
        let read = |c: &Connection| c.query_row(find, [], |row| row.get::<_, i64>(0));
        Ok(store.read(read).await? > 0)
    }
}

impl fmt::Display for SqliteOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhooks in {}", self.store)
    }
}

impl From<StoreError> for OutboxError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::RolledBack(why) | StoreError::Unknown(why) => OutboxError::Busy(why),
            StoreError::Broken(why) => OutboxError::Broken(why),
        }
    }
}

#[async_trait]
impl WebhookOutbox for SqliteOutbox {
    async fn begin(&self) -> Result<(), OutboxError> {
        let kinds = self.kinds;
        let wanted = webhook_triggers(|decision| kinds.want(decision));
        let switch_on = move |tx: &Connection| {
            let find = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?";
            let found: Option<String> =
                tx.query_row(find, [WEBHOOKS_PUT], |row| row.get(0)).optional()?;
            if found.is_some_and(|found| found == wanted[0]) {
                return Ok(());
            }
            tx.execute_batch(NO_TRIGGERS)?;
            tx.execute_batch(&wanted.join(";\n"))
        };
        Ok(self.store.write(switch_on).await?)
    }

    async fn end(&self) -> Result<(), OutboxError> {
        Ok(self.store.write(|tx| tx.execute_batch(NO_TRIGGERS)).await?)
    }

    fn put_by_ledger(&self) -> bool {
        true
    }

    async fn put(&self, decided: &[Decided]) -> Result<(), OutboxError> {
        let wanted = decided.iter().filter(|one| self.kinds.want(one.decision));
        let ids: Vec<OrderId> = wanted.map(|one| one.order.id).collect();
        let put = move |tx: &Connection| {
            let mut put = tx.prepare_cached(
                "INSERT OR IGNORE INTO webhooks (place, due)
                 SELECT place, decided_at FROM orders WHERE id = ?",
            )?;
            ids.iter().try_for_each(|id| put.execute([id.as_bytes()]).map(drop))
        };
        Ok(self.store.write(put).await?)
    }

    async fn take(
        &self,
        max: usize,
        wait: Duration,
        lease: Duration,
    ) -> Result<Vec<DueEvent>, OutboxError> {
        let end = Instant::now() + wait;
        loop {
            let version = (self.store.change_counter(), self.store.written());
            let now = self.clock.now();
            if self.store.read(move |c| Ok(find(c, now, 1)?.len())).await? > 0 {
                let due = self.store.write(move |tx| take(tx, now, max, lease)).await?;
                if !due.is_empty() {
                    return Ok(due);
                }
            }
            let next_poll = Instant::now() + POLL_EVERY;
            while (self.store.change_counter(), self.store.written()) == version {
                let now = Instant::now();
                if now >= end {
                    return Ok(Vec::new());
                }
                if now >= next_poll {
                    break;
                }
                tokio::time::sleep(CHECK_EVERY).await;
            }
        }
    }

    async fn record_results(
        &self,
        results: &[(DueEvent, AttemptResult)],
    ) -> Result<(), OutboxError> {
        let now = self.clock.now();
        let results: Vec<_> = results
            .iter()
            .filter_map(|(due, result)| {
                let (seq, until) = due.lease.0.split_once('-')?;
                let lease = LeasedEvent { seq: seq.parse().ok()?, until: until.parse().ok()? };
                Some((lease, due.attempts + 1, result.clone()))
            })
            .collect();
        let write = move |tx: &Connection| {
            results.iter().try_for_each(|(lease, attempts, result)| {
                record_result(tx, lease, *attempts, result, now)
            })
        };
        Ok(self.store.write(write).await?)
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadEvent>, OutboxError> {
        Ok(self.store.read(move |c| letters(c, max)).await?)
    }

    async fn resolve_letters(
        &self,
        filter: &DlqFilter,
        action: DlqAction,
    ) -> Result<usize, OutboxError> {
        let filter = filter.clone();
        let now = self.clock.now();
        let resolve = move |tx: &Connection| {
            let seqs = dead_seqs(tx, &filter)?;
            match action {
                DlqAction::Redrive => {
                    let sql = "UPDATE webhooks
                        SET due = ?, attempts = 0, dead_at = NULL, reason = NULL WHERE place = ?";
                    let mut redrive = tx.prepare_cached(sql)?;
                    seqs.iter().map(|seq| redrive.execute(params![now.0, seq])).sum()
                }
                DlqAction::Drop => {
                    let mut delete = tx.prepare_cached("DELETE FROM webhooks WHERE place = ?")?;
                    seqs.iter().map(|seq| delete.execute([seq])).sum()
                }
            }
        };
        Ok(self.store.write(resolve).await?)
    }

    async fn waiting(&self) -> Result<OutboxBacklog, OutboxError> {
        let read = |c: &Connection| {
            let count = |condition: &str| {
                let sql = format!("SELECT count(*) FROM webhooks WHERE dead_at {condition}");
                c.prepare_cached(&sql)?.query_row([], |row| row.get::<_, u64>(0))
            };
            Ok(OutboxBacklog { waiting: count("IS NULL")?, dead_letters: count("IS NOT NULL")? })
        };
        Ok(self.store.read(read).await?)
    }
}

/// Sequence numbers of the orders whose events are due, the earliest first.
fn find(c: &Connection, now: Timestamp, max: usize) -> rusqlite::Result<Vec<i64>> {
    let select = |condition: &str, time: Timestamp| -> rusqlite::Result<Vec<i64>> {
        let sql = format!(
            "SELECT place FROM webhooks WHERE dead_at IS NULL AND due {condition} ?
             ORDER BY due LIMIT ?"
        );
        let mut find = c.prepare_cached(&sql)?;
        let rows = find.query_map(params![time.0, max as i64], |row| row.get(0))?;
        rows.collect()
    };
    let due = select("<=", now)?;
    if due.is_empty() { select(">", now.plus(LONGEST_DELAY)) } else { Ok(due) }
}

fn take(
    tx: &Connection,
    now: Timestamp,
    max: usize,
    lease: Duration,
) -> rusqlite::Result<Vec<DueEvent>> {
    let until = now.plus(lease).0;
    let mut read = tx.prepare_cached(
        "SELECT attempts, orders.id, user, items.id, quantity, accepted_at, state, decided_at
         FROM webhooks LEFT JOIN orders USING (place) LEFT JOIN items ON items.no = place >> 32
         WHERE place = ?",
    )?;
    let mut set_lease = tx.prepare_cached("UPDATE webhooks SET due = ? WHERE place = ?")?;
    let mut due = Vec::new();
    for seq in find(tx, now, max)? {
        match read.query_row([seq], |row| Ok((row.get(0)?, decided(row)))) {
            Ok((attempts, Ok(decided))) => {
                set_lease.execute(params![until, seq])?;
                due.push(DueEvent { lease: Lease(format!("{seq}-{until}")), decided, attempts });
            }
            Ok((_, Err(e))) => {
                dead_letter(tx, seq, &format!("the order cannot be read: {e}"), now)?
            }
            Err(e) => return Err(e),
        }
    }
    Ok(due)
}

fn decided(row: &Row<'_>) -> rusqlite::Result<Decided> {
    let damaged = |column: usize, why: String| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, why.into())
    };
    let text = |column: usize| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
    let order = Order {
        id: OrderId::from_bytes(row.get(1)?),
        user: UserId::parse(text(2)?).map_err(|e| damaged(2, e.to_string()))?,
        item: ItemId::parse(text(3)?).map_err(|e| damaged(3, e.to_string()))?,
        quantity: Quantity::new(row.get(4)?).map_err(|e| damaged(4, e.to_string()))?,
        accepted_at: Timestamp(row.get(5)?),
        trace: None,
    };
    let decision = state::decision(row.get(6)?);
    let decision = decision.ok_or_else(|| damaged(6, "the order is not decided".to_owned()))?;
    Ok(Decided { order, decision, decided_at: Timestamp(row.get(7)?) })
}

/// An event as `take` leased it: the order's sequence number, and the end of the lease.
struct LeasedEvent {
    seq: i64,
    until: i64,
}

/// Records the result of an attempt. If the lease has ended and another sender has leased the event,
/// its row has another `due`: the result is ignored, unless the event was delivered.
fn record_result(
    tx: &Connection,
    lease: &LeasedEvent,
    attempts: u32,
    result: &AttemptResult,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let LeasedEvent { seq, until } = *lease;
    let reschedule = |due: Timestamp, attempts: u32| {
        let sql = "UPDATE webhooks SET due = ?, attempts = ? WHERE place = ? AND due = ?";
        tx.prepare_cached(sql)?.execute(params![due.0, attempts, seq, until]).map(drop)
    };
    match result {
        AttemptResult::Sent => {
            let sql = "DELETE FROM webhooks WHERE place = ?";
            tx.prepare_cached(sql)?.execute([seq]).map(drop)
        }
        AttemptResult::RetryAt { until } => reschedule(*until, attempts),
        AttemptResult::NotAttempted => reschedule(now, attempts - 1),
        AttemptResult::Dead { reason } => {
            reschedule(Timestamp(until as u64), attempts)?;
            dead_letter(tx, seq, reason, now)
        }
    }
}

fn dead_letter(tx: &Connection, seq: i64, reason: &str, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE webhooks SET dead_at = ?, reason = ? WHERE place = ?";
    tx.prepare_cached(sql)?.execute(params![now.0, reason, seq]).map(drop)
}

fn letters(c: &Connection, max: usize) -> rusqlite::Result<Vec<DeadEvent>> {
    let mut letters = c.prepare_cached(
        "SELECT orders.id, state, reason, attempts, dead_at FROM webhooks
         JOIN orders USING (place) WHERE dead_at IS NOT NULL ORDER BY dead_at, place LIMIT ?",
    )?;
    let rows = letters.query_map([max as i64], |row| {
        Ok(DeadEvent {
            order_id: OrderId::from_bytes(row.get(0)?),
            status: state::decision(row.get(1)?).map_or("unknown", |decision| decision.status()),
            reason: row.get(2)?,
            attempts: row.get(3)?,
            at: Timestamp(row.get(4)?),
        })
    })?;
    rows.collect()
}

fn dead_seqs(tx: &Connection, filter: &DlqFilter) -> rusqlite::Result<Vec<i64>> {
    let mut dead = tx.prepare_cached(
        "SELECT place, orders.id, reason FROM webhooks JOIN orders USING (place)
         WHERE dead_at IS NOT NULL",
    )?;
    let mut rows = dead.query([])?;
    let mut seqs = Vec::new();
    while let Some(row) = rows.next()? {
        let reason = row.get_ref(2)?.as_str_or_null()?.unwrap_or_default();
        if filter.matches(OrderId::from_bytes(row.get(1)?), reason) {
            seqs.push(row.get(0)?);
        }
    }
    Ok(seqs)
}
