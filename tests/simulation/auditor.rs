//! The auditor: keeps its own books from what the services saw and what buyers were told, and
//! holds them against the promises. It knows nothing of how flux decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flux::core::model::{
    DECISION_RETENTION, Decided, Decision, Item, ItemId, Order, OrderId, Reason,
};

/// What a buyer asks for: user, item, units.
pub type Wish = (String, String, u64);

pub fn wish(order: &Order) -> Wish {
    (order.user.to_string(), order.item.to_string(), order.quantity.units())
}

#[derive(Debug, Default)]
pub struct Auditor {
    pub now: Duration,
    /// Each broken promise, in words.
    pub wrong: Vec<String>,
    /// Stock of an item that nobody listed.
    pub unlisted_stock: u64,
    /// The queue hands out an item's orders one after another (P6 is strict).
    pub strict_order: bool,
    /// Somebody compares a reused key with its first request.
    pub keys_are_compared: bool,
    /// The shop is told of each decision.
    pub shop_is_told: bool,
    /// Orders whose events are in the outbox.
    told: BTreeSet<OrderId>,
    /// On a standard queue: units given while an order accepted before waited.
    pub inversions: u64,
    items: BTreeMap<ItemId, Books>,
    orders: BTreeMap<OrderId, Account>,
    /// By user and key.
    keys: BTreeMap<(String, String), Uses>,
    /// Orders of whose key the service that compares was away.
    unmarked: BTreeSet<OrderId>,
    /// Ids that a dead letter had.
    lettered: BTreeSet<OrderId>,
    /// Requests that are dead-lettered, by the id under which they were sent.
    set_aside: BTreeSet<(OrderId, Wish)>,
}

/// What a key was used for.
#[derive(Debug, Default)]
struct Uses {
    tried: BTreeSet<Wish>,
    /// The first that got a 202.
    taken: Option<(OrderId, Wish)>,
}

/// An item as its orders make it.
#[derive(Debug)]
struct Books {
    stock: u64,
    sold: u64,
    listed: Duration,
    raised: Duration,
    sale: Sale,
    /// Free units from each moment on, and what the organiser had done.
    past: Vec<(Duration, u64, Sale)>,
}

/// What the organiser did with an item.
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
    wishes: BTreeSet<Wish>,
    durable: Duration,
    /// Where it stood in line when it first came.
    came: u64,
    /// Where it stands in line; each copy in the queue has a place.
    places: BTreeSet<u64>,
    state: State,
    was_dead: bool,
    promised: bool,
}

impl Books {
    fn free(&self) -> u64 {
        self.stock.saturating_sub(self.sold)
    }

    /// Whether at some moment since then such a "no" was right.
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

    /// A buyer is about to ask under this key.
    pub fn tried(&mut self, key: &str, wish: &Wish) {
        let key = (wish.0.clone(), key.to_owned());
        self.keys.entry(key).or_default().tried.insert(wish.clone());
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
        let wished = wish(order);
        let uses = self.keys.entry((wished.0.clone(), key.to_owned())).or_default();
        match uses.taken.clone() {
            None => uses.taken = Some((id, wished)),
            Some((other, _)) if other != id => {
                self.broken(format!("P5: one key made two orders, {other} and {id}"));
            }
            Some((_, other)) if other != wished && self.is_compared(id) => {
                self.broken(format!("P5: the key of {id} was used for {other:?} and {wished:?}"));
            }
            Some(_) => {}
        }
    }

    fn is_compared(&self, order: OrderId) -> bool {
        self.keys_are_compared && !self.unmarked.contains(&order)
    }

    /// A buyer got a 422.
    pub fn refused(&mut self, key: &str, wish: &Wish) {
        if self.keys[&(wish.0.clone(), key.to_owned())].tried.len() < 2 {
            self.broken(format!("P5: a key used once was refused: {wish:?}"));
        }
    }

    /// Reused keys of these orders need not be noticed.
    pub fn unmarked(&mut self, orders: impl IntoIterator<Item = OrderId>) {
        self.unmarked.extend(orders);
    }

    fn account(&mut self, order: &Order, place: u64) -> &mut Account {
        let durable = self.now;
        self.orders.entry(order.id).or_insert_with(|| Account {
            order: order.clone(),
            wishes: BTreeSet::new(),
            durable,
            came: place,
            places: BTreeSet::new(),
            state: State::Waiting,
            was_dead: false,
            promised: false,
        })
    }

    /// An order of which only a dead letter is known, if it is one.
    fn queue_unsent(&mut self, order: &Order) {
        if self.lettered.contains(&order.id) && !self.orders.contains_key(&order.id) {
            self.account(order, 0).wishes.insert(wish(order));
        }
    }

    /// The queue has an order, durably, at this place; again after a redrive, or as a copy.
    pub fn queued(&mut self, order: &Order, place: u64) {
        let account = self.account(order, place);
        account.wishes.insert(wish(order));
        account.places.insert(place);
        if account.state == State::Dead {
            account.state = State::Waiting;
            account.order = order.clone();
        }
    }

    /// The copy at this place is in the dead-letter queue now.
    pub fn dead_lettered(&mut self, order: OrderId, place: u64, reason: &str) {
        if reason.is_empty() {
            self.broken(format!("P3: {order} is dead-lettered without a reason"));
        }
        self.lettered.insert(order);
        let Some(account) = self.orders.get_mut(&order) else { return };
        account.places.remove(&place);
        account.was_dead = true;
        if account.state == State::Waiting && account.places.is_empty() {
            account.state = State::Dead;
        }
    }

    /// A dead letter holds this order.
    pub fn set_aside(&mut self, order: &Order) {
        self.set_aside.insert((order.id, wish(order)));
    }

    /// The message of these orders at this place is gone from the queue for good.
    pub fn acknowledged(&mut self, orders: &[Order], place: u64) {
        for order in orders {
            let (id, wished) = (order.id, wish(order));
            let Some(account) = self.orders.get_mut(&id) else { continue };
            account.places.remove(&place);
            let (state, decided) = (account.state, wish(&account.order));
            if state == State::Waiting && !account.was_dead {
                self.broken(format!("P3: {id} was acknowledged undecided"));
            }
            let is_aside = self.set_aside.contains(&(id, wished.clone()));
            if matches!(state, State::Decided(_)) && decided != wished && !is_aside {
                self.broken(format!("P3: {id} is decided for {decided:?}, {wished:?} is lost"));
            }
        }
    }

    /// A delivery comes again although nothing happened to the one who had it.
    pub fn needless_redelivery(&mut self, orders: &[OrderId]) {
        self.broken(format!("P7: {orders:?} were delivered again in a run without a fault"));
    }

    /// An organiser changed an item's stock, or closed its sale or opened it again.
    pub fn changed(&mut self, item: &Item) {
        let (now, fresh) = (self.now, self.fresh_books(item.stock));
        let books = self.items.entry(item.id.clone()).or_insert(fresh);
        if item.stock > books.stock {
            books.raised = now;
        }
        books.stock = item.stock;
        books.sale = Sale::of(item);
        books.remember(now);
        self.compare(item);
    }

    fn fresh_books(&self, stock: u64) -> Books {
        let now = self.now;
        let past = vec![(now, stock, Sale::Open)];
        Books { stock, sold: 0, listed: now, raised: now, sale: Sale::Open, past }
    }

    /// The ledger wrote an item and decisions about it in one go.
    pub fn committed(&mut self, item: &Item, decided: &[Decided]) {
        let fresh = self.fresh_books(self.unlisted_stock);
        let mut books = self.items.remove(&item.id).unwrap_or(fresh);
        for one in decided {
            let (units, free) = (one.order.quantity.units(), books.free());
            let right = match (one.decided_at.since(one.order.accepted_at), free) {
                (age, _) if age > DECISION_RETENTION => Decision::Expired,
                _ if books.sale == Sale::Removed => Decision::Rejected(Reason::UnknownItem),
                _ if books.sale == Sale::Closed => Decision::Rejected(Reason::Closed),
                (_, 0) => Decision::Rejected(Reason::SoldOut),
                (_, free) if free < units => Decision::Rejected(Reason::NotEnough),
                _ => Decision::Sold,
            };
            let (id, made) = (one.order.id, one.decision);
            if made != right {
                let sale = books.sale;
                self.broken(format!("P1, P2: {id} was {made:?} with {free} free, {sale:?}"));
            }
            if made == Decision::Sold {
                books.sold += units;
                self.check_line(&one.order);
            }
            self.decided(one);
        }
        if books.sold > books.stock {
            let (id, sold, stock) = (&item.id, books.sold, books.stock);
            self.broken(format!("P1: {id} is oversold: {sold} of {stock}"));
        }
        books.remember(self.now);
        self.items.insert(item.id.clone(), books);
        self.compare(item);
    }

    /// The ledger wrote decisions that give no units.
    pub fn recorded(&mut self, decided: &[Decided]) {
        for one in decided {
            let (order, made) = (&one.order, one.decision);
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
                    self.lettered.contains(&order.id)
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
        let (id, made) = (one.order.id, one.decision);
        let Some(account) = self.orders.get_mut(&id) else {
            return self.broken(format!("P3: {id} was decided and never sent"));
        };
        let before = std::mem::replace(&mut account.state, State::Decided(made));
        account.order = one.order.clone();
        let known = account.wishes.contains(&wish(&one.order));
        if let State::Decided(first) = before {
            self.broken(format!("P4: {id} was {first:?} and then {made:?}"));
        }
        if !known {
            self.broken(format!("P5: {id} was decided as nobody asked for it: {:?}", one.order));
        }
    }

    /// An order gets units: nobody may wait before it.
    fn check_line(&mut self, order: &Order) {
        let came = self.orders.get(&order.id).map_or(0, |account| account.came);
        // An order whose key was reused unnoticed may be anybody's.
        let waits = |a: &&Account| {
            a.state == State::Waiting && a.order.item == order.item && a.wishes.len() == 1
        };
        let mut waiting = self.orders.values().filter(waits);
        if self.strict_order {
            if let Some(first) =
                waiting.find(|a| a.places.first().is_some_and(|place| *place < came))
            {
                let (id, other) = (order.id, first.order.id);
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
    pub fn told(&mut self, one: &Decided) {
        let account = self.orders.get(&one.order.id);
        if account.is_none_or(|account| account.state != State::Decided(one.decision)) {
            let (id, decision) = (one.order.id, one.decision);
            self.broken(format!("webhooks: the shop is told that {id} is {decision:?}"));
        }
        self.told.insert(one.order.id);
    }

    /// Orders that the queue took and that neither have a decision nor are dead-lettered.
    pub fn undecided(&self) -> Vec<OrderId> {
        let waiting = self.orders.values().filter(|account| account.state == State::Waiting);
        waiting.map(|account| account.order.id).collect()
    }

    /// At the end of everything, with the orders that have a dead letter.
    pub fn close(&mut self, dead: &BTreeSet<OrderId>) {
        let mut wrong = Vec::new();
        for (id, account) in &self.orders {
            let decided = matches!(account.state, State::Decided(_));
            // A letter that is left tells the shop when it is sent again or dropped.
            let told = self.told.contains(id) || dead.contains(id);
            if self.shop_is_told && decided && !told {
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

    /// How many orders there were, and how many were sold.
    pub fn tally(&self) -> (u64, u64) {
        let sold = |a: &&Account| a.state == State::Decided(Decision::Sold);
        (self.orders.len() as u64, self.orders.values().filter(sold).count() as u64)
    }
}
