//! The contract of the queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux::core::engine::message::{encode, repair};
use flux::core::model::{Order, OrderId, OrderIds, Timestamp};
use flux::core::ports::dead_letters::{
    DeadLetter, DlqFilter, LetterPosition, Resolution, Resolved,
};
use flux::core::ports::queue::{Arrival, Delivery, Queue, Receipt, Sent};

use super::{ids, now, order, traced};

/// A new queue with its dead-letter queue.
pub struct Bench {
    pub queue: Arc<dyn Queue>,
    pub names: Arc<OrderIds>,
    /// The visibility timeout: 2 s, so that the tests are short.
    pub visibility: Duration,
}

macro_rules! queue_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, queue:
            orders_arrive_as_sent,
            full_batch_arrives_whole_and_in_order,
            unacked_delivery_returns_after_visibility,
            extended_delivery_stays_invisible,
            released_delivery_is_redelivered_at_once,
            second_ack_is_harmless,
            late_order_ends_the_wait,
            a_dead_letter_is_listed_and_redriven_once_under_its_own_id,
            a_letter_that_is_no_order_stays_until_it_is_sent_as_one,
            dropped_letters_are_gone,
            a_pass_returns_each_letter_once_and_keeps_the_unresolved,
            backlog_counts_waiting_and_dead_letters,
            queue_position_is_right_or_unknown,
        );
    };
}
pub(crate) use queue_contract;

const SOON: Duration = Duration::from_secs(10);

/// Receives until `count` orders have arrived.
pub async fn receive(queue: &dyn Queue, count: usize) -> Vec<Delivery> {
    let begun = Instant::now();
    let mut deliveries: Vec<Delivery> = Vec::new();
    while deliveries.iter().map(|d| d.orders.len()).sum::<usize>() < count {
        assert!(begun.elapsed() < SOON, "only {deliveries:?} came");
        deliveries.extend(queue.receive(1_000, Duration::from_secs(1)).await.unwrap());
    }
    deliveries
}

async fn expect_empty(queue: &dyn Queue) {
    let found = queue.receive(1_000, Duration::ZERO).await.unwrap();
    assert!(found.is_empty(), "{found:?}");
}

pub async fn send(queue: &dyn Queue, orders: &[Order]) {
    for answer in queue.send(orders).await {
        assert_eq!(answer.unwrap(), Sent::Queued);
    }
}

fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|d| d.receipt.clone()).collect()
}

async fn ack(queue: &dyn Queue, deliveries: &[Delivery]) {
    for answer in queue.ack(&receipts(deliveries)).await {
        answer.unwrap();
    }
}

/// The received orders, by arrival.
fn by_arrival(deliveries: Vec<Delivery>) -> Vec<Order> {
    let mut orders: Vec<(Arrival, Order)> =
        deliveries.into_iter().flat_map(|delivery| delivery.orders).collect();
    orders.sort_by_key(|(arrival, _)| *arrival);
    orders.into_iter().map(|(_, order)| order).collect()
}

fn sorted(mut orders: Vec<Order>) -> Vec<Order> {
    orders.sort_by_key(|order| order.id);
    orders
}

pub async fn orders_arrive_as_sent(bench: Bench) {
    let queue = &*bench.queue;
    queue.check().await.unwrap();
    let sent = vec![
        traced(order(&bench.names, "a", "Zoë \"the\" \\ first"), None),
        traced(order(&bench.names, "a", "odd \u{ffff}\u{fffe} one"), Some("a=\"1\",b=2")),
        order(&bench.names, "b", "bob"),
    ];
    send(queue, &sent).await;
    let came = receive(queue, 3).await;
    assert!(came.iter().all(|delivery| delivery.receive_count == 1));
    ack(queue, &came).await;
    assert_eq!(sorted(by_arrival(came)), sorted(sent));
    tokio::time::sleep(bench.visibility).await;
    expect_empty(queue).await;
}

pub async fn full_batch_arrives_whole_and_in_order(bench: Bench) {
    let queue = &*bench.queue;
    let limit = queue.limits().send.min(2_000);
    let item =
        |n: usize| if n.is_multiple_of(3) { "hot".to_owned() } else { format!("item-{}", n % 40) };
    let sent: Vec<Order> = (0..limit)
        .map(|n| {
            let order = order(&bench.names, &item(n), &format!("user-{n}"));
            Order { accepted_at: Timestamp(order.accepted_at.0 + n as u64), ..order }
        })
        .collect();
    send(queue, &sent).await;
    let mut came = Vec::new();
    while came.iter().map(|d: &Delivery| d.orders.len()).sum::<usize>() < limit {
        let more = receive(queue, 1).await;
        ack(queue, &more).await;
        came.extend(more);
    }
    let by_item = |orders: &[Order]| {
        let mut items: HashMap<String, Vec<OrderId>> = HashMap::new();
        for order in orders {
            items.entry(order.item.to_string()).or_default().push(order.id);
        }
        items
    };
    assert_eq!(by_item(&by_arrival(came)), by_item(&sent));
}

pub async fn unacked_delivery_returns_after_visibility(bench: Bench) {
    let queue = &*bench.queue;
    let sent = vec![order(&bench.names, "a", "ann")];
    send(queue, &sent).await;
    assert_eq!(by_arrival(receive(queue, 1).await), sent);
    expect_empty(queue).await;
    let again = receive(queue, 1).await;
    assert_eq!(again[0].receive_count, 2);
    assert_eq!(by_arrival(again), sent);
}

pub async fn extended_delivery_stays_invisible(bench: Bench) {
    let queue = &*bench.queue;
    send(queue, &[order(&bench.names, "a", "ann")]).await;
    let held = receive(queue, 1).await;
    for _ in 0..4 {
        tokio::time::sleep(bench.visibility / 2).await;
        queue.extend(&receipts(&held)).await.unwrap();
        expect_empty(queue).await;
    }
    ack(queue, &held).await;
    tokio::time::sleep(bench.visibility * 3 / 2).await;
    expect_empty(queue).await;
}

pub async fn released_delivery_is_redelivered_at_once(bench: Bench) {
    let queue = &*bench.queue;
    send(queue, &[order(&bench.names, "a", "ann")]).await;
    let held = receive(queue, 1).await;
    queue.release(&receipts(&held)).await.unwrap();
    let begun = Instant::now();
    receive(queue, 1).await;
    assert!(begun.elapsed() < bench.visibility / 2, "{:?}", begun.elapsed());
}

pub async fn second_ack_is_harmless(bench: Bench) {
    let queue = &*bench.queue;
    send(queue, &[order(&bench.names, "a", "ann")]).await;
    let held = receive(queue, 1).await;
    ack(queue, &held).await;
    ack(queue, &held).await;
    tokio::time::sleep(bench.visibility).await;
    expect_empty(queue).await;
}

pub async fn late_order_ends_the_wait(bench: Bench) {
    let queue = bench.queue.clone();
    let late = order(&bench.names, "a", "ann");
    let begun = Instant::now();
    let waiting = tokio::spawn(async move { queue.receive(10, Duration::from_secs(5)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    send(&*bench.queue, std::slice::from_ref(&late)).await;
    assert_eq!(by_arrival(waiting.await.unwrap().unwrap()), [late]);
    assert!(begun.elapsed() > Duration::from_millis(500) && begun.elapsed() < SOON / 2);
}

/// Moves the order from the queue into the dead-letter queue, as a worker does.
async fn dead_letter(bench: &Bench, order: &Order, reason: &str) {
    let queue = &*bench.queue;
    send(queue, std::slice::from_ref(order)).await;
    let held = receive(queue, 1).await;
    let letter = DeadLetter {
        order_id: order.id,
        reason: reason.to_owned(),
        body: encode(std::slice::from_ref(order)),
        at: order.accepted_at,
    };
    queue.dead_letter(&[letter]).await.unwrap();
    ack(queue, &held).await;
}

pub async fn a_dead_letter_is_listed_and_redriven_once_under_its_own_id(bench: Bench) {
    let queue = &*bench.queue;
    let (first, second) = (
        traced(order(&bench.names, "a", "ann"), Some("a=1")),
        order(&bench.names, "a", "bob \u{ffff}"),
    );
    dead_letter(&bench, &first, "it could not be \u{1} decided").await;
    dead_letter(&bench, &second, "nor could this").await;
    let letters = queue.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].order_id, letters[0].at), (first.id, first.accepted_at));
    assert!(letters[0].reason.starts_with("it could not be"));
    assert_eq!(queue.dead_letters(1).await.unwrap().len(), 1);

    let later = Timestamp(first.accepted_at.0 + 5_000);
    let again = Order { accepted_at: later, ..first };
    assert_eq!(redrive(queue, &again).await, [(again.id, "sent")]);
    assert_eq!(redrive(queue, &again).await, []);

    let came = receive(queue, 1).await;
    ack(queue, &came).await;
    assert_eq!(by_arrival(came), [again]);
    let left = queue.dead_letters(10).await.unwrap();
    assert_eq!(left.iter().map(|l| l.order_id).collect::<Vec<_>>(), [second.id]);
}

/// What one pass read, and the results of what it resolved.
struct Pass {
    read: Vec<OrderId>,
    results: Vec<(OrderId, &'static str)>,
    more: bool,
}

/// Reads at most `pages` pages of about four letters each, and resolves those for which `resolution`
/// returns something.
async fn pass(
    queue: &dyn Queue,
    (filter, after): (&DlqFilter, Option<LetterPosition>),
    pages: usize,
    resolution: &(dyn Fn(&DeadLetter) -> Option<Resolution> + Sync),
) -> Pass {
    let mut read = Vec::new();
    let mut results = Vec::new();
    let mut cursor = queue.dead_letter_cursor(filter, after);
    for _ in 0..pages {
        let Some(letters) = cursor.peek(4).await.unwrap() else { break };
        read.extend(letters.iter().map(|letter| letter.order_id));
        let work = letters.iter().enumerate();
        let work = work.filter_map(|(handle, letter)| Some((handle, resolution(letter)?)));
        let work: Vec<(usize, Resolution)> = work.collect();
        let ids: Vec<OrderId> = work.iter().map(|(handle, _)| letters[*handle].order_id).collect();
        let resolved = cursor.resolve(work).await;
        assert_eq!(resolved.len(), ids.len());
        results.extend(ids.into_iter().zip(resolved.into_iter().map(|result| match result {
            Ok(Resolved::Sent) => "sent",
            Ok(Resolved::Dropped(_)) => "dropped",
            Ok(Resolved::Kept) => "kept",
            Ok(Resolved::Gone) => "gone",
            Err(_) => "failed",
        })));
    }
    Pass { read, results, more: cursor.close().await }
}

async fn full_pass(
    queue: &dyn Queue,
    filter: (&DlqFilter, Option<LetterPosition>),
    resolution: &(dyn Fn(&DeadLetter) -> Option<Resolution> + Sync),
) -> Pass {
    let pass = pass(queue, filter, 1_000, resolution).await;
    assert!(!pass.more);
    pass
}

/// Sends the letter of an order again, as this.
pub async fn redrive(queue: &dyn Queue, order: &Order) -> Vec<(OrderId, &'static str)> {
    let resend = |letter: &DeadLetter| {
        (letter.order_id == order.id).then(|| Resolution::Resend(order.clone()))
    };
    full_pass(queue, (&DlqFilter::These(vec![order.id]), None), &resend).await.results
}

async fn drop_letters(queue: &dyn Queue, orders: &[OrderId]) -> usize {
    let drop = |letter: &DeadLetter| orders.contains(&letter.order_id).then_some(Resolution::Drop);
    let filter = DlqFilter::These(orders.to_vec());
    let results = full_pass(queue, (&filter, None), &drop).await.results;
    assert!(results.iter().all(|(_, result)| *result == "dropped"), "{results:?}");
    results.len()
}

pub async fn a_pass_returns_each_letter_once_and_keeps_the_unresolved(bench: Bench) {
    let queue = &*bench.queue;
    let letters: Vec<DeadLetter> = (0..25)
        .map(|n| DeadLetter {
            order_id: bench.names.from_message("somebody's message", n),
            reason: "not an order".to_owned(),
            body: n.to_string(),
            at: Timestamp(1_000 + 7 * (n as u64 % 5)),
        })
        .collect();
    queue.dead_letter(&letters).await.unwrap();
    let all: HashSet<OrderId> = letters.iter().map(|letter| letter.order_id).collect();
    let keep = |_: &DeadLetter| None;
    let mut read = full_pass(queue, (&DlqFilter::ALL, None), &keep).await.read;
    assert_eq!(read.len(), 25);
    let mut sorted = letters;
    sorted.sort_by_key(DeadLetter::position);
    if queue.limits().letters_in_order {
        assert_eq!(read, sorted.iter().map(|letter| letter.order_id).collect::<Vec<_>>());
        let after = Some(sorted[9].position());
        read = full_pass(queue, (&DlqFilter::ALL, after), &keep).await.read;
        assert_eq!(read, sorted[10..].iter().map(|letter| letter.order_id).collect::<Vec<_>>());
        read.extend(sorted[..10].iter().map(|letter| letter.order_id));
    }
    assert_eq!(HashSet::from_iter(read), all);

    let begun = pass(queue, (&DlqFilter::ALL, None), 2, &keep).await;
    assert!(begun.more && begun.read.len() < 25 && begun.results.is_empty());
    let left = queue.dead_letters(100).await.unwrap();
    assert_eq!(left, sorted);
}

pub async fn a_letter_that_is_no_order_stays_until_it_is_sent_as_one(bench: Bench) {
    let queue = &*bench.queue;
    let id = bench.names.from_message("somebody's message", 0);
    let body = r#"{"user_id":"ann"}"#.to_owned();
    let letter = DeadLetter { order_id: id, reason: "not an order".into(), body, at: Timestamp(7) };
    queue.dead_letter(&[letter]).await.unwrap();

    let still = repair(r#"{"user_id":"ann"}"#, id, Timestamp(8), &bench.names);
    assert!(still.unwrap_err().contains("item_id"));
    assert_eq!(queue.dead_letters(10).await.unwrap().len(), 1);

    let mended = r#"{"user_id":"ann","item_id":"a"}"#;
    let at = now();
    let mended = repair(mended, id, at, &bench.names).unwrap();
    assert_eq!(redrive(queue, &mended).await, [(id, "sent")]);
    let came = by_arrival(receive(queue, 1).await);
    assert_eq!((came[0].id, came[0].accepted_at, came[0].item.as_str()), (id, at, "a"));
    assert!(queue.dead_letters(10).await.unwrap().is_empty());
}

pub async fn dropped_letters_are_gone(bench: Bench) {
    let orders: Vec<Order> =
        (0..3).map(|n| order(&bench.names, "a", &format!("user-{n}"))).collect();
    for order in &orders {
        dead_letter(&bench, order, "no").await;
    }
    let queue = &*bench.queue;
    let drop = &ids(&orders)[..2];
    assert_eq!(drop_letters(queue, drop).await, 2);
    assert_eq!(drop_letters(queue, drop).await, 0);
    let left: HashSet<_> =
        queue.dead_letters(10).await.unwrap().iter().map(|l| l.order_id).collect();
    assert_eq!(left, HashSet::from([orders[2].id]));
}

pub async fn backlog_counts_waiting_and_dead_letters(bench: Bench) {
    let queue = &*bench.queue;
    dead_letter(&bench, &order(&bench.names, "a", "ann"), "no").await;
    assert_eq!(queue.backlog().await.unwrap().waiting, 0);
    send(queue, &[order(&bench.names, "a", "bob")]).await;
    let backlog = queue.backlog().await.unwrap();
    assert_eq!((backlog.waiting, backlog.dead_letters), (1, 1));
    let _held = receive(queue, 1).await;
    assert_eq!(queue.backlog().await.unwrap().waiting, 1);
}

/// The embedded queue knows it: see `http::follow`.
pub async fn queue_position_is_right_or_unknown(bench: Bench) {
    let queue = &*bench.queue;
    let gone = order(&bench.names, "a", "ann");
    dead_letter(&bench, &gone, "no").await;
    let first = order(&bench.names, "a", "bob");
    send(queue, std::slice::from_ref(&first)).await;
    let other = order(&bench.names, "b", "cid");
    send(queue, std::slice::from_ref(&other)).await;
    let last = order(&bench.names, "a", "dan");
    send(queue, std::slice::from_ref(&last)).await;
    let mut places = Vec::new();
    for order in [gone.id, first.id, other.id, last.id, bench.names.generate(Timestamp(1))] {
        places.push(queue.position(order).await.unwrap().map(|line| (line.ahead, line.passed)));
    }
    if places.iter().any(Option::is_some) {
        assert_eq!(places, [None, Some((0, 1)), Some((0, 0)), Some((1, 1)), None]);
    }
}
