//! The contract of the webhook outbox.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use flux::core::model::{
    Decided, Decision, Item, Order, OrderId, OrderIds, Reason, Timestamp, decide,
};
use flux::core::ports::dead_letters::{DlqAction, DlqFilter};
use flux::core::ports::ledger::{Commit, Expect, Ledger};
use flux::core::ports::webhook_outbox::{AttemptResult, DueEvent, WebhookOutbox};

use super::{item, now, order};

const LEASE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(1);

/// A new outbox that has events for all kinds of decisions.
pub struct Bench {
    pub webhooks: Arc<dyn WebhookOutbox>,
    pub names: Arc<OrderIds>,
    /// The ledger, for adapters where it writes the events.
    pub ledger: Option<Arc<dyn Ledger>>,
}

macro_rules! webhook_outbox_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, webhook_outbox:
            unfinished_event_returns_after_its_lease,
            sent_event_is_removed,
            retried_event_returns_when_due,
            not_attempted_event_returns_at_once,
            a_dead_letter_is_listed_and_made_due_again_once,
            dropped_webhook_letters_stay_gone,
        );
    };
}
pub(crate) use webhook_outbox_contract;

impl Bench {
    /// Decides `count` orders for two units: the first is sold, the others are rejected.
    async fn decided(&self, count: usize) -> Vec<Decided> {
        let orders: Vec<Order> =
            (0..count).map(|n| order(&self.names, "x", &format!("user {n} \u{ffff}"))).collect();
        let read = Item::new(item("x"), 2);
        let batch = decide(Some(&read), orders, now());
        let decided = batch.decided.clone();
        match &self.ledger {
            None => self.webhooks.put(&decided).await.unwrap(),
            Some(ledger) => {
                let item = batch.item.unwrap();
                let commit = Commit { item, expect: Expect::Version(0), decided: batch.decided };
                ledger.commit(&commit).await.unwrap();
            }
        }
        decided
    }

    /// Takes events until there are `count`.
    async fn take(&self, count: usize) -> Vec<DueEvent> {
        let mut all = Vec::new();
        for _ in 0..40 {
            all.extend(self.webhooks.take(count, SOON, LEASE).await.unwrap());
            if all.len() >= count {
                return all;
            }
        }
        panic!("{} of {count} came", all.len());
    }

    async fn resolve(&self, filter: &DlqFilter, action: DlqAction) -> usize {
        self.webhooks.resolve_letters(filter, action).await.unwrap()
    }

    async fn nothing_comes(&self) {
        let came = self.webhooks.take(100, SOON, LEASE).await.unwrap();
        assert!(came.is_empty(), "{came:?}");
    }

    async fn record_results(&self, due: Vec<DueEvent>, outcome: AttemptResult) {
        let settled: Vec<_> = due.into_iter().map(|due| (due, outcome.clone())).collect();
        self.webhooks.record_results(&settled).await.unwrap();
    }
}

fn ids<'a>(decided: impl IntoIterator<Item = &'a Decided>) -> HashSet<OrderId> {
    decided.into_iter().map(|one| one.order.id).collect()
}

fn same(came: &[DueEvent], decided: &[Decided]) {
    assert_eq!(came.len(), decided.len());
    for due in came {
        assert!(decided.contains(&due.decided), "{due:?}");
    }
}

pub async fn unfinished_event_returns_after_its_lease(bench: Bench) {
    bench.webhooks.begin().await.unwrap();
    let decided = bench.decided(25).await;
    assert_eq!(decided[0].decision, Decision::Sold);
    assert_eq!(decided[24].decision, Decision::Rejected(Reason::SoldOut));
    let came = bench.take(25).await;
    same(&came, &decided);
    assert!(came.iter().all(|due| due.attempts == 0));
    bench.nothing_comes().await;
    same(&bench.take(25).await, &decided);
    bench.webhooks.begin().await.unwrap();
}

pub async fn sent_event_is_removed(bench: Bench) {
    let decided = bench.decided(12).await;
    let mut came = bench.take(12).await;
    let late = came.split_off(11);
    bench.record_results(came, AttemptResult::Sent).await;
    tokio::time::sleep(LEASE).await;
    let left = bench.take(1).await;
    assert!(left.iter().any(|due| due.decided == late[0].decided), "{left:?}");
    // An event can arrive again with an unfinished event of the same message.
    assert!(ids(left.iter().map(|due| &due.decided)).is_subset(&ids(&decided)));
    bench.record_results(left, AttemptResult::Sent).await;
    tokio::time::sleep(LEASE).await;
    bench.nothing_comes().await;
    assert_eq!(bench.webhooks.waiting().await.unwrap().waiting, 0);
}

pub async fn retried_event_returns_when_due(bench: Bench) {
    let decided = bench.decided(3).await;
    let mut came = bench.take(3).await;
    for attempts in 1..3 {
        let until = now().plus(Duration::from_secs(3));
        bench.record_results(came, AttemptResult::RetryAt { until }).await;
        bench.nothing_comes().await;
        came = bench.take(3).await;
        assert!(now() >= Timestamp(until.0 - 1_000));
        same(&came, &decided);
        assert!(came.iter().all(|due| due.attempts == attempts), "{came:?}");
    }
    assert!(bench.webhooks.waiting().await.unwrap().waiting > 0);
}

pub async fn not_attempted_event_returns_at_once(bench: Bench) {
    let decided = bench.decided(3).await;
    let came = bench.take(3).await;
    bench.record_results(came, AttemptResult::NotAttempted).await;
    let mut came = bench.take(3).await;
    same(&came, &decided);
    // Events with and without an attempt, in the same message or in different ones.
    let tried = came.split_off(2);
    let untried = came.into_iter().map(|due| (due, AttemptResult::NotAttempted));
    let settled: Vec<_> =
        untried.chain(tried.into_iter().map(|d| (d, AttemptResult::Sent))).collect();
    bench.webhooks.record_results(&settled).await.unwrap();
    let came = bench.take(2).await;
    assert_eq!(came.len(), 2);
    assert!(came.iter().all(|due| due.attempts == 0));
}

async fn buried(bench: &Bench, count: usize) -> Vec<Decided> {
    let decided = bench.decided(count).await;
    let came = bench.take(count).await;
    bench.record_results(came, AttemptResult::Dead { reason: "the shop said no".to_owned() }).await;
    decided
}

pub async fn a_dead_letter_is_listed_and_made_due_again_once(bench: Bench) {
    let decided = buried(&bench, 3).await;
    bench.nothing_comes().await;
    let letters = bench.webhooks.dead_letters(10).await.unwrap();
    assert_eq!(letters.iter().map(|l| l.order_id).collect::<HashSet<_>>(), ids(&decided));
    assert!(letters.iter().all(|l| l.reason == "the shop said no" && l.attempts == 1));
    assert_eq!(letters.iter().filter(|l| l.status == "sold").count(), 1);
    assert_eq!(bench.webhooks.dead_letters(1).await.unwrap().len(), 1);
    assert_eq!(bench.webhooks.waiting().await.unwrap().dead_letters, 3);

    let one = DlqFilter::These(vec![decided[1].order.id]);
    assert_eq!(bench.resolve(&one, DlqAction::Redrive).await, 1);
    assert_eq!(bench.resolve(&one, DlqAction::Redrive).await, 0);
    let came = bench.take(1).await;
    same(&came, &decided[1..2]);
    assert_eq!(came[0].attempts, 0);
    assert_eq!(bench.webhooks.dead_letters(10).await.unwrap().len(), 2);
    assert_eq!(bench.resolve(&DlqFilter::ALL, DlqAction::Redrive).await, 2);
    bench.take(2).await;
}

pub async fn dropped_webhook_letters_stay_gone(bench: Bench) {
    let decided = buried(&bench, 3).await;
    let one = DlqFilter::These(vec![decided[0].order.id]);
    assert_eq!(bench.resolve(&one, DlqAction::Drop).await, 1);
    assert_eq!(bench.resolve(&one, DlqAction::Drop).await, 0);
    assert_eq!(bench.resolve(&DlqFilter::ALL, DlqAction::Drop).await, 2);
    assert!(bench.webhooks.dead_letters(10).await.unwrap().is_empty());
    tokio::time::sleep(LEASE).await;
    bench.nothing_comes().await;
}
