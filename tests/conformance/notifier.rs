//! The contract of notifier.

use std::sync::Arc;
use std::time::Duration;

use flux::core::model::{Decided, Decision, Order, OrderId, OrderIds, Reason};
use flux::core::ports::ledger::Ledger;
use flux::core::ports::notifier::{Notifier, Subscribers};
use tokio_util::sync::CancellationToken;

use super::{now, order};

/// What two processes of one sale have.
pub struct Bench {
    pub here: Arc<dyn Notifier>,
    pub there: Arc<dyn Notifier>,
    pub names: Arc<OrderIds>,
    /// Where notifier are found by looking at the ledger.
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
    let (subscribers, stop) = (Arc::new(Subscribers::default()), CancellationToken::new());
    let (notifier, w, s) = (notifier.clone(), subscribers.clone(), stop.clone());
    let task = tokio::spawn(async move { notifier.listen(w, s).await });
    Listener { subscribers, stop, task }
}

/// Publishes again and again, as notifications may be lost, until the waiter is woken or time is over.
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
    let (order, other) = (bench.names.generate(now()), bench.names.generate(now()));
    assert!(!woken(&bench, &listener, order, other).await);
}

pub async fn listening_ends_on_cancellation(bench: Bench) {
    let listener = listen(&bench.here);
    tokio::time::sleep(Duration::from_millis(100)).await;
    listener.stop.cancel();
    tokio::time::timeout(SOON, listener.task).await.unwrap().unwrap();
}
