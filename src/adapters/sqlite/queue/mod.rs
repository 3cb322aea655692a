//! The queue on the embedded store: the undecided rows of `orders`.
//!
//! A receiver claims an item, not an order: all of an item's orders come to one receiver, in
//! their order of arrival (P6), until it has nothing of the item in hand or its claim runs out.

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

use super::store::{Store, StoreError};
use crate::core::model::{Clock, IdSource, MacKeys, Order, OrderId, OrderKey, SystemIdSource};
use crate::core::ports::dead_letters::{DeadLetter, LetterVisitor, Letters};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, OLDEST_AMONG, Queue, QueueError, QueueLimits, QueuePosition,
    Receipt, Sent,
};
use claims::{CLAIM, Claim, longest_claim, places, receipt};
use handoff::{HandoffCache, POLL_INTERVAL};

#[derive(Debug)]
pub struct SqliteQueue {
    store: Store,
    keys: rows::Keys,
    clock: Arc<dyn Clock>,
    visibility: Duration,
    backlog_max: u64,
    /// Names this receiver in `items.claimed_by`.
    me: i64,
    claims: Mutex<HashMap<i64, Claim>>,
    handoff: Mutex<HandoffCache>,
    /// There may be something to receive.
    arrived: Notify,
    /// The item served last: the next look begins behind it.
    start: AtomicI64,
}

impl SqliteQueue {
    /// `visibility`: see [`Queue::receive`]. `backlog_max`: orders that may wait (P8).
    pub fn new(
        store: Store,
        key: OrderKey,
        clock: Arc<dyn Clock>,
        visibility: Duration,
        backlog_max: u64,
    ) -> Self {
        let me = (SystemIdSource.next_id() >> 65) as i64;
        Self {
            store,
            keys: rows::Keys { mac: MacKeys::new(&key), old: key },
            clock,
            visibility,
            backlog_max,
            me,
            claims: Mutex::default(),
            handoff: Mutex::new(HandoffCache::new()),
            arrived: Notify::new(),
            start: AtomicI64::new(0),
        }
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<i64, Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handoff(&self) -> MutexGuard<'_, HandoffCache> {
        self.handoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One round of receiving: what is there for this receiver now.
    async fn take(&self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        self.keep_claims().await?;
        let handoff = {
            let claims = self.claims();
            self.handoff().take(max, |no| claims.get(&no).map(|claim| claim.cursor))
        };
        let room = max - handoff.len();
        let mut deliveries = self.deliver(handoff);
        if room == 0 || !self.handoff().needs_poll(self.store.change_counter(), Instant::now()) {
            return Ok(deliveries);
        }
        match self.take_from_file(room).await {
            Ok(mut more) => deliveries.append(&mut more),
            Err(e) => {
                self.handoff().look();
                if deliveries.is_empty() {
                    return Err(e);
                }
            }
        }
        Ok(deliveries)
    }

    async fn take_from_file(&self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        let mut look = self.look(max).await?;
        if !look.unclaimed.is_empty() {
            self.claim(look.unclaimed).await?;
            look = self.look(max).await?;
        }
        if look.more {
            self.handoff().look();
        }
        let poison = look.rows.iter().filter_map(|w| w.order.as_ref().err().cloned()).collect();
        self.dead_letter(poison).await?;
        Ok(self.deliver(look.rows))
    }

    async fn look(&self, max: usize) -> Result<rows::Look, QueueError> {
        let mine: HashMap<i64, i64> =
            self.claims().iter().map(|(no, claim)| (*no, claim.cursor)).collect();
        let (now, start) = (self.clock.now(), self.start.load(Ordering::Relaxed));
        let free = (now, longest_claim(now));
        let found = self.store.read(move |c| rows::look(c, &mine, free, max, start)).await?;
        if let Some(last) = found.rows.last() {
            self.start.store(last.place >> 32, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Claims the items that nobody else has by now.
    async fn claim(&self, items: Vec<i64>) -> Result<(), QueueError> {
        let (me, now) = (self.me, self.clock.now());
        let until = now.plus(CLAIM);
        let claim = move |tx: &Connection| {
            let mut claim = tx.prepare_cached(
                "UPDATE items SET claimed_by = ?1, claimed_until = ?2
                 WHERE no = ?3 AND (claimed_by = ?1 OR claimed_until <= ?4 OR claimed_until > ?5)",
            )?;
            let mut got = Vec::new();
            for no in items {
                if claim.execute(params![me, until.0, no, now.0, longest_claim(now).0])? == 1 {
                    got.push(no);
                }
            }
            Ok(got)
        };
        let got = self.store.write(claim).await?;
        let mut claims = self.claims();
        for no in got {
            claims.entry(no).or_insert_with(|| Claim::new(no, until)).until = until;
        }
        Ok(())
    }

    /// Puts expired deliveries back, renews claims that are used, forgets those that are not.
    async fn keep_claims(&self) -> Result<(), QueueError> {
        let due = {
            let (now, clock) = (self.clock.now(), Instant::now());
            let mut claims = self.claims();
            for claim in claims.values_mut() {
                if claim.expire(clock) {
                    self.handoff().look();
                }
            }
            claims.retain(|_, claim| claim.until > now && claim.until <= longest_claim(now));
            let old = now.plus(CLAIM - CLAIM / 3);
            let due = |claim: &Claim| claim.until < old && !claim.in_flight.is_empty();
            let due = claims.iter().filter(|(_, claim)| due(claim)).map(|(no, _)| *no);
            due.collect::<Vec<_>>()
        };
        if due.is_empty() { Ok(()) } else { self.claim(due).await }
    }

    async fn dead_letter(&self, letters: Vec<DeadLetter>) -> Result<(), QueueError> {
        if letters.is_empty() {
            return Ok(());
        }
        let buried = letters.clone();
        let keys = self.keys;
        let bury =
            move |tx: &Connection| buried.iter().try_for_each(|l| rows::dead_letter(tx, &keys, l));
        self.store.write(bury).await?;
        crate::core::ports::dead_letters::tell(&letters);
        Ok(())
    }

    /// Makes deliveries of runs of neighbouring rows of one item, leaving out what is in flight.
    fn deliver(&self, rows: Vec<rows::Waiting>) -> Vec<Delivery> {
        let invisible_until = Instant::now() + self.visibility;
        let mut claims = self.claims();
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut run: Option<(i64, i64)> = None;
        for rows::Waiting { place, order } in rows {
            let (no, Ok(order)) = (place >> 32, order) else { continue };
            let Some(claim) = claims.get_mut(&no) else { continue };
            claim.cursor = claim.cursor.max(place);
            if claim.holds(place) {
                run = None;
                continue;
            }
            let entry = (Arrival(place as u128), order);
            let receive_count = if place <= claim.reached { 2 } else { 1 };
            match (&mut run, deliveries.last_mut()) {
                (Some((first, last)), Some(delivery)) if *first >> 32 == no => {
                    *last = place;
                    delivery.orders.push(entry);
                    delivery.receipt = receipt(*first, place);
                    delivery.receive_count = delivery.receive_count.max(receive_count);
                }
                _ => {
                    run = Some((place, place));
                    let receipt = receipt(place, place);
                    deliveries.push(Delivery { receipt, orders: vec![entry], receive_count });
                }
            }
            claim.reached = claim.reached.max(place);
        }
        for delivery in &deliveries {
            if let Some((first, last)) = places(&delivery.receipt)
                && let Some(claim) = claims.get_mut(&(first >> 32))
            {
                claim.in_flight.insert(first, (last, invisible_until));
            }
        }
        deliveries
    }

    /// Does something to the claim and first place of each delivery still in flight.
    fn each_in_flight(&self, receipts: &[Receipt], mut act: impl FnMut(&mut Claim, i64)) {
        let mut claims = self.claims();
        for (first, last) in receipts.iter().filter_map(places) {
            if let Some(claim) = claims.get_mut(&(first >> 32))
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
                    self.handoff().add(inserted.rows, |no| claims.contains_key(&no));
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
            let last = Instant::now() >= end;
            if last {
                self.handoff().look();
            }
            let deliveries = self.take(max).await?;
            if !deliveries.is_empty() || last {
                return Ok(deliveries);
            }
            let look_again = end.min(Instant::now() + POLL_INTERVAL);
            tokio::select! {
                biased;
                _changed = changes.changed() => {}
                () = self.arrived.notified() => {}
                () = tokio::time::sleep_until(look_again) => {}
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
        self.each_in_flight(receipts, Claim::give_back);
        let idle: Vec<i64> = {
            let mut claims = self.claims();
            let idle = |claim: &Claim| claim.in_flight.is_empty();
            let idle = claims.iter().filter(|(_, claim)| idle(claim)).map(|(no, _)| *no);
            let idle: Vec<i64> = idle.collect();
            idle.iter().for_each(|no| drop(claims.remove(no)));
            idle
        };
        let me = self.me;
        let unclaim = move |tx: &Connection| {
            let mut unclaim = tx.prepare_cached(
                "UPDATE items SET claimed_until = 0 WHERE no = ? AND claimed_by = ?",
            )?;
            idle.iter().try_for_each(|no| unclaim.execute(params![no, me]).map(drop))
        };
        self.store.write(unclaim).await?;
        self.handoff().look();
        self.arrived.notify_one();
        Ok(())
    }

    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        self.dead_letter(letters.to_vec()).await
    }

    async fn walk_letters(
        &self,
        letters: &Letters,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<bool, QueueError> {
        dead_letters::walk(&self.store, self.keys, &*self.clock, letters, visitor).await
    }

    fn decides_dropped(&self) -> bool {
        true
    }

    async fn begin(&self) -> Result<(), QueueError> {
        dropped::finish_upgrade(&self.store, self.keys, self.clock.now()).await
    }

    async fn position(&self, order: OrderId) -> Result<Option<QueuePosition>, QueueError> {
        Ok(self.store.read(move |c| rows::line(c, order)).await?)
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        let read = |c: &Connection| {
            let letters = c.query_row("SELECT count(*) FROM dead_letters", [], |r| r.get(0))?;
            let (waiting, oldest) = (rows::waiting(c)?, rows::oldest(c, OLDEST_AMONG)?);
            Ok(Backlog { waiting, dead_letters: letters, oldest })
        };
        Ok(self.store.read(read).await?)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(self.store.read(rows::waiting).await.map(drop)?)
    }
}
