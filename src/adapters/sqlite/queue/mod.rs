//! The queue in the embedded store: the undecided rows of `orders`.
//!
//! A receiver claims items, not orders. All orders of an item go to one receiver, in their order of
//! arrival (P6), until it has none of them in flight or its claim ends.

mod claims;
mod dead_letters;
mod dropped;
mod handoff;
mod rows;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::{Store, StoreError, seq};
use crate::core::model::{Clock, IdSource, MacKeys, Order, OrderId, OrderKey, SystemIdSource};
use crate::core::ports::dead_letters::{DeadLetter, DlqCursor, DlqFilter, LetterPosition};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, OLDEST_AMONG, Queue, QueueError, QueueLimits, QueuePosition,
    Receipt, Sent,
};
use claims::{CLAIM, Claim, latest_claim_end, receipt, seq_range};
use handoff::{HandoffCache, POLL_INTERVAL};

#[derive(Debug)]
pub struct SqliteQueue {
    store: Store,
    keys: rows::Keys,
    clock: Arc<dyn Clock>,
    visibility: Duration,
    backlog_max: u64,
    /// Identifies this receiver in `items.claimed_by`.
    receiver_id: i64,
    /// By item key. Copies of the claims in the file, with the deliveries in flight.
    claims: Mutex<HashMap<i64, Claim>>,
    handoff: Mutex<HandoffCache>,
    /// Notified when there may be something to receive.
    arrived: Notify,
    /// Key of the item that the last poll ended at: the next poll begins after it.
    last_polled: AtomicI64,
}

impl SqliteQueue {
    /// `visibility`: see [`Queue::receive`]. `backlog_max`: maximum number of waiting orders (P8).
    pub fn new(
        store: Store,
        key: OrderKey,
        clock: Arc<dyn Clock>,
        visibility: Duration,
        backlog_max: u64,
    ) -> Self {
        let receiver_id = (SystemIdSource.next_id() >> 65) as i64;
        Self {
            store,
            keys: rows::Keys { mac: MacKeys::new(&key), old: key },
            clock,
            visibility,
            backlog_max,
            receiver_id,
            claims: Mutex::default(),
            handoff: Mutex::new(HandoffCache::new()),
            arrived: Notify::new(),
            last_polled: AtomicI64::new(0),
        }
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<i64, Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handoff(&self) -> MutexGuard<'_, HandoffCache> {
        self.handoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives what is available now: from memory, and from the file if it must be polled.
    async fn receive_now(&self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        self.keep_claims().await?;
        let handoff = {
            let claims = self.claims();
            self.handoff().take(max, |key| claims.get(&key).map(|claim| claim.cursor))
        };
        let room = max - handoff.len();
        let mut deliveries = self.deliver(handoff);
        if room == 0 || !self.handoff().needs_poll(self.store.change_counter(), Instant::now()) {
            return Ok(deliveries);
        }
        match self.receive_from_file(room).await {
            Ok(mut polled) => deliveries.append(&mut polled),
            Err(e) => {
                self.handoff().require_poll();
                if deliveries.is_empty() {
                    return Err(e);
                }
            }
        }
        Ok(deliveries)
    }

    async fn receive_from_file(&self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        let mut poll = self.poll(max).await?;
        if !poll.unclaimed.is_empty() {
            self.claim(poll.unclaimed).await?;
            poll = self.poll(max).await?;
        }
        if poll.has_more {
            self.handoff().require_poll();
        }
        let unreadable = poll.rows.iter().filter_map(|row| row.order.as_ref().err().cloned());
        self.dead_letter(unreadable.collect()).await?;
        Ok(self.deliver(poll.rows))
    }

    async fn poll(&self, max: usize) -> Result<rows::Poll, QueueError> {
        let claimed = self.claims().iter().map(|(key, claim)| (*key, claim.cursor)).collect();
        let now = self.clock.now();
        let request = rows::PollRequest {
            claimed,
            now,
            latest_claim_end: latest_claim_end(now),
            max,
            after_item: self.last_polled.load(Ordering::Relaxed),
        };
        let found = self.store.read(move |c| rows::poll(c, &request)).await?;
        if let Some(last) = found.rows.last() {
            self.last_polled.store(seq::item_key(last.seq), Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Claims, or renews the claims on, those of the items that no other receiver has claimed.
    async fn claim(&self, items: Vec<i64>) -> Result<(), QueueError> {
        let receiver_id = self.receiver_id;
        let now = self.clock.now();
        let until = now.plus(CLAIM);
        let latest = latest_claim_end(now);
        let claim = move |tx: &Connection| {
            let mut claim = tx.prepare_cached(
                "UPDATE items SET claimed_by = ?1, claimed_until = ?2
                 WHERE no = ?3 AND (claimed_by = ?1 OR claimed_until <= ?4 OR claimed_until > ?5)",
            )?;
            let mut claimed = Vec::new();
            for key in items {
                if claim.execute(params![receiver_id, until.0, key, now.0, latest.0])? == 1 {
                    claimed.push(key);
                }
            }
            Ok(claimed)
        };
        let claimed = self.store.write(claim).await?;
        let mut claims = self.claims();
        for key in claimed {
            claims.entry(key).or_insert_with(|| Claim::new(key, until)).until = until;
        }
        Ok(())
    }

    /// Puts expired deliveries back, removes claims that have ended, and renews those with
    /// deliveries in flight after a third of their time.
    async fn keep_claims(&self) -> Result<(), QueueError> {
        let due = {
            let now = self.clock.now();
            let monotonic_now = Instant::now();
            let mut claims = self.claims();
            for claim in claims.values_mut() {
                if claim.expire(monotonic_now) {
                    self.handoff().require_poll();
                }
            }
            claims.retain(|_, claim| claim.until > now && claim.until <= latest_claim_end(now));
            let renew_below = now.plus(CLAIM - CLAIM / 3);
            let is_due = |claim: &Claim| claim.until < renew_below && !claim.in_flight.is_empty();
            let due = claims.iter().filter(|(_, claim)| is_due(claim)).map(|(key, _)| *key);
            due.collect::<Vec<_>>()
        };
        if due.is_empty() { Ok(()) } else { self.claim(due).await }
    }

    async fn dead_letter(&self, letters: Vec<DeadLetter>) -> Result<(), QueueError> {
        if letters.is_empty() {
            return Ok(());
        }
        let written = letters.clone();
        let keys = self.keys;
        let write =
            move |tx: &Connection| written.iter().try_for_each(|l| rows::dead_letter(tx, &keys, l));
        self.store.write(write).await?;
        crate::core::ports::dead_letters::log_written(&letters);
        Ok(())
    }

    /// Turns rows into deliveries: one for each run of consecutive rows of an item, because a
    /// receipt is a range of sequence numbers. Marks the deliveries as in flight.
    ///
    /// The rows were read without the lock on `claims`, so they can be out of date here: an item's
    /// claim may have ended, and a row may have been delivered from memory while the file was
    /// polled. A row without a claim is left out; the next process that claims the item reads it
    /// from the file. A row in flight is left out too, and ends the run. The lock is held from the first
    /// check until the deliveries are in flight, so no row gets into two deliveries of this
    /// process. Another process may deliver it as well; then the ledger refuses one decision. If
    /// this process is killed here, the rows are still queued, and are delivered after its claim
    /// ends.
    fn deliver(&self, rows: Vec<rows::QueuedRow>) -> Vec<Delivery> {
        let invisible_until = Instant::now() + self.visibility;
        let mut claims = self.claims();
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut run_start: Option<i64> = None;
        for rows::QueuedRow { seq, order } in rows {
            // An unreadable row has been dead-lettered.
            let Ok(order) = order else { continue };
            let item_key = seq::item_key(seq);
            let Some(claim) = claims.get_mut(&item_key) else { continue };
            claim.cursor = claim.cursor.max(seq);
            if claim.is_in_flight(seq) {
                run_start = None;
                continue;
            }
            let entry = (Arrival(seq as u128), order);
            let receive_count = if seq <= claim.max_cursor { 2 } else { 1 };
            match (run_start, deliveries.last_mut()) {
                (Some(first), Some(delivery)) if seq::item_key(first) == item_key => {
                    delivery.orders.push(entry);
                    delivery.receipt = receipt(first, seq);
                    delivery.receive_count = delivery.receive_count.max(receive_count);
                }
                _ => {
                    run_start = Some(seq);
                    let receipt = receipt(seq, seq);
                    deliveries.push(Delivery { receipt, orders: vec![entry], receive_count });
                }
            }
            claim.max_cursor = claim.max_cursor.max(seq);
        }
        for delivery in &deliveries {
            if let Some((first, last)) = seq_range(&delivery.receipt)
                && let Some(claim) = claims.get_mut(&seq::item_key(first))
            {
                claim.in_flight.insert(first, (last, invisible_until));
            }
        }
        deliveries
    }

    /// Calls `act` with the claim and the first sequence number of each delivery that is still in
    /// flight.
    fn each_in_flight(&self, receipts: &[Receipt], mut act: impl FnMut(&mut Claim, i64)) {
        let mut claims = self.claims();
        for (first, last) in receipts.iter().filter_map(seq_range) {
            if let Some(claim) = claims.get_mut(&seq::item_key(first))
                && claim.in_flight.get(&first).is_some_and(|(l, _)| *l == last)
            {
                act(claim, first);
            }
        }
    }
}

impl fmt::Display for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue in {}", self.store)
    }
}

impl From<StoreError> for QueueError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::RolledBack(why) => QueueError::Busy(why),
            StoreError::Unknown(why) => QueueError::OutcomeUnknown(why),
            StoreError::Broken(why) => QueueError::Broken(why),
        }
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    fn limits(&self) -> QueueLimits {
        QueueLimits { send: 1_024, sends_in_flight: 2, letters_in_order: true }
    }

    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>> {
        let batch = orders.to_vec();
        let backlog_max = self.backlog_max;
        let keys = self.keys.mac;
        match self.store.write(move |tx| rows::insert(tx, &keys, batch, backlog_max)).await {
            Ok(Ok(inserted)) => {
                {
                    let claims = self.claims();
                    self.handoff().add(inserted.rows, |key| claims.contains_key(&key));
                }
                self.arrived.notify_one();
                inserted.sent.into_iter().map(Ok).collect()
            }
            Ok(Err(waiting)) => vec![Err(QueueError::Full(waiting)); orders.len()],
            Err(e) => vec![Err(e.into()); orders.len()],
        }
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let end = Instant::now() + wait;
        let mut changes = self.store.changes();
        loop {
            changes.borrow_and_update();
            let is_over = Instant::now() >= end;
            if is_over {
                self.handoff().require_poll();
            }
            let deliveries = self.receive_now(max).await?;
            if !deliveries.is_empty() || is_over {
                return Ok(deliveries);
            }
            let next_poll = end.min(Instant::now() + POLL_INTERVAL);
            tokio::select! {
                biased;
                _changed = changes.changed() => {}
                () = self.arrived.notified() => {}
                () = tokio::time::sleep_until(next_poll) => {}
            }
        }
    }

    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        self.each_in_flight(receipts, |claim, first| {
            claim.in_flight.remove(&first);
        });
        vec![Ok(()); receipts.len()]
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let until = Instant::now() + self.visibility;
        self.each_in_flight(receipts, |claim, first| {
            claim.in_flight.entry(first).and_modify(|(_, end)| *end = until);
        });
        self.keep_claims().await
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.each_in_flight(receipts, Claim::put_back);
        let idle: Vec<i64> = {
            let mut claims = self.claims();
            claims.extract_if(|_, claim| claim.in_flight.is_empty()).map(|(key, _)| key).collect()
        };
        let receiver_id = self.receiver_id;
        let unclaim = move |tx: &Connection| {
            let mut unclaim = tx.prepare_cached(
                "UPDATE items SET claimed_until = 0 WHERE no = ? AND claimed_by = ?",
            )?;
            idle.iter().try_for_each(|key| unclaim.execute(params![key, receiver_id]).map(drop))
        };
        self.store.write(unclaim).await?;
        self.handoff().require_poll();
        self.arrived.notify_one();
        Ok(())
    }

    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        self.dead_letter(letters.to_vec()).await
    }

    fn dead_letter_cursor(
        &self,
        filter: &DlqFilter,
        after: Option<LetterPosition>,
    ) -> Box<dyn DlqCursor + '_> {
        let cursor = dead_letters::Cursor::new(&self.store, self.keys, &*self.clock, filter, after);
        Box::new(cursor)
    }

    fn decides_dropped(&self) -> bool {
        true
    }

    async fn begin(&self) -> Result<(), QueueError> {
        dropped::finish_upgrade(&self.store, self.keys, self.clock.now()).await
    }

    async fn position(&self, order: OrderId) -> Result<Option<QueuePosition>, QueueError> {
        Ok(self.store.read(move |c| rows::position(c, order)).await?)
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        let read = |c: &Connection| {
            let letters = c.query_row("SELECT count(*) FROM dead_letters", [], |r| r.get(0))?;
            let waiting = rows::count_waiting(c)?;
            let oldest = rows::oldest(c, OLDEST_AMONG)?;
            Ok(Backlog { waiting, dead_letters: letters, oldest })
        };
        Ok(self.store.read(read).await?)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(self.store.read(rows::count_waiting).await.map(drop)?)
    }
}
