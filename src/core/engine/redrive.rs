//! Operations on dead letters: list them, send their orders again, drop them.
//!
//! Letters are processed page by page, in bounded memory for any number of letters. Each page is
//! complete before the next is read, so an interrupted operation can be repeated: it continues with
//! the letters that are left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Ports;
use super::{dropped, message};
use crate::core::model::{Decided, Decision, Order, OrderId};
use crate::core::ports::dead_letters;
use crate::core::ports::dead_letters::{
    DeadLetter, DlqAction, DlqCursor, DlqFilter, LetterHandle, LetterPosition, Resolution, Resolved,
};
use crate::core::ports::ledger::OrderRecord;
use crate::core::ports::queue::QueueError;

/// Letters that are read and resolved at a time, at most.
const PAGE: usize = 200;
/// Letters that one listing reads where the queue does not return the oldest first.
const READ_MAX: usize = 10_000;
/// Bytes of letters in one page of a listing.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Order ids that are remembered to report each order once. Orders beyond it may be reported twice.
const REPORTED_MAX: usize = 100_000;
const WAITS_FOR_ANOTHER: &str =
    "another order with its id was sent again; repeat this once that one is decided";

/// How letters are redriven or dropped.
#[derive(Debug, Clone, Default)]
pub struct RedriveOptions {
    /// The text to redrive in place of the body of the one letter selected.
    pub body: Option<String>,
    /// True if results are only predicted.
    pub dry_run: bool,
    /// Letters per second, at most.
    pub rate: Option<u32>,
    /// The number of sent and deleted letters, or a few more, after which the operation ends.
    pub max: Option<usize>,
    /// Ends the operation before the next page.
    pub stop: CancellationToken,
}

/// The result for one letter; in a dry run, the predicted result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "became", content = "why", rename_all = "snake_case")]
pub enum DlqResult {
    SentAgain,
    /// The order was decided before. Its letter, if there was one, is deleted.
    AlreadyDecided,
    Dropped,
    /// The letter stays because its text is no order.
    Kept(String),
    /// There is no such letter, or another process is reading it.
    Gone,
    /// The letter stays, and the operation can be repeated.
    Failed(String),
}

/// Redrives or drops the selected letters and reports the result for each. Returns true if there
/// may be selected letters that were not read.
///
/// Redriven orders keep their order ids and arrive as new; letters of decided orders are deleted
/// instead. Idempotent: a resolved letter is gone, and no order is decided twice. After an error or
/// a cancellation the same call continues with the letters that are left; on SQS, those that were
/// being read are visible again after 30 s.
pub async fn act(
    ports: &Ports,
    filter: &DlqFilter,
    action: DlqAction,
    options: &RedriveOptions,
    report: &mut (dyn FnMut(OrderId, DlqResult) + Send),
) -> Result<bool, QueueError> {
    let mut redrive = Redrive {
        ports,
        filter,
        action,
        options,
        report,
        reported: HashSet::new(),
        done: 0,
        next_page_at: Instant::now(),
    };
    loop {
        let done_before = redrive.done;
        redrive.reported.clear();
        let mut cursor = ports.queue.dead_letter_cursor(filter, None);
        let processed = redrive.process_all(&mut *cursor).await;
        let more = cursor.close().await;
        processed?;
        if !more && let DlqFilter::These(orders) = filter {
            redrive.report_missing(orders).await?;
        }
        // One pass may be too short for all letters. A pass that resolved some makes room.
        if !more || redrive.is_over() || redrive.done == done_before || options.dry_run {
            return Ok(more);
        }
    }
}

struct Redrive<'a> {
    ports: &'a Ports,
    filter: &'a DlqFilter,
    action: DlqAction,
    options: &'a RedriveOptions,
    report: &'a mut (dyn FnMut(OrderId, DlqResult) + Send),
    /// Orders that were reported in this pass.
    reported: HashSet<OrderId>,
    /// Letters sent or deleted.
    done: usize,
    next_page_at: Instant,
}

/// What is to be done with one letter of a page.
struct Work {
    order_id: OrderId,
    handle: LetterHandle,
    resolution: Resolution,
    /// True if the letter is deleted because its order was decided before.
    is_decided: bool,
}

impl Redrive<'_> {
    async fn process_all(&mut self, cursor: &mut dyn DlqCursor) -> Result<(), QueueError> {
        while let Some(limit) = self.next_limit().await {
            let Some(letters) = cursor.peek(limit).await? else { break };
            self.process_page(cursor, &letters).await?;
        }
        Ok(())
    }

    /// Waits until the rate allows another page, and returns its size; `None` when the operation
    /// ends. The wait is before the read, so that no letter is hidden from others for its duration.
    async fn next_limit(&mut self) -> Option<usize> {
        tokio::select! {
            biased;
            () = self.options.stop.cancelled() => {}
            () = tokio::time::sleep_until(self.next_page_at) => {}
        }
        let left = self.options.max.map_or(PAGE, |max| max.saturating_sub(self.done));
        let rate = self.options.rate.map_or(PAGE, |rate| rate as usize);
        (!self.is_over()).then(|| PAGE.min(left).min(rate))
    }

    fn is_over(&self) -> bool {
        self.options.stop.is_cancelled() || self.options.max.is_some_and(|max| self.done >= max)
    }

    async fn process_page(
        &mut self,
        cursor: &mut dyn DlqCursor,
        letters: &[DeadLetter],
    ) -> Result<(), QueueError> {
        let work = self.plan(letters).await?;
        if let Some(rate) = self.options.rate {
            let time = Duration::from_secs(1) * work.len() as u32 / rate;
            self.next_page_at = self.next_page_at.max(Instant::now()) + time;
        }
        if self.options.dry_run {
            self.done += work.len();
            work.iter().for_each(|work| self.report_once(work.order_id, work.expected_result()));
            return Ok(());
        }
        if work.is_empty() {
            return Ok(());
        }
        let resolutions = work.iter().map(|work| (work.handle, work.resolution.clone())).collect();
        let results = cursor.resolve(resolutions).await;
        let mut dropped = Vec::new();
        for (work, result) in work.iter().zip(&results) {
            if matches!(result, Ok(Resolved::Dropped(Some(Decision::Dropped)))) && !work.is_decided
            {
                dropped.push(work.order_id);
            }
            self.done += usize::from(matches!(result, Ok(Resolved::Dropped(_) | Resolved::Sent)));
            self.report_once(work.order_id, work.result(result));
        }
        dropped::publish(self.ports, dropped).await;
        // If a whole page fails, further pages would most likely fail too.
        if results.iter().all(Result::is_err)
            && let Some(Err(e)) = results.into_iter().next()
        {
            return Err(e);
        }
        Ok(())
    }

    async fn plan(&mut self, letters: &[DeadLetter]) -> Result<Vec<Work>, QueueError> {
        let mut selected: Vec<(LetterHandle, &DeadLetter)> = letters.iter().enumerate().collect();
        selected.retain(|(_, letter)| self.filter.matches(letter.order_id, &letter.reason));
        if self.action == DlqAction::Drop && !self.options.dry_run {
            let letters: Vec<&DeadLetter> = selected.iter().map(|(_, letter)| *letter).collect();
            dropped::record(self.ports, &letters).await?;
        }
        let ids: Vec<OrderId> = selected.iter().map(|(_, letter)| letter.order_id).collect();
        let decided = self.decided_among(&ids).await?;
        let mut work = Vec::with_capacity(selected.len());
        for (handle, letter) in selected {
            let order_id = letter.order_id;
            let is_decided = self.is_decided(letter, &decided);
            let resolution = match self.action {
                DlqAction::Redrive if !is_decided => self.order_of(letter).map(Resolution::Resend),
                DlqAction::Redrive | DlqAction::Drop => Ok(Resolution::Drop),
            };
            match resolution {
                Ok(resolution) => work.push(Work { order_id, handle, resolution, is_decided }),
                Err(why) => self.report_once(order_id, DlqResult::Kept(why)),
            }
        }
        Ok(work)
    }

    /// Returns those of these orders that are decided, after their events are in the outbox: the
    /// worker that decided an order may have died before it put the event, and the letter, whose
    /// deletion follows, is the last trace of it. A queue that itself decides what it drops needs
    /// no lookup for a drop.
    async fn decided_among(
        &mut self,
        orders: &[OrderId],
    ) -> Result<HashMap<OrderId, Decided>, QueueError> {
        let needed = self.action == DlqAction::Redrive || !self.ports.queue.decides_dropped();
        if !needed || orders.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.ports.ledger.find(orders).await;
        let found =
            found.map_err(|e| QueueError::Busy(format!("decisions cannot be read: {e}")))?;
        let decided: Vec<Decided> =
            found.into_iter().flatten().filter_map(OrderRecord::decided).collect();
        if let Some(outbox) = self.ports.outbox_before_ack().filter(|_| !self.options.dry_run) {
            outbox.put(&decided).await.map_err(|e| QueueError::Busy(e.to_string()))?;
        }
        Ok(decided.into_iter().map(|decided| (decided.order.id, decided)).collect())
    }

    /// Whether the order in the letter was decided before. False if the decision under its order id
    /// belongs to another request: then the worker that receives the order dead-letters it under an
    /// id of its own. False also for a drop of a dropped order: that decision is this drop's own,
    /// or that of an earlier drop which ended before it deleted the letter.
    fn is_decided(&self, letter: &DeadLetter, decided: &HashMap<OrderId, Decided>) -> bool {
        let Some(Decided { order, decision, .. }) = decided.get(&letter.order_id) else {
            return false;
        };
        if self.action == DlqAction::Drop && *decision == Decision::Dropped {
            return false;
        }
        self.parse(&letter.body, letter.order_id).map_or(true, |own| own.same_request(order))
    }

    /// The order to send in place of a letter, or why there is none.
    fn order_of(&self, letter: &DeadLetter) -> Result<Order, String> {
        let text = self.options.body.as_deref().unwrap_or(&letter.body);
        self.parse(text, letter.order_id)
    }

    fn parse(&self, text: &str, id: OrderId) -> Result<Order, String> {
        message::repair(text, id, self.ports.clock.now(), &self.ports.order_ids)
    }

    fn report_once(&mut self, order: OrderId, result: DlqResult) {
        if self.reported.len() >= REPORTED_MAX || self.reported.insert(order) {
            (self.report)(order, result);
        }
    }

    /// Reports the orders for which a complete pass found no letter.
    async fn report_missing(&mut self, orders: &[OrderId]) -> Result<(), QueueError> {
        let mut missing = orders.to_vec();
        missing.retain(|id| !self.reported.contains(id));
        let decided = self.decided_among(&missing).await?;
        for id in missing {
            // A drop without a letter changes nothing, whatever the order's state is.
            let is_decided = self.action == DlqAction::Redrive && decided.contains_key(&id);
            let result = if is_decided { DlqResult::AlreadyDecided } else { DlqResult::Gone };
            (self.report)(id, result);
        }
        Ok(())
    }
}

impl Work {
    fn expected_result(&self) -> DlqResult {
        match self.resolution {
            Resolution::Drop if self.is_decided => DlqResult::AlreadyDecided,
            Resolution::Drop => DlqResult::Dropped,
            Resolution::Resend(_) => DlqResult::SentAgain,
        }
    }

    fn result(&self, result: &Result<Resolved, QueueError>) -> DlqResult {
        match result {
            Ok(Resolved::Dropped(_)) if self.is_decided => DlqResult::AlreadyDecided,
            Ok(Resolved::Dropped(None | Some(Decision::Dropped))) => DlqResult::Dropped,
            Ok(Resolved::Dropped(Some(_))) => DlqResult::AlreadyDecided,
            Ok(Resolved::Sent) => DlqResult::SentAgain,
            Ok(Resolved::Kept) => DlqResult::Kept(WAITS_FOR_ANOTHER.to_owned()),
            Ok(Resolved::Gone) => DlqResult::Gone,
            Err(e) => DlqResult::Failed(e.to_string()),
        }
    }
}

/// Letters in the order of their positions, and the position after which the next page begins, if
/// there may be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub letters: Vec<DeadLetter>,
    pub next: Option<LetterPosition>,
}

/// The first `limit` letters after a position whose reason contains `reason`; fewer if they are
/// large. Where the queue does not return the oldest first, the first of the 10,000 it returns.
pub async fn page(
    ports: &Ports,
    reason: Option<&str>,
    after: Option<LetterPosition>,
    limit: usize,
) -> Result<Page, QueueError> {
    let in_order = ports.queue.limits().letters_in_order;
    let filter = DlqFilter::All { reason: reason.map(str::to_owned) };
    let mut found: BTreeMap<LetterPosition, DeadLetter> = BTreeMap::new();
    let mut bytes = 0;
    let mut read = 0;
    let mut last = after;
    let mut is_full = false;
    let collect = |letters: Vec<DeadLetter>| {
        read += letters.len();
        for letter in letters {
            let position = letter.position();
            last = last.max(Some(position));
            if Some(position) > after && filter.matches(letter.order_id, &letter.reason) {
                bytes += letter.body.len();
                let duplicate = found.insert(position, letter);
                bytes -= duplicate.map_or(0, |letter| letter.body.len());
            }
            while found.len() > limit || bytes > PAGE_BYTES && found.len() > 1 {
                let Some((_, beyond)) = found.pop_last() else { break };
                bytes -= beyond.body.len();
                is_full = true;
            }
        }
        if read >= READ_MAX || in_order && is_full { 0 } else { PAGE }
    };
    let more = dead_letters::scan(&*ports.queue, after, PAGE, collect).await?;
    let next = match found.last_key_value() {
        Some((position, _)) if is_full => Some(*position),
        // The matching letters are behind those that one listing reads.
        _ if in_order && more && read >= READ_MAX => last,
        _ => None,
    };
    Ok(Page { letters: found.into_values().collect(), next })
}

/// Passes each letter whose reason contains `reason` to `show`, in the order in which the queue
/// returns them, once for each order. Returns about how many letters were not read: too many for
/// one pass, or being read by another process.
pub async fn list(
    ports: &Ports,
    reason: Option<&str>,
    show: &mut (dyn FnMut(&DeadLetter) + Send),
) -> Result<u64, QueueError> {
    let filter = DlqFilter::All { reason: reason.map(str::to_owned) };
    let mut read = 0_u64;
    let mut shown: HashSet<OrderId> = HashSet::new();
    let visit = |letters: Vec<DeadLetter>| {
        read += letters.len() as u64;
        for letter in &letters {
            let is_new = shown.len() >= REPORTED_MAX || shown.insert(letter.order_id);
            if is_new && filter.matches(letter.order_id, &letter.reason) {
                show(letter);
            }
        }
        PAGE
    };
    dead_letters::scan(&*ports.queue, None, PAGE, visit).await?;
    let there = ports.queue.backlog().await?.dead_letters;
    Ok(there.saturating_sub(read))
}
