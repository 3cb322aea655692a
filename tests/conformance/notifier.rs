//! The contract of the notifier.

use std::sync::Arc;
use std::time::Duration;

use flux::core::model::{Decided, Decision, Order, OrderId, OrderIds, Reason};
use flux::core::ports::ledger::Ledger;
use flux::core::ports::notifier::{Notifier, Subscribers};
use tokio_util::sync::CancellationToken;

use super::{now, order};

/// The notifiers of two processes of one sale.
pub struct Bench {
    pub here: Arc<dyn Notifier>,
    pub there: Arc<dyn Notifier>,
    pub names: Arc<OrderIds>,
    /// The ledger, for adapters that find decisions by reading it.
    pub ledger: Option<Arc<dyn Ledger>>,
}

macro_rules! notifier_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, notifier:
            subscriber_in_another_process_is_notified,
            other_orders_do_not_notify,
            listening_ends_on_cancellation,
        );
    };
}
pub(crate) use notifier_contract;

const SOON: Duration = Duration::from_secs(5);

struct Listener {
    subscribers: Arc<Subscribers>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn listen(notifier: &Arc<dyn Notifier>) -> Listener {
    let subscribers = Arc::new(Subscribers::default());
    let stop = CancellationToken::new();
    let notifier = notifier.clone();
    let w = subscribers.clone();
    let s = stop.clone();
    let task = tokio::spawn(async move { notifier.listen(w, s).await });
    Listener { subscribers, stop, task }
}

/// Publishes repeatedly, because notifications can be lost, until the subscriber is notified or the
/// time is over. Returns whether it was notified.
async fn woken(bench: &Bench, listener: &Listener, waited: OrderId, published: OrderId) -> bool {
    let wait = listener.subscribers.subscribe(waited);
    let notification = wait.notification();
    if let Some(ledger) = &bench.ledger {
        let order = Order { id: published, ..order(&bench.names, "x", "ann") };
        let decision = Decision::Rejected(Reason::SoldOut);
        ledger.record(&[Decided { order, decision, decided_at: now() }]).await.unwrap();
    }
    let publishing = async {
        loop {
            bench.there.publish(&[bench.names.generate(now()), published]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = notification => true,
        () = publishing => false,
        () = tokio::time::sleep(SOON) => false,
    }
}

pub async fn subscriber_in_another_process_is_notified(bench: Bench) {
    let listener = listen(&bench.here);
    let order = bench.names.generate(now());
    assert!(woken(&bench, &listener, order, order).await);
}

pub async fn other_orders_do_not_notify(bench: Bench) {
    let listener = listen(&bench.here);
    let first = bench.names.generate(now());
    assert!(woken(&bench, &listener, first, first).await);
    let order = bench.names.generate(now());
    let other = bench.names.generate(now());
    assert!(!woken(&bench, &listener, order, other).await);
}

pub async fn listening_ends_on_cancellation(bench: Bench) {
    let listener = listen(&bench.here);
    tokio::time::sleep(Duration::from_millis(100)).await;
    listener.stop.cancel();
    tokio::time::timeout(SOON, listener.task).await.unwrap().unwrap();
}
