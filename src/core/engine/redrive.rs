//! What can be done about dead letters: look at them, send them again, drop them.
//!
//! Each is done letter by letter while the queue is walked through, so any number takes bounded
//! memory, and what was done until an interruption stays done: the same again goes on from there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Ports;
use super::{dropped, message};
use crate::core::model::{Decided, Decision, OrderId};
use crate::core::ports::dead_letters::{
    Became, DeadLetter, DlqFilter, LetterPlace, LetterVisitor, Letters, Wish, has,
};
use crate::core::ports::ledger::OrderRecord;
use crate::core::ports::queue::QueueError;

/// Letters that are shown, or done with, at a time. Less when they go at a pace.
const TOGETHER: usize = 200;
/// Letters that one listing looks at where the queue does not know the oldest.
const LOOKED_AT_MAX: usize = 10_000;
/// Bytes of letters in one page.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Orders of which is remembered that they were told about; it only saves telling twice.
const TOLD_MAX: usize = 100_000;

/// What is done with the letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DlqAction {
    /// Sends the orders again under their own ids, as new arrivals, and drops the letters of those
    /// that have their decision. `body` takes the place of the text of the one letter meant.
    Redrive { body: Option<String> },
    /// Drops the letters for good. Their orders, if they are undecided, become
    /// [`Decision::Dropped`].
    Drop,
}

/// How it is done.
#[derive(Debug, Clone, Default)]
pub struct RedriveOptions {
    /// Only says what would be done.
    pub dry_run: bool,
    /// Letters a second, at most.
    pub rate: Option<u32>,
    /// Ends once this many letters, or a few more, are done with.
    pub most: Option<usize>,
    /// Ends it between two looks.
    pub stop: CancellationToken,
}

/// What became of a letter, or in a dry run would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "became", content = "why", rename_all = "snake_case")]
pub enum DlqResult {
    SentAgain,
    /// The order had its decision; the letter, if there still was one, was dropped.
    AlreadyDecided,
    Dropped,
    /// Still no order: the letter stays.
    Kept(String),
    /// There is no such letter (any more), or somebody else is looking at it.
    Gone,
    /// The letter stays, and the same may be done again.
    Failed(String),
}

/// Does it to each letter meant, and tells of each; whether there may be some that were not met.
/// Idempotent: a letter that was done with is gone, and a second decision of an order is
/// impossible. After an error, or when cancelled, the same again goes on from there; on SQS what was
/// being looked at comes back after half a minute.
pub async fn act(
    ports: &Ports,
    which: &DlqFilter,
    action: &DlqAction,
    options: &RedriveOptions,
    tell: &mut (dyn FnMut(OrderId, DlqResult) + Send),
) -> Result<bool, QueueError> {
    loop {
        let mut errand = Errand::new(ports, which, action, options, &mut *tell);
        let cut = ports.queue.walk_letters(&which.letters(), &mut errand).await?;
        errand.publish().await;
        let (done, over, met) = (errand.done, errand.is_over(), errand.told);
        if let (DlqFilter::These(orders), false) = (which, cut) {
            let gone: Vec<OrderId> =
                orders.iter().filter(|id| !met.contains(id)).copied().collect();
            let decided = decided_among(ports, action, options, gone.clone()).await?;
            for id in gone {
                // A drop that finds no letter does nothing.
                let is_decided = *action != DlqAction::Drop && decided.contains_key(&id);
                tell(id, if is_decided { DlqResult::AlreadyDecided } else { DlqResult::Gone });
            }
        }
        // More than one walk can hold: what it did made room.
        if !cut || over || done == 0 || options.dry_run {
            return Ok(cut);
        }
    }
}

/// One walk in which letters are done with.
struct Errand<'a> {
    ports: &'a Ports,
    which: &'a DlqFilter,
    action: &'a DlqAction,
    options: &'a RedriveOptions,
    tell: &'a mut (dyn FnMut(OrderId, DlqResult) + Send),
    /// Orders whose letters go because they have their decision.
    decided: HashSet<OrderId>,
    /// Orders that the queue has decided as dropped, and nobody has been told of.
    dropped: Vec<OrderId>,
    told: HashSet<OrderId>,
    done: usize,
    /// When the next letters may go.
    next: Instant,
}

impl<'a> Errand<'a> {
    fn new(
        ports: &'a Ports,
        which: &'a DlqFilter,
        action: &'a DlqAction,
        options: &'a RedriveOptions,
        tell: &'a mut (dyn FnMut(OrderId, DlqResult) + Send),
    ) -> Self {
        let (decided, dropped, told) = Default::default();
        let next = Instant::now();
        Self { ports, which, action, options, tell, decided, dropped, told, done: 0, next }
    }

    async fn publish(&mut self) {
        dropped::publish(self.ports, std::mem::take(&mut self.dropped)).await;
    }

    fn is_over(&self) -> bool {
        self.options.stop.is_cancelled() || self.options.most.is_some_and(|most| self.done >= most)
    }

    fn tell(&mut self, order: OrderId, result: DlqResult) {
        if self.told.len() < TOLD_MAX && !self.told.insert(order) {
            return;
        }
        (self.tell)(order, result);
    }

    /// Whether the letter's order has its decision. It has not if another request under its id has:
    /// the worker that receives it again dead-letters it under an id of its own. One that was
    /// dropped just now, or before its letter went, is still to be dropped.
    fn is_decided(&self, letter: &DeadLetter, decided: &HashMap<OrderId, Decided>) -> bool {
        let Some(Decided { order, decision, .. }) = decided.get(&letter.order_id) else {
            return false;
        };
        if (self.action, *decision) == (&DlqAction::Drop, Decision::Dropped) {
            return false;
        }
        let now = self.ports.clock.now();
        let own = message::repair(&letter.body, letter.order_id, now, &self.ports.order_ids);
        own.map_or(true, |own| own.same_request(order))
    }

    /// What would become of a letter of an undecided order.
    fn wish(&self, letter: &DeadLetter) -> Result<Wish, String> {
        let DlqAction::Redrive { body } = self.action else { return Ok(Wish::Drop) };
        let text = body.as_deref().unwrap_or(&letter.body);
        let now = self.ports.clock.now();
        message::repair(text, letter.order_id, now, &self.ports.order_ids).map(Wish::Send)
    }
}

/// Those of these orders that have their decision. Before the letters of such orders go, for whatever
/// reason, the shop is told of them. For a queue that decides what it drops nobody needs to know.
async fn decided_among(
    ports: &Ports,
    action: &DlqAction,
    options: &RedriveOptions,
    orders: Vec<OrderId>,
) -> Result<HashMap<OrderId, Decided>, QueueError> {
    let asked = *action != DlqAction::Drop || !ports.queue.decides_dropped();
    if !asked || orders.is_empty() {
        return Ok(HashMap::new());
    }
    let found = ports.ledger.find(&orders).await;
    let found = found.map_err(|e| QueueError::Busy(format!("decisions cannot be read: {e}")))?;
    let decided: Vec<Decided> =
        found.into_iter().flatten().filter_map(OrderRecord::decided).collect();
    // Whoever decided these may have died before the shop was told, and their letters go.
    if let Some(outbox) = ports.outbox_before_ack().filter(|_| !options.dry_run) {
        outbox.put(&decided).await.map_err(|e| QueueError::Busy(e.to_string()))?;
    }
    Ok(decided.into_iter().map(|decided| (decided.order.id, decided)).collect())
}

#[async_trait]
impl LetterVisitor for Errand<'_> {
    async fn more(&mut self) -> Option<usize> {
        self.publish().await;
        tokio::select! {
            biased;
            () = self.options.stop.cancelled() => {}
            () = tokio::time::sleep_until(self.next) => {}
        }
        let left = self.options.most.map_or(TOGETHER, |most| most.saturating_sub(self.done));
        let pace = self.options.rate.map_or(TOGETHER, |rate| rate as usize);
        (!self.is_over()).then(|| TOGETHER.min(left).min(pace))
    }

    async fn judge(&mut self, letters: &[DeadLetter]) -> Result<Vec<Wish>, QueueError> {
        let meant = letters.iter().filter(|letter| self.which.means(letter));
        if *self.action == DlqAction::Drop && !self.options.dry_run {
            dropped::record(self.ports, meant.clone()).await?;
        }
        let meant = meant.map(|letter| letter.order_id).collect();
        let decided = decided_among(self.ports, self.action, self.options, meant).await?;
        let mut wishes = Vec::with_capacity(letters.len());
        let mut going = 0;
        for letter in letters {
            let id = letter.order_id;
            let wish = match (self.which.means(letter), self.is_decided(letter, &decided)) {
                (false, _) => Ok(Wish::Keep),
                (true, true) => {
                    self.decided.insert(id);
                    Ok(Wish::Drop)
                }
                (true, false) => self.wish(letter),
            };
            going += u32::from(!matches!(wish, Ok(Wish::Keep) | Err(_)));
            match wish {
                Err(why) => {
                    self.tell(id, DlqResult::Kept(why));
                    wishes.push(Wish::Keep);
                }
                Ok(wish) if self.options.dry_run => {
                    self.would(id, &wish);
                    wishes.push(Wish::Keep);
                }
                Ok(wish) => wishes.push(wish),
            }
        }
        if let Some(rate) = self.options.rate {
            let time = Duration::from_secs(1) * going / rate;
            self.next = self.next.max(Instant::now()) + time;
        }
        Ok(wishes)
    }

    fn became(&mut self, order: OrderId, became: Became) {
        self.done += usize::from(matches!(became, Became::Dropped(_) | Became::Sent));
        let result = match became {
            Became::Dropped(_) if self.decided.remove(&order) => DlqResult::AlreadyDecided,
            Became::Dropped(Some(Decision::Dropped)) => {
                self.dropped.push(order);
                DlqResult::Dropped
            }
            Became::Dropped(Some(_)) => DlqResult::AlreadyDecided,
            Became::Dropped(None) => DlqResult::Dropped,
            Became::Sent => DlqResult::SentAgain,
            Became::Gone => DlqResult::Gone,
            Became::Failed(e) => DlqResult::Failed(e.to_string()),
        };
        self.tell(order, result);
    }
}

impl Errand<'_> {
    fn would(&mut self, order: OrderId, wish: &Wish) {
        let result = match wish {
            Wish::Keep => return,
            Wish::Drop if self.decided.remove(&order) => DlqResult::AlreadyDecided,
            Wish::Drop => DlqResult::Dropped,
            Wish::Send(_) => DlqResult::SentAgain,
        };
        self.done += 1;
        self.tell(order, result);
    }
}

/// Letters in the order of their places, and behind which the next page begins, if there may be
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub letters: Vec<DeadLetter>,
    pub next: Option<LetterPlace>,
}

/// The first `limit` letters behind a place, with `reason` in their reason; fewer if they are
/// large. Where the queue does not know the oldest, the first of the 10,000 that it shows.
pub async fn page(
    ports: &Ports,
    reason: Option<&str>,
    after: Option<LetterPlace>,
    limit: usize,
) -> Result<Page, QueueError> {
    let in_order = ports.queue.limits().letters_in_order;
    let found = BTreeMap::new();
    let mut reader = Reader {
        reason,
        after,
        limit,
        in_order,
        found,
        bytes: 0,
        met: 0,
        last: after,
        full: false,
    };
    let cut = ports.queue.walk_letters(&Letters::After(after), &mut reader).await?;
    let (last, full, looked) = (reader.last, reader.full, reader.met >= LOOKED_AT_MAX);
    let letters: Vec<DeadLetter> = reader.found.into_values().collect();
    let next = match letters.last() {
        Some(letter) if full => Some(letter.place()),
        // Nothing of what was looked at so far, and there is more behind it.
        _ if in_order && cut && looked => last,
        _ => None,
    };
    Ok(Page { letters, next })
}

/// Finds the first letters behind a place.
struct Reader<'a> {
    reason: Option<&'a str>,
    after: Option<LetterPlace>,
    limit: usize,
    in_order: bool,
    found: BTreeMap<LetterPlace, DeadLetter>,
    bytes: usize,
    met: usize,
    last: Option<LetterPlace>,
    /// There are more than have room in the page.
    full: bool,
}

#[async_trait]
impl LetterVisitor for Reader<'_> {
    async fn more(&mut self) -> Option<usize> {
        let enough = self.met >= LOOKED_AT_MAX || self.in_order && self.full;
        (!enough).then_some(TOGETHER)
    }

    async fn judge(&mut self, letters: &[DeadLetter]) -> Result<Vec<Wish>, QueueError> {
        for letter in letters {
            self.met += 1;
            self.last = self.last.max(Some(letter.place()));
            if Some(letter.place()) > self.after && has(letter, self.reason) {
                self.bytes += letter.body.len();
                let twice = self.found.insert(letter.place(), letter.clone());
                self.bytes -= twice.map_or(0, |letter| letter.body.len());
            }
            while self.found.len() > self.limit || self.bytes > PAGE_BYTES && self.found.len() > 1 {
                let Some((_, beyond)) = self.found.pop_last() else { break };
                self.bytes -= beyond.body.len();
                self.full = true;
            }
        }
        Ok(vec![Wish::Keep; letters.len()])
    }

    fn became(&mut self, _: OrderId, _: Became) {}
}

/// Shows each letter with `reason` in its reason, in the order in which the queue shows them, each
/// order's once. Returns about how many letters are there and were not met: too many for one look,
/// or looked at by somebody else just now.
pub async fn list(
    ports: &Ports,
    reason: Option<&str>,
    show: &mut (dyn FnMut(&DeadLetter) + Send),
) -> Result<u64, QueueError> {
    let mut lister = Lister { reason, show, met: 0, shown: HashSet::new() };
    ports.queue.walk_letters(&Letters::After(None), &mut lister).await?;
    let there = ports.queue.backlog().await?.dead_letters;
    Ok(there.saturating_sub(lister.met))
}

struct Lister<'a> {
    reason: Option<&'a str>,
    show: &'a mut (dyn FnMut(&DeadLetter) + Send),
    met: u64,
    shown: HashSet<OrderId>,
}

#[async_trait]
impl LetterVisitor for Lister<'_> {
    async fn more(&mut self) -> Option<usize> {
        Some(TOGETHER)
    }

    async fn judge(&mut self, letters: &[DeadLetter]) -> Result<Vec<Wish>, QueueError> {
        for letter in letters {
            self.met += 1;
            let new = self.shown.len() >= TOLD_MAX || self.shown.insert(letter.order_id);
            if new && has(letter, self.reason) {
                (self.show)(letter);
            }
        }
        Ok(vec![Wish::Keep; letters.len()])
    }

    fn became(&mut self, _: OrderId, _: Became) {}
}
