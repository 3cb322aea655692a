//! The messages of the simulated queue, which behaves like SQS (standard or FIFO) or like the
//! embedded queue.

use std::collections::BTreeSet;
use std::time::Duration;

use flux::core::engine::message;
use flux::core::engine::message::Origin;
use flux::core::model::{
    Decided, Decision, IdempotencyKey, ItemId, Order, OrderId, Quantity, Timestamp, UserId,
};
use flux::core::ports::dead_letters::{DeadLetter, Resolution, Resolved};
use flux::core::ports::queue::{QueueError, Receipt, Sent};
use tokio::time::Instant;

use super::guards::Guard;
use super::process::Failed;
use super::store::{Backend, Message, State, Store};
use super::world::Fault;

/// The least and the most orders in a message of flux.
const MESSAGE_ORDERS: (u64, u64) = (1, 5);

/// A delivered message.
pub struct Taken {
    pub seq: u64,
    pub receipt: u64,
    pub body: String,
    pub receives: u32,
}

impl Taken {
    pub fn receipt(&self) -> Receipt {
        Receipt(format!("{}/{}", self.seq, self.receipt))
    }
}

impl Store {
    /// Puts a message into the queue, durably.
    pub fn put(&self, state: &mut State, body: String, group: Option<ItemId>) {
        let late =
            self.setup.backend == Backend::Standard && self.world.happens(Fault::DeliveredLate);
        let late = if late { self.world.span((1, 20_000)) } else { Duration::ZERO };
        let seq = state.next_seq();
        for order in self.decode(&body, seq).0 {
            if self.is_embedded() {
                state.rows.insert(order.id, order.clone());
            }
            self.world.audit(|auditor| auditor.queued(&order, seq));
        }
        let visible = Instant::now() + late;
        let message =
            Message { body, group, visible, receives: 0, holder: String::new(), receipt: 0 };
        state.messages.insert(seq, message);
        self.changed();
    }

    pub fn decode(&self, body: &str, seq: u64) -> (Vec<Order>, Vec<DeadLetter>) {
        let message_id = &format!("message-{seq}");
        let origin = Origin { message_id, sent_at: Timestamp(1_700_000_000_000) };
        message::decode(body, origin, &self.names)
    }

    fn orders_of(&self, state: &State, seq: u64) -> Vec<Order> {
        let Some(message) = state.messages.get(&seq) else { return Vec::new() };
        self.decode(&message.body, seq).0
    }

    pub fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>> {
        let mut state = self.state();
        let mut answers = vec![Ok(Sent::Queued); orders.len()];
        if self.is_embedded() {
            if state.messages.len() + orders.len() > self.setup.backlog_max {
                return vec![Err(QueueError::Full(state.messages.len() as u64)); orders.len()];
            }
            for (order, answer) in orders.iter().zip(&mut answers) {
                match state.rows.get(&order.id) {
                    None => {
                        let body = message::encode(std::slice::from_ref(order));
                        self.put(&mut state, body, Some(order.item.clone()));
                    }
                    Some(row)
                        if row.same_request(order) || self.is_disabled(Guard::Fingerprint) => {}
                    Some(_) => *answer = Ok(Sent::KeyReused),
                }
            }
            return answers;
        }
        for indexes in self.pack(orders) {
            let failed = self.world.happens(Fault::PartialBatch);
            let done = !failed || self.world.one_in(2);
            if done {
                let batch: Vec<Order> = indexes.iter().map(|n| orders[*n].clone()).collect();
                let group = (self.setup.backend == Backend::Fifo).then(|| batch[0].item.clone());
                self.put(&mut state, message::encode(&batch), group);
            }
            if failed && !self.is_disabled(Guard::EntryByEntry) {
                let failed = if done { Failed::Unknown } else { Failed::Refused };
                indexes.into_iter().for_each(|n| answers[n] = Err(failed.into()));
            }
        }
        answers
    }

    /// Groups orders into messages, by their indexes. On a FIFO queue a message has one item.
    fn pack(&self, orders: &[Order]) -> Vec<Vec<usize>> {
        let fifo = self.setup.backend == Backend::Fifo;
        let mut messages: Vec<Vec<usize>> = Vec::new();
        let most = self.world.between(MESSAGE_ORDERS) as usize;
        for (n, order) in orders.iter().enumerate() {
            let fits = |message: &&mut Vec<usize>| !fifo || orders[message[0]].item == order.item;
            match messages.iter_mut().rev().find(fits) {
                Some(last) if last.len() < most => last.push(n),
                _ => messages.push(vec![n]),
            }
        }
        messages
    }

    /// Delivers messages and hides them from other receivers.
    pub fn take(&self, who: &str, max: usize) -> Vec<Taken> {
        let mut state = self.state();
        let now = Instant::now();
        let mut taken = Vec::new();
        // A standard queue queries only some of its servers.
        let standard = self.setup.backend == Backend::Standard;
        let max = if standard { self.world.between((1, max as u64)) as usize } else { max };
        for seq in self.visible_messages(&state, who, now) {
            if taken.len() == max {
                break;
            }
            let receipt = state.next_seq();
            let orders = self.orders_of(&state, seq);
            let Some(message) = state.messages.get_mut(&seq) else { continue };
            if message.receives >= self.setup.receives_max && !self.is_embedded() {
                self.dead_letter_message(&mut state, seq);
                continue;
            }
            message.receives += 1;
            if message.receives > 1 && self.world.contention_only {
                let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
                self.world.audit(|auditor| auditor.needless_redelivery(&ids));
            }
            let twice = standard && self.world.happens(Fault::DeliveredTwice);
            if !twice {
                message.visible = now + self.setup.visibility;
            }
            message.holder = who.to_owned();
            message.receipt = receipt;
            let body = message.body.clone();
            let receives = message.receives;
            self.world.trace(format_args!("{who} gets message {seq}, time {receives}"));
            taken.push(Taken { seq, receipt, body, receives });
        }
        taken
    }

    /// The messages that may be delivered now, in this order.
    fn visible_messages(&self, state: &State, who: &str, now: Instant) -> Vec<u64> {
        let hidden = |m: &&Message| m.visible > now;
        let embedded = self.is_embedded();
        let held: BTreeSet<&ItemId> = state
            .messages
            .values()
            .filter(hidden)
            .filter(|m| !embedded || m.holder != who)
            .filter_map(|m| m.group.as_ref())
            .collect();
        let free = |m: &Message| m.group.as_ref().is_none_or(|group| !held.contains(group));
        let visible = state.messages.iter().filter(|(_, m)| m.visible <= now && free(m));
        let mut seqs: Vec<u64> = visible.map(|(seq, _)| *seq).collect();
        if self.setup.backend == Backend::Standard && self.world.happens(Fault::DeliveredOutOfOrder)
        {
            for n in (1..seqs.len()).rev() {
                seqs.swap(n, self.world.below(n as u64 + 1) as usize);
            }
        }
        seqs
    }

    /// Dead-letters a message that was received too often.
    fn dead_letter_message(&self, state: &mut State, seq: u64) {
        let Some(message) = state.messages.remove(&seq) else { return };
        let (orders, letters) = self.decode(&message.body, seq);
        let too_often = |order: Order| DeadLetter {
            order_id: order.id,
            reason: "received too often".to_owned(),
            body: message::encode(std::slice::from_ref(&order)),
            at: order.accepted_at,
        };
        let letters = letters.into_iter().chain(orders.into_iter().map(too_often)).collect();
        self.dead_letter(state, seq, letters);
    }

    pub fn dead_letter(&self, state: &mut State, seq: u64, letters: Vec<DeadLetter>) {
        for letter in letters {
            self.world
                .trace(format_args!("{} is dead-lettered: {}", letter.order_id, letter.reason));
            self.world.audit(|auditor| auditor.dead_lettered(letter.order_id, seq, &letter.reason));
            let (orders, _) = self.decode(&letter.body, seq);
            orders.iter().for_each(|order| self.world.audit(|auditor| auditor.set_aside(order)));
            if self.is_embedded() {
                state.close_rows(&[letter.order_id]);
            }
            state.letters.insert(letter.order_id, letter);
        }
    }

    /// Puts a message of another producer into the queue. Embedded: dead-letters an order, as after
    /// damage to its row.
    pub fn put_foreign(&self, item: &ItemId) {
        let mut state = self.state();
        if self.is_embedded() {
            let Some(seq) = state.messages.keys().next().copied() else { return };
            return self.dead_letter_message(&mut state, seq);
        }
        let order = format!(r#"{{"user_id":"stranger","item_id":"{item}"}}"#);
        let body = match self.world.below(4) {
            0 => "no json".to_owned(),
            1 => "[]".to_owned(),
            2 => format!(r#"[{order},{{"user_id":"stranger"}},{order}]"#),
            _ => order,
        };
        let grouped = self.setup.backend == Backend::Fifo;
        self.put(&mut state, body, grouped.then(|| item.clone()));
    }

    /// Puts a message with the id of another order, which was sent before or may be sent later.
    pub fn put_forged(&self, item: &ItemId, buyers: u64) {
        let mut state = self.state();
        if self.is_embedded() {
            return;
        }
        let known = state.decided.keys().copied().collect::<Vec<_>>();
        let id = match (known.is_empty(), self.world.below(3)) {
            (false, 0) => *self.world.pick(&known),
            _ => {
                let user = format!("user-{}", self.world.below(buyers));
                let key = format!("key-{}", self.world.below(2));
                let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
                self.names.from_idempotency_key(&UserId::parse(&user).unwrap(), &key)
            }
        };
        let order = Order {
            id,
            user: UserId::parse("forger").unwrap(),
            item: item.clone(),
            quantity: Quantity::ONE,
            accepted_at: Timestamp(1_700_000_000_000),
            trace: None,
        };
        let grouped = self.setup.backend == Backend::Fifo;
        let group = grouped.then(|| item.clone());
        self.put(&mut state, message::encode(&[order]), group);
    }

    /// The message of a receipt that is still valid.
    fn message_of(&self, state: &State, receipt: &Receipt) -> Option<u64> {
        let (seq, receipt) = receipt.0.split_once('/')?;
        let (seq, receipt): (u64, u64) = (seq.parse().ok()?, receipt.parse().ok()?);
        let message = state.messages.get(&seq)?;
        let old = self.setup.backend == Backend::Standard && self.setup.old_receipts_count;
        (message.receipt == receipt || old).then_some(seq)
    }

    pub fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let mut state = self.state();
        let mut answers = vec![Ok(()); receipts.len()];
        for (receipt, answer) in receipts.iter().zip(&mut answers) {
            let Some(seq) = self.message_of(&state, receipt) else { continue };
            let failed = self.world.happens(Fault::PartialBatch);
            if failed && !self.is_disabled(Guard::EntryByEntry) {
                *answer = Err(Failed::Unknown.into());
            }
            if failed && self.world.one_in(2) {
                continue;
            }
            let orders = self.orders_of(&state, seq);
            self.world.audit(|auditor| auditor.acknowledged(&orders, seq));
            self.world.trace(format_args!("message {seq} is gone"));
            state.messages.remove(&seq);
        }
        self.changed();
        answers
    }

    pub fn hide(&self, receipts: &[Receipt], time: Duration) {
        let mut state = self.state();
        // Sorted, because the caller's order is random.
        for receipt in receipts.iter().map(|r| &r.0).collect::<BTreeSet<_>>() {
            if let Some(seq) = self.message_of(&state, &Receipt(receipt.clone()))
                && let Some(message) = state.messages.get_mut(&seq)
            {
                message.visible = Instant::now() + time;
            }
        }
        self.changed();
    }

    pub fn resolve_letters(&self, work: &[(OrderId, Resolution)], now: Timestamp) -> Vec<Resolved> {
        let mut state = self.state();
        let one = |(id, resolution): &(OrderId, Resolution)| {
            self.resolve_letter(&mut state, *id, resolution, now)
        };
        work.iter().map(one).collect()
    }

    fn resolve_letter(
        &self,
        state: &mut State,
        id: OrderId,
        resolution: &Resolution,
        now: Timestamp,
    ) -> Resolved {
        if !state.letters.contains_key(&id) {
            return Resolved::Gone;
        }
        let Resolution::Resend(order) = resolution else {
            state.letters.remove(&id);
            return Resolved::Dropped(self.decide_dropped(state, id, now));
        };
        let lost = self.is_disabled(Guard::OrderIdKept);
        let id_now = if lost { self.names.generate(order.accepted_at) } else { id };
        let order = Order { id: id_now, ..order.clone() };
        let grouped = self.setup.backend != Backend::Standard;
        self.put(
            state,
            message::encode(std::slice::from_ref(&order)),
            grouped.then_some(order.item),
        );
        // A letter that was sent and could not be deleted is sent once more by a later pass.
        if self.is_embedded() || !self.world.happens(Fault::PartialBatch) {
            state.letters.remove(&id);
        }
        Resolved::Sent
    }

    /// Embedded: the order of a letter that goes is decided with it.
    fn decide_dropped(&self, state: &mut State, id: OrderId, now: Timestamp) -> Option<Decision> {
        if !self.is_embedded() {
            return None;
        }
        if let Some(row) = state.decided.get(&id) {
            return Some(row.decision);
        }
        let order = state.rows.get(&id)?.clone();
        let dropped = [Decided { order, decision: Decision::Dropped, decided_at: now }];
        self.write(state, &dropped);
        self.world.audit(|auditor| auditor.recorded(&dropped));
        Some(Decision::Dropped)
    }

    /// When the next message becomes visible.
    pub fn next_visible(&self) -> Option<Instant> {
        let state = self.state();
        let now = Instant::now();
        state.messages.values().map(|m| m.visible).filter(|at| *at > now).min()
    }
}
