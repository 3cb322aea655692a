//! Scripted runs in which nothing fails: the guards of speed that stand in the pipeline, and
//! sequences that once broke a promise.

use std::sync::Arc;
use std::time::Duration;

use flux::core::engine::message;
use flux::core::engine::worker::{Rules, Worker};
use flux::core::model::{Clock, ItemChange, ItemId, Order, OrderId, Quantity, Timestamp, UserId};
use flux::core::ports::dead_letters::DeadLetter;
use flux::core::ports::ledger::OrderState;
use flux::telemetry::Silent;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lock::STRANGER;
use super::process::Process;
use super::scenario::redrive_all;
use super::store::{Backend, HeldLock, Setup, Store};
use super::world::World;

pub const VISIBILITY: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_millis(500);

/// Services that never fail. A commit takes few orders, so that a line does not empty at once.
pub fn calm(backend: Backend) -> Arc<Store> {
    let world = World::new(1);
    world.calm_down();
    let setup = Setup {
        backend,
        visibility: VISIBILITY,
        receives_max: 100,
        backlog_max: 10_000,
        commit_max: 2,
        old_receipts_count: false,
        shop_is_told: false,
        without: None,
    };
    Store::new(&world, setup)
}

struct Stage {
    world: Arc<World>,
    store: Arc<Store>,
    item: ItemId,
}

impl Stage {
    /// One item with plenty of units, and nothing that fails.
    fn new(backend: Backend) -> Stage {
        let store = calm(backend);
        let world = store.world.clone();
        let item = ItemId::parse("hot").unwrap();
        let now = Process::new(&world, "admin".to_owned()).now();
        store.set_item(&item, ItemChange::stock(10_000), now);
        Stage { world, store, item }
    }

    fn hire(&self, name: &str) {
        let process = Process::new(&self.world, name.to_owned());
        let rules = Rules {
            unlisted_stock: 0,
            concurrency: 2,
            lease: LEASE,
            visibility: VISIBILITY,
            receive_wait: Duration::from_secs(1),
            drain: Duration::from_secs(1),
        };
        let ports = self.store.ports(&process, true);
        tokio::spawn(
            Worker { ports, rules, observer: Arc::new(Silent) }.run(CancellationToken::new()),
        );
    }

    /// A stranger takes the lock for so long.
    fn lock(&self, time: Duration) {
        let (now, token) = (Instant::now(), STRANGER);
        let held = HeldLock { token, until: now + time, wanted_until: now };
        self.store.state().locks.insert(self.item.clone(), held);
    }

    /// Sends so many orders, one each millisecond: a lane's line is never empty.
    async fn send(&self, count: usize) -> Vec<OrderId> {
        let api = Process::new(&self.world, "api".to_owned());
        let ports = self.store.ports(&api, true);
        let mut sent = Vec::new();
        for n in 0..count {
            let order = Order {
                id: ports.order_ids.generate(api.now()),
                user: UserId::parse(&format!("user-{n}")).unwrap(),
                item: self.item.clone(),
                quantity: Quantity::ONE,
                accepted_at: api.now(),
                trace: None,
            };
            sent.push(order.id);
            let queue = ports.queue.clone();
            tokio::spawn(async move { queue.send(&[order]).await });
            sleep(Duration::from_millis(1)).await;
        }
        sent
    }

    fn order(&self, user: &str) -> Order {
        let now = Process::new(&self.world, "api".to_owned()).now();
        Order {
            id: self.store.names.generate(now),
            user: UserId::parse(user).unwrap(),
            item: self.item.clone(),
            quantity: Quantity::ONE,
            accepted_at: now,
            trace: None,
        }
    }

    /// Puts one message of these orders into the queue.
    fn put(&self, orders: &[Order]) {
        self.store.put(&mut self.store.state(), message::encode(orders), None);
    }

    async fn is_decided(&self, order: OrderId) -> bool {
        let reader = Process::new(&self.world, "reader".to_owned());
        let found = self.store.ports(&reader, true).ledger.find(&[order]).await.unwrap();
        let state = found[0].as_ref().map(|record| record.state);
        matches!(state, Some(OrderState::Decided { .. }))
    }

    /// How many events have this in their text.
    fn count(trace: &[String], text: &str) -> usize {
        trace.iter().filter(|line| line.contains(text)).count()
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_hot_items_lock_gets_its_turn_and_nobody_loses_a_lease() {
    let stage = Stage::new(Backend::Standard);
    stage.hire("first");
    stage.hire("second");
    stage.send(3_000).await;
    let (trace, _) = stage.world.take_log();
    for name in ["first", "second"] {
        let commits = Stage::count(&trace, &format!("{name} commits"));
        assert!(commits > 20, "{name} committed {commits} times");
    }
    assert_eq!(Stage::count(&trace, "is taken from another"), 0);
    assert_eq!(Stage::count(&trace, "time 2"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_lock_is_not_delivered_again() {
    let stage = Stage::new(Backend::Standard);
    stage.lock(VISIBILITY * 5);
    stage.hire("worker");
    let sent = stage.send(3).await;
    sleep(VISIBILITY * 4).await;
    assert!(!stage.is_decided(sent[0]).await);
    sleep(VISIBILITY * 2).await;
    assert!(stage.is_decided(sent[0]).await);
    assert_eq!(Stage::count(&stage.world.take_log().0, "time 2"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_dead_lettered_in_a_workers_hand_is_decided_after_its_redrive() {
    let stage = Stage::new(Backend::Embedded);
    stage.lock(VISIBILITY);
    stage.hire("worker");
    let sent = stage.send(1).await;
    sleep(VISIBILITY / 2).await;
    stage.store.strange(&stage.item);
    sleep(VISIBILITY * 2).await;
    let operator = Process::new(&stage.world, "operator".to_owned());
    let ports = stage.store.ports(&operator, true);
    redrive_all(&ports).await.unwrap();
    sleep(VISIBILITY).await;
    assert!(stage.is_decided(sent[0]).await);
}

/// A copy of an order that asks for something else under its id.
fn forged(order: &Order) -> Order {
    Order { user: UserId::parse("forger").unwrap(), ..order.clone() }
}

/// The users of decided orders, and those of dead-lettered ones.
async fn settled(stage: &Stage) -> (Vec<String>, Vec<String>) {
    sleep(VISIBILITY * 3).await;
    let state = stage.store.state();
    assert!(state.messages.is_empty());
    let mut sold: Vec<String> =
        state.decided.values().map(|one| one.order.user.to_string()).collect();
    sold.sort_unstable();
    let letters = state.letters.values();
    let dead = letters.inspect(|letter| assert!(letter.reason.contains("another request")));
    let dead = dead.flat_map(|letter| stage.store.decode(&letter.body, 0).0);
    (sold, dead.map(|order| order.user.to_string()).collect())
}

#[tokio::test(start_paused = true)]
async fn another_request_under_a_decided_id_is_dead_lettered_and_a_repeat_is_not() {
    for rejecting in [false, true] {
        let stage = Stage::new(Backend::Standard);
        if rejecting {
            let now = Process::new(&stage.world, "admin".to_owned()).now();
            stage.store.set_item(&stage.item, ItemChange::stock(0), now);
        }
        stage.hire("first");
        let order = stage.order("ann");
        let later = Order { accepted_at: order.accepted_at.plus(LEASE), ..order.clone() };
        stage.put(std::slice::from_ref(&order));
        sleep(LEASE).await;
        // The worker that decided it, from memory; then one that only the ledger tells.
        stage.put(&[later.clone(), forged(&order)]);
        assert_eq!(settled(&stage).await, (vec!["ann".to_owned()], vec!["forger".to_owned()]));
        let other = Quantity::new(2).unwrap();
        stage.hire("second");
        stage.put(&[later, Order { quantity: other, ..order.clone() }]);
        let (sold, mut dead) = settled(&stage).await;
        dead.sort_unstable();
        assert_eq!(
            (sold, dead),
            (vec!["ann".to_owned()], vec!["ann".to_owned(), "forger".to_owned()])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_requests_under_one_id_the_first_is_decided_and_the_other_redriven_under_its_own() {
    let stage = Stage::new(Backend::Standard);
    let order = stage.order("ann");
    let first = Order { accepted_at: Timestamp(order.accepted_at.0 - 1), ..forged(&order) };
    stage.put(&[order.clone(), first, order.clone()]);
    stage.hire("worker");
    let ann = vec!["ann".to_owned()];
    assert_eq!(settled(&stage).await, (vec!["forger".to_owned()], ann));
    let operator = Process::new(&stage.world, "operator".to_owned());
    redrive_all(&stage.store.ports(&operator, true)).await.unwrap();
    let both = vec!["ann".to_owned(), "forger".to_owned()];
    assert_eq!(settled(&stage).await, (both, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_id_is_decided_for_another_request_is_not_dropped() {
    let stage = Stage::new(Backend::Standard);
    let order = stage.order("ann");
    stage.hire("worker");
    stage.put(std::slice::from_ref(&order));
    sleep(LEASE).await;
    let letter = DeadLetter {
        order_id: order.id,
        reason: "received too often".to_owned(),
        body: message::encode(&[forged(&order)]),
        at: order.accepted_at,
    };
    stage.store.state().letters.insert(order.id, letter);
    let operator = Process::new(&stage.world, "operator".to_owned());
    redrive_all(&stage.store.ports(&operator, true)).await.unwrap();
    assert_eq!(settled(&stage).await, (vec!["ann".to_owned()], vec!["forger".to_owned()]));
}
