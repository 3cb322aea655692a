//! Scripted runs without faults: the pipeline's performance guards, and sequences that once broke a
//! promise.

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

/// Services without faults. A commit has few orders, so that not all are decided at once.
pub fn calm(backend: Backend) -> Arc<Store> {
    let world = World::new(1);
    world.stop_faults();
    let setup = Setup {
        backend,
        visibility: VISIBILITY,
        receives_max: 100,
        backlog_max: 10_000,
        commit_max: 2,
        old_receipts_count: false,
        webhooks_enabled: false,
        without: None,
    };
    Store::new(&world, setup)
}

struct Fixture {
    world: Arc<World>,
    store: Arc<Store>,
    item: ItemId,
}

impl Fixture {
    /// One item with many units, and services without faults.
    fn new(backend: Backend) -> Fixture {
        let store = calm(backend);
        let world = store.world.clone();
        let item = ItemId::parse("hot").unwrap();
        let now = Process::new(&world, "admin".to_owned()).now();
        store.set_item(&item, ItemChange::stock(10_000), now);
        Fixture { world, store, item }
    }

    fn spawn_worker(&self, name: &str) {
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

    /// Holds the item's lock under a foreign token.
    fn lock(&self, time: Duration) {
        let now = Instant::now();
        let held = HeldLock { token: STRANGER, until: now + time, wanted_until: now };
        self.store.state().locks.insert(self.item.clone(), held);
    }

    /// Sends orders, one per millisecond, so that a lane always has waiting orders.
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

    /// Puts one message with these orders into the queue.
    fn put(&self, orders: &[Order]) {
        self.store.put(&mut self.store.state(), message::encode(orders), None);
    }

    async fn is_decided(&self, order: OrderId) -> bool {
        let reader = Process::new(&self.world, "reader".to_owned());
        let found = self.store.ports(&reader, true).ledger.find(&[order]).await.unwrap();
        let state = found[0].as_ref().map(|record| record.state);
        matches!(state, Some(OrderState::Decided { .. }))
    }

    /// Number of trace lines that contain `text`.
    fn count(trace: &[String], text: &str) -> usize {
        trace.iter().filter(|line| line.contains(text)).count()
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_lane_gets_its_turn_and_no_lease_is_lost() {
    let fixture = Fixture::new(Backend::Standard);
    fixture.spawn_worker("first");
    fixture.spawn_worker("second");
    fixture.send(3_000).await;
    let (trace, _) = fixture.world.take_trace();
    for name in ["first", "second"] {
        let commits = Fixture::count(&trace, &format!("{name} commits"));
        assert!(commits > 20, "{name} committed {commits} times");
    }
    assert_eq!(Fixture::count(&trace, "is taken from another"), 0);
    assert_eq!(Fixture::count(&trace, "time 2"), 0);
}

#[tokio::test(start_paused = true)]
async fn orders_waiting_for_a_lock_are_not_redelivered() {
    let fixture = Fixture::new(Backend::Standard);
    fixture.lock(VISIBILITY * 5);
    fixture.spawn_worker("worker");
    let sent = fixture.send(3).await;
    sleep(VISIBILITY * 4).await;
    assert!(!fixture.is_decided(sent[0]).await);
    sleep(VISIBILITY * 2).await;
    assert!(fixture.is_decided(sent[0]).await);
    assert_eq!(Fixture::count(&fixture.world.take_trace().0, "time 2"), 0);
}

#[tokio::test(start_paused = true)]
async fn order_dead_lettered_in_flight_is_decided_after_its_redrive() {
    let fixture = Fixture::new(Backend::Embedded);
    fixture.lock(VISIBILITY);
    fixture.spawn_worker("worker");
    let sent = fixture.send(1).await;
    sleep(VISIBILITY / 2).await;
    fixture.store.put_foreign(&fixture.item);
    sleep(VISIBILITY * 2).await;
    let operator = Process::new(&fixture.world, "operator".to_owned());
    let ports = fixture.store.ports(&operator, true);
    redrive_all(&ports).await.unwrap();
    sleep(VISIBILITY).await;
    assert!(fixture.is_decided(sent[0]).await);
}

/// Another request under the id of an order.
fn forged(order: &Order) -> Order {
    Order { user: UserId::parse("forger").unwrap(), ..order.clone() }
}

/// The users of decided orders, and those of dead-lettered ones.
async fn decided_and_dead(fixture: &Fixture) -> (Vec<String>, Vec<String>) {
    sleep(VISIBILITY * 3).await;
    let state = fixture.store.state();
    assert!(state.messages.is_empty());
    let mut sold: Vec<String> =
        state.decided.values().map(|one| one.order.user.to_string()).collect();
    sold.sort_unstable();
    let letters = state.letters.values();
    let dead = letters.inspect(|letter| assert!(letter.reason.contains("another request")));
    let dead = dead.flat_map(|letter| fixture.store.decode(&letter.body, 0).0);
    (sold, dead.map(|order| order.user.to_string()).collect())
}

#[tokio::test(start_paused = true)]
async fn other_request_under_a_decided_id_is_dead_lettered() {
    for rejecting in [false, true] {
        let fixture = Fixture::new(Backend::Standard);
        if rejecting {
            let now = Process::new(&fixture.world, "admin".to_owned()).now();
            fixture.store.set_item(&fixture.item, ItemChange::stock(0), now);
        }
        fixture.spawn_worker("first");
        let order = fixture.order("ann");
        let later = Order { accepted_at: order.accepted_at.plus(LEASE), ..order.clone() };
        fixture.put(std::slice::from_ref(&order));
        sleep(LEASE).await;
        // First a worker that remembers the decision, then one that finds it in the ledger.
        fixture.put(&[later.clone(), forged(&order)]);
        assert_eq!(
            decided_and_dead(&fixture).await,
            (vec!["ann".to_owned()], vec!["forger".to_owned()])
        );
        let other = Quantity::new(2).unwrap();
        fixture.spawn_worker("second");
        fixture.put(&[later, Order { quantity: other, ..order.clone() }]);
        let (sold, mut dead) = decided_and_dead(&fixture).await;
        dead.sort_unstable();
        assert_eq!(
            (sold, dead),
            (vec!["ann".to_owned()], vec!["ann".to_owned(), "forger".to_owned()])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn second_request_under_an_id_is_redriven_under_its_own_id() {
    let fixture = Fixture::new(Backend::Standard);
    let order = fixture.order("ann");
    let first = Order { accepted_at: Timestamp(order.accepted_at.0 - 1), ..forged(&order) };
    fixture.put(&[order.clone(), first, order.clone()]);
    fixture.spawn_worker("worker");
    let ann = vec!["ann".to_owned()];
    assert_eq!(decided_and_dead(&fixture).await, (vec!["forger".to_owned()], ann));
    let operator = Process::new(&fixture.world, "operator".to_owned());
    redrive_all(&fixture.store.ports(&operator, true)).await.unwrap();
    let both = vec!["ann".to_owned(), "forger".to_owned()];
    assert_eq!(decided_and_dead(&fixture).await, (both, vec![]));
}

#[tokio::test(start_paused = true)]
async fn dead_letter_of_another_request_survives_a_redrive() {
    let fixture = Fixture::new(Backend::Standard);
    let order = fixture.order("ann");
    fixture.spawn_worker("worker");
    fixture.put(std::slice::from_ref(&order));
    sleep(LEASE).await;
    let letter = DeadLetter {
        order_id: order.id,
        reason: "received too often".to_owned(),
        body: message::encode(&[forged(&order)]),
        at: order.accepted_at,
    };
    fixture.store.state().letters.insert(order.id, letter);
    let operator = Process::new(&fixture.world, "operator".to_owned());
    redrive_all(&fixture.store.ports(&operator, true)).await.unwrap();
    assert_eq!(
        decided_and_dead(&fixture).await,
        (vec!["ann".to_owned()], vec!["forger".to_owned()])
    );
}
