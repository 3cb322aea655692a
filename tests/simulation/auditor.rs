//! The auditor: keeps its own books of what the services did and of the responses to buyers, and
//! checks the promises against them. It shares no code with flux's decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flux::core::model::{
    DECISION_RETENTION, Decided, Decision, Item, ItemId, Order, OrderId, Reason,
};

/// The content of a request: user, item, units.
pub type Requested = (String, String, u64);

pub fn requested_by(order: &Order) -> Requested {
    (order.user.to_string(), order.item.to_string(), order.quantity.units())
}

#[derive(Debug, Default)]
pub struct Auditor {
    pub now: Duration,
    /// Descriptions of the broken promises.
    pub wrong: Vec<String>,
    /// Stock of an unlisted item.
    pub unlisted_stock: u64,
    /// True if the queue delivers an item's orders strictly in order (P6).
    pub strict_order: bool,
    /// True if a reused key is compared with its first request.
    pub keys_are_compared: bool,
    /// True if each decision must have an event in the outbox.
    pub webhooks_enabled: bool,
    /// Orders whose events are in the outbox.
    events: BTreeSet<OrderId>,
    /// On a standard queue: sales while an order that was accepted earlier was still queued.
    pub inversions: u64,
    items: BTreeMap<ItemId, Books>,
    orders: BTreeMap<OrderId, Account>,
    /// By user and key.
    keys: BTreeMap<(String, String), Uses>,
    /// Orders whose key was not compared because the service failed.
    keys_unchecked: BTreeSet<OrderId>,
    /// Ids of all dead letters so far.
    dead_letter_ids: BTreeSet<OrderId>,
    /// Dead-lettered requests, with the id under which they were sent.
    set_aside: BTreeSet<(OrderId, Requested)>,
}

/// The uses of a key.
#[derive(Debug, Default)]
struct Uses {
    tried: BTreeSet<Requested>,
    /// The first request that got a 202.
    taken: Option<(OrderId, Requested)>,
}

/// An item as computed from its orders.
#[derive(Debug)]
struct Books {
    stock: u64,
    sold: u64,
    listed: Duration,
    raised: Duration,
    sale: Sale,
    /// History of the free units and of the sale's state.
    past: Vec<(Duration, u64, Sale)>,
}

/// The state of an item's sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sale {
    Open,
    Closed,
    Removed,
}

impl Sale {
    fn of(item: &Item) -> Sale {
        match item.closed_at {
            _ if item.is_removed() => Sale::Removed,
            Some(_) => Sale::Closed,
            None => Sale::Open,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Dead,
    Decided(Decision),
}

#[derive(Debug)]
struct Account {
    order: Order,
    requests: BTreeSet<Requested>,
    durable: Duration,
    /// Position of its first copy in the queue.
    first_seq: u64,
    /// Positions of its copies in the queue.
    seqs: BTreeSet<u64>,
    state: State,
    was_dead: bool,
    promised: bool,
}

impl Books {
    fn free(&self) -> u64 {
        self.stock.saturating_sub(self.sold)
    }

    /// True if a rejection was correct at any moment since `begin`.
    fn was_right_since(&self, begin: Duration, is_right: impl Fn(u64, Sale) -> bool) -> bool {
        let at_begin = self.past.iter().rev().find(|(at, ..)| *at <= begin);
        let later = self.past.iter().filter(|(at, ..)| *at > begin);
        at_begin.into_iter().chain(later).any(|(_, free, sale)| is_right(*free, *sale))
    }

    fn remember(&mut self, now: Duration) {
        self.past.push((now, self.free(), self.sale));
    }
}

impl Auditor {
    fn broken(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// A buyer sends a request with this key.
    pub fn tried(&mut self, key: &str, request: &Requested) {
        let key = (request.0.clone(), key.to_owned());
        self.keys.entry(key).or_default().tried.insert(request.clone());
    }

    /// A buyer got a 202.
    pub fn promised(&mut self, order: &Order, key: Option<&str>) {
        let id = order.id;
        match self.orders.get_mut(&id) {
            None => self.broken(format!("P3: {id} got its 202 and is not in the queue")),
            Some(account) if account.promised && key.is_none() => {
                self.broken(format!("P5: {id} is the name of two requests"));
            }
            Some(account) => account.promised = true,
        }
        let Some(key) = key else { return };
        let requested = requested_by(order);
        let uses = self.keys.entry((requested.0.clone(), key.to_owned())).or_default();
        match uses.taken.clone() {
            None => uses.taken = Some((id, requested)),
            Some((other, _)) if other != id => {
                self.broken(format!("P5: one key made two orders, {other} and {id}"));
            }
            Some((_, other)) if other != requested && self.is_compared(id) => {
                self.broken(format!(
                    "P5: the key of {id} was used for {other:?} and {requested:?}"
                ));
            }
            Some(_) => {}
        }
    }

    fn is_compared(&self, order: OrderId) -> bool {
        self.keys_are_compared && !self.keys_unchecked.contains(&order)
    }

    /// A buyer got a 422.
    pub fn refused(&mut self, key: &str, request: &Requested) {
        if self.keys[&(request.0.clone(), key.to_owned())].tried.len() < 2 {
            self.broken(format!("P5: a key used once was refused: {request:?}"));
        }
    }

    /// Reused keys of these orders need not be detected.
    pub fn keys_unchecked(&mut self, orders: impl IntoIterator<Item = OrderId>) {
        self.keys_unchecked.extend(orders);
    }

    fn account(&mut self, order: &Order, seq: u64) -> &mut Account {
        let durable = self.now;
        self.orders.entry(order.id).or_insert_with(|| Account {
            order: order.clone(),
            requests: BTreeSet::new(),
            durable,
            first_seq: seq,
            seqs: BTreeSet::new(),
            state: State::Waiting,
            was_dead: false,
            promised: false,
        })
    }

    /// Adds an order that is known only from a dead letter.
    fn queue_unsent(&mut self, order: &Order) {
        if self.dead_letter_ids.contains(&order.id) && !self.orders.contains_key(&order.id) {
            self.account(order, 0).requests.insert(requested_by(order));
        }
    }

    /// An order is durable in the queue at this position: new, redriven, or a copy.
    pub fn queued(&mut self, order: &Order, seq: u64) {
        let account = self.account(order, seq);
        account.requests.insert(requested_by(order));
        account.seqs.insert(seq);
        if account.state == State::Dead {
            account.state = State::Waiting;
            account.order = order.clone();
        }
    }

    /// The copy at this position was moved to the dead-letter queue.
    pub fn dead_lettered(&mut self, order: OrderId, seq: u64, reason: &str) {
        if reason.is_empty() {
            self.broken(format!("P3: {order} is dead-lettered without a reason"));
        }
        self.dead_letter_ids.insert(order);
        let Some(account) = self.orders.get_mut(&order) else { return };
        account.seqs.remove(&seq);
        account.was_dead = true;
        if account.state == State::Waiting && account.seqs.is_empty() {
            account.state = State::Dead;
        }
    }

    /// A dead letter contains this order.
    pub fn set_aside(&mut self, order: &Order) {
        self.set_aside.insert((order.id, requested_by(order)));
    }

    /// The message with these orders, at this position, was deleted from the queue.
    pub fn acknowledged(&mut self, orders: &[Order], seq: u64) {
        for order in orders {
            let id = order.id;
            let requested = requested_by(order);
            let Some(account) = self.orders.get_mut(&id) else { continue };
            account.seqs.remove(&seq);
            let state = account.state;
            let decided = requested_by(&account.order);
            if state == State::Waiting && !account.was_dead {
                self.broken(format!("P3: {id} was acknowledged undecided"));
            }
            let is_aside = self.set_aside.contains(&(id, requested.clone()));
            if matches!(state, State::Decided(_)) && decided != requested && !is_aside {
                self.broken(format!("P3: {id} is decided for {decided:?}, {requested:?} is lost"));
            }
        }
    }

    /// A message was redelivered although its receiver had no fault.
    pub fn needless_redelivery(&mut self, orders: &[OrderId]) {
        self.broken(format!("P7: {orders:?} were delivered again in a run without a fault"));
    }

    /// An organiser changed an item's stock, or closed or reopened its sale.
    pub fn changed(&mut self, item: &Item) {
        let now = self.now;
        let new = self.new_books(item.stock);
        let books = self.items.entry(item.id.clone()).or_insert(new);
        if item.stock > books.stock {
            books.raised = now;
        }
        books.stock = item.stock;
        books.sale = Sale::of(item);
        books.remember(now);
        self.compare(item);
    }

    fn new_books(&self, stock: u64) -> Books {
        let now = self.now;
        let past = vec![(now, stock, Sale::Open)];
        Books { stock, sold: 0, listed: now, raised: now, sale: Sale::Open, past }
    }

    /// The ledger wrote an item and its decisions in one commit.
    pub fn committed(&mut self, item: &Item, decided: &[Decided]) {
        let new = self.new_books(self.unlisted_stock);
        let mut books = self.items.remove(&item.id).unwrap_or(new);
        for one in decided {
            let units = one.order.quantity.units();
            let free = books.free();
            let right = match (one.decided_at.since(one.order.accepted_at), free) {
                (age, _) if age > DECISION_RETENTION => Decision::Expired,
                _ if books.sale == Sale::Removed => Decision::Rejected(Reason::UnknownItem),
                _ if books.sale == Sale::Closed => Decision::Rejected(Reason::Closed),
                (_, 0) => Decision::Rejected(Reason::SoldOut),
                (_, free) if free < units => Decision::Rejected(Reason::NotEnough),
                _ => Decision::Sold,
            };
            let id = one.order.id;
            let made = one.decision;
            if made != right {
                let sale = books.sale;
                self.broken(format!("P1, P2: {id} was {made:?} with {free} free, {sale:?}"));
            }
            if made == Decision::Sold {
                books.sold += units;
                self.check_order(&one.order);
            }
            self.decided(one);
        }
        if books.sold > books.stock {
            let id = &item.id;
            let sold = books.sold;
            let stock = books.stock;
            self.broken(format!("P1: {id} is oversold: {sold} of {stock}"));
        }
        books.remember(self.now);
        self.items.insert(item.id.clone(), books);
        self.compare(item);
    }

    /// The ledger wrote decisions without units.
    pub fn recorded(&mut self, decided: &[Decided]) {
        for one in decided {
            let order = &one.order;
            let made = one.decision;
            let since = self.orders.get(&order.id).map_or(self.now, |account| account.durable);
            let books = self.items.get(&order.item);
            let right = match made {
                Decision::Sold | Decision::Rejected(Reason::NotEnough) => false,
                Decision::Rejected(Reason::SoldOut) => books.is_some_and(|b| {
                    b.was_right_since(since, |free, sale| free == 0 && sale == Sale::Open)
                }),
                Decision::Rejected(Reason::Closed) => {
                    books.is_some_and(|b| b.was_right_since(since, |_, sale| sale == Sale::Closed))
                }
                Decision::Rejected(Reason::UnknownItem) => {
                    let unlisted = books.is_none_or(|books| books.listed >= since);
                    self.unlisted_stock == 0 && unlisted
                        || books.is_some_and(|b| {
                            b.was_right_since(since, |_, sale| sale == Sale::Removed)
                        })
                }
                Decision::Expired => one.decided_at.since(order.accepted_at) > DECISION_RETENTION,
                Decision::Dropped => {
                    // Another request under an id in use is dead-lettered under an id of its own.
                    self.queue_unsent(order);
                    self.dead_letter_ids.contains(&order.id)
                }
            };
            if !right {
                let id = order.id;
                self.broken(format!("P2: {id} was {made:?}, which was never correct"));
            }
            self.decided(one);
        }
    }

    fn decided(&mut self, one: &Decided) {
        let id = one.order.id;
        let made = one.decision;
        let Some(account) = self.orders.get_mut(&id) else {
            return self.broken(format!("P3: {id} was decided and never sent"));
        };
        let before = std::mem::replace(&mut account.state, State::Decided(made));
        account.order = one.order.clone();
        let known = account.requests.contains(&requested_by(&one.order));
        if let State::Decided(first) = before {
            self.broken(format!("P4: {id} was {first:?} and then {made:?}"));
        }
        if !known {
            self.broken(format!(
                "P5: {id} was decided for a request that was never sent: {:?}",
                one.order
            ));
        }
    }

    /// An order gets units: no order before it may be queued.
    fn check_order(&mut self, order: &Order) {
        let first_seq = self.orders.get(&order.id).map_or(0, |account| account.first_seq);
        // An order with two requests under its id is skipped: either may be decided first.
        let waits = |a: &&Account| {
            a.state == State::Waiting && a.order.item == order.item && a.requests.len() == 1
        };
        let mut waiting = self.orders.values().filter(waits);
        if self.strict_order {
            if let Some(first) =
                waiting.find(|a| a.seqs.first().is_some_and(|seq| *seq < first_seq))
            {
                let id = order.id;
                let other = first.order.id;
                self.broken(format!("P6: {id} got units before {other}, which came earlier"));
            }
        } else if waiting.any(|account| account.order.accepted_at < order.accepted_at) {
            self.inversions += 1;
        }
    }

    fn compare(&mut self, item: &Item) {
        let books = &self.items[&item.id];
        let right = (books.stock, books.free(), 0, books.sold, books.sale);
        if (item.stock, item.free, item.held, item.sold, Sale::of(item)) != right {
            self.broken(format!("P2: the orders say {right:?}, the item {item:?}"));
        }
    }

    /// The outbox has the event of this decision.
    pub fn event_put(&mut self, one: &Decided) {
        let account = self.orders.get(&one.order.id);
        if account.is_none_or(|account| account.state != State::Decided(one.decision)) {
            let id = one.order.id;
            let decision = one.decision;
            self.broken(format!("webhooks: the outbox has an event that {id} is {decision:?}"));
        }
        self.events.insert(one.order.id);
    }

    /// Orders in the queue that are neither decided nor dead-lettered.
    pub fn undecided(&self) -> Vec<OrderId> {
        let waiting = self.orders.values().filter(|account| account.state == State::Waiting);
        waiting.map(|account| account.order.id).collect()
    }

    /// Checks the final state. `dead` are the orders with a dead letter.
    pub fn close(&mut self, dead: &BTreeSet<OrderId>) {
        let mut wrong = Vec::new();
        for (id, account) in &self.orders {
            let decided = matches!(account.state, State::Decided(_));
            // The event of an order with a dead letter is put when that is redriven or dropped.
            let has_event = self.events.contains(id) || dead.contains(id);
            if self.webhooks_enabled && decided && !has_event {
                wrong.push(format!("webhooks: {id} was decided, and has no event in the outbox"));
            }
            match account.state {
                State::Waiting => wrong.push(format!("P3: {id} was never decided")),
                State::Dead if !dead.contains(id) => {
                    wrong.push(format!("P3: {id} is neither decided nor dead-lettered"));
                }
                State::Decided(Decision::Rejected(Reason::SoldOut)) => {
                    let Some(books) = self.items.get(&account.order.item) else { continue };
                    let units = account.order.quantity.units();
                    if account.durable > books.raised && units <= books.free() {
                        wrong.push(format!("P2: {id} was turned away, {} stranded", books.free()));
                    }
                }
                State::Dead | State::Decided(_) => {}
            }
        }
        self.wrong.append(&mut wrong);
    }

    /// The number of orders, and of those that were sold.
    pub fn totals(&self) -> (u64, u64) {
        let sold = |a: &&Account| a.state == State::Decided(Decision::Sold);
        (self.orders.len() as u64, self.orders.values().filter(sold).count() as u64)
    }
}
