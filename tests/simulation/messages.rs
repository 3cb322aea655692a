//! What the simulated queue does with its messages: like SQS, standard or FIFO, or like the
//! embedded queue.

use std::collections::BTreeSet;
use std::time::Duration;

use flux::core::engine::message;
use flux::core::engine::message::Origin;
use flux::core::model::{
    Decided, Decision, IdempotencyKey, ItemId, Order, OrderId, Quantity, Timestamp, UserId,
};
use flux::core::ports::dead_letters::{Became, DeadLetter, Wish};
use flux::core::ports::queue::{QueueError, Receipt, Sent};
use tokio::time::Instant;

use super::guards::Guard;
use super::process::Failed;
use super::store::{Backend, Message, State, Store};
use super::world::Fault;

/// The most orders that a message of ours carries.
const MESSAGE_ORDERS: (u64, u64) = (1, 5);

/// A message as it was handed out.
pub struct Taken {
    pub place: u64,
    pub receipt: u64,
    pub body: String,
    pub receives: u32,
}

impl Taken {
    pub fn receipt(&self) -> Receipt {
        Receipt(format!("{}/{}", self.place, self.receipt))
    }
}

impl Store {
    /// Puts a message into the queue, durably.
    pub fn put(&self, state: &mut State, body: String, group: Option<ItemId>) {
        let late =
            self.setup.backend == Backend::Standard && self.world.happens(Fault::DeliveredLate);
        let late = if late { self.world.span((1, 20_000)) } else { Duration::ZERO };
        let place = state.fresh();
        for order in self.decode(&body, place).0 {
            if self.is_embedded() {
                state.rows.insert(order.id, order.clone());
            }
            self.world.audit(|auditor| auditor.queued(&order, place));
        }
        let (visible, holder) = (Instant::now() + late, String::new());
        let message = Message { body, group, visible, receives: 0, holder, receipt: 0 };
        state.messages.insert(place, message);
        self.changed();
    }

    pub fn decode(&self, body: &str, place: u64) -> (Vec<Order>, Vec<DeadLetter>) {
        let message_id = &format!("message-{place}");
        let origin = Origin { message_id, sent_at: Timestamp(1_700_000_000_000) };
        message::decode(body, origin, &self.names)
    }

    fn orders_of(&self, state: &State, place: u64) -> Vec<Order> {
        let Some(message) = state.messages.get(&place) else { return Vec::new() };
        self.decode(&message.body, place).0
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
                    Some(row) if row.same_request(order) || self.is_out(Guard::Fingerprint) => {}
                    Some(_) => *answer = Ok(Sent::KeyReused),
                }
            }
            return answers;
        }
        for places in self.pack(orders) {
            let failed = self.world.happens(Fault::PartialBatch);
            let done = !failed || self.world.one_in(2);
            if done {
                let batch: Vec<Order> = places.iter().map(|n| orders[*n].clone()).collect();
                let group = (self.setup.backend == Backend::Fifo).then(|| batch[0].item.clone());
                self.put(&mut state, message::encode(&batch), group);
            }
            if failed && !self.is_out(Guard::EntryByEntry) {
                let failed = if done { Failed::Unknown } else { Failed::Refused };
                places.into_iter().for_each(|n| answers[n] = Err(failed.into()));
            }
        }
        answers
    }

    /// Which orders share a message: neighbours, on a FIFO queue of one item.
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

    /// Hands out messages, hidden from others from now on.
    pub fn take(&self, who: &str, max: usize) -> Vec<Taken> {
        let (mut state, now) = (self.state(), Instant::now());
        let mut taken = Vec::new();
        // A standard queue looks at some of its servers only.
        let standard = self.setup.backend == Backend::Standard;
        let max = if standard { self.world.between((1, max as u64)) as usize } else { max };
        for place in self.line(&state, who, now) {
            if taken.len() == max {
                break;
            }
            let receipt = state.fresh();
            let orders = self.orders_of(&state, place);
            let Some(message) = state.messages.get_mut(&place) else { continue };
            if message.receives >= self.setup.receives_max && !self.is_embedded() {
                self.dead_letter_message(&mut state, place);
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
            (message.holder, message.receipt) = (who.to_owned(), receipt);
            let (body, receives) = (message.body.clone(), message.receives);
            self.world.tell(format_args!("{who} gets message {place}, time {receives}"));
            taken.push(Taken { place, receipt, body, receives });
        }
        taken
    }

    /// The places that may be handed out now, in this order.
    fn line(&self, state: &State, who: &str, now: Instant) -> Vec<u64> {
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
        let mut line: Vec<u64> = visible.map(|(place, _)| *place).collect();
        if self.setup.backend == Backend::Standard && self.world.happens(Fault::DeliveredOutOfOrder)
        {
            for n in (1..line.len()).rev() {
                line.swap(n, self.world.below(n as u64 + 1) as usize);
            }
        }
        line
    }

    /// Moves a message that was received too often.
    fn dead_letter_message(&self, state: &mut State, place: u64) {
        let Some(message) = state.messages.remove(&place) else { return };
        let (orders, letters) = self.decode(&message.body, place);
        let too_often = |order: Order| DeadLetter {
            order_id: order.id,
            reason: "received too often".to_owned(),
            body: message::encode(std::slice::from_ref(&order)),
            at: order.accepted_at,
        };
        let letters = letters.into_iter().chain(orders.into_iter().map(too_often)).collect();
        self.dead_letter(state, place, letters);
    }

    pub fn dead_letter(&self, state: &mut State, place: u64, letters: Vec<DeadLetter>) {
        for letter in letters {
            self.world
                .tell(format_args!("{} is dead-lettered: {}", letter.order_id, letter.reason));
            self.world
                .audit(|auditor| auditor.dead_lettered(letter.order_id, place, &letter.reason));
            let (orders, _) = self.decode(&letter.body, place);
            orders.iter().for_each(|order| self.world.audit(|auditor| auditor.set_aside(order)));
            if self.is_embedded() {
                state.close_rows(&[letter.order_id]);
            }
            state.letters.insert(letter.order_id, letter);
        }
    }

    /// Something that no API of ours sent: another producer's message, or, in a file, an order's
    /// damaged row.
    pub fn strange(&self, item: &ItemId) {
        let mut state = self.state();
        if self.is_embedded() {
            let Some(place) = state.messages.keys().next().copied() else { return };
            return self.dead_letter_message(&mut state, place);
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

    /// A message that bears the id of another order, sent already or to be sent.
    pub fn forge(&self, item: &ItemId, buyers: u64) {
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

    /// The message that a receipt still stands for.
    fn place_of(&self, state: &State, receipt: &Receipt) -> Option<u64> {
        let (place, receipt) = receipt.0.split_once('/')?;
        let (place, receipt): (u64, u64) = (place.parse().ok()?, receipt.parse().ok()?);
        let message = state.messages.get(&place)?;
        let old = self.setup.backend == Backend::Standard && self.setup.old_receipts_count;
        (message.receipt == receipt || old).then_some(place)
    }

    pub fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let mut state = self.state();
        let mut answers = vec![Ok(()); receipts.len()];
        for (receipt, answer) in receipts.iter().zip(&mut answers) {
            let Some(place) = self.place_of(&state, receipt) else { continue };
            let failed = self.world.happens(Fault::PartialBatch);
            if failed && !self.is_out(Guard::EntryByEntry) {
                *answer = Err(Failed::Unknown.into());
            }
            if failed && self.world.one_in(2) {
                continue;
            }
            let orders = self.orders_of(&state, place);
            self.world.audit(|auditor| auditor.acknowledged(&orders, place));
            self.world.tell(format_args!("message {place} is gone"));
            state.messages.remove(&place);
        }
        self.changed();
        answers
    }

    pub fn hide(&self, receipts: &[Receipt], time: Duration) {
        let mut state = self.state();
        // The caller hands them over in no particular order.
        for receipt in receipts.iter().map(|r| &r.0).collect::<BTreeSet<_>>() {
            if let Some(place) = self.place_of(&state, &Receipt(receipt.clone()))
                && let Some(message) = state.messages.get_mut(&place)
            {
                message.visible = Instant::now() + time;
            }
        }
        self.changed();
    }

    /// What is wished of dead letters is done.
    pub fn do_letters(&self, wishes: &[(OrderId, Wish)], now: Timestamp) -> Vec<Became> {
        let mut state = self.state();
        let one = |(id, wish): &(OrderId, Wish)| self.do_letter(&mut state, *id, wish, now);
        wishes.iter().map(one).collect()
    }

    fn do_letter(&self, state: &mut State, id: OrderId, wish: &Wish, now: Timestamp) -> Became {
        if !state.letters.contains_key(&id) {
            return Became::Gone;
        }
        let Wish::Send(order) = wish else {
            state.letters.remove(&id);
            return Became::Dropped(self.decide_dropped(state, id, now));
        };
        let lost = self.is_out(Guard::OrderIdKept);
        let id_now = if lost { self.names.generate(order.accepted_at) } else { id };
        let order = Order { id: id_now, ..order.clone() };
        let grouped = self.setup.backend != Backend::Standard;
        self.put(
            state,
            message::encode(std::slice::from_ref(&order)),
            grouped.then_some(order.item),
        );
        // A letter that was sent again and not taken away is sent again some other time.
        if self.is_embedded() || !self.world.happens(Fault::PartialBatch) {
            state.letters.remove(&id);
        }
        Became::Sent
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
        let (state, now) = (self.state(), Instant::now());
        state.messages.values().map(|m| m.visible).filter(|at| *at > now).min()
    }
}
