//! The contract of outcomes.

use std::sync::Arc;
use std::time::Duration;

use flux::core::model::{Decided, Decision, Order, OrderId, OrderNames, Reason};
use flux::core::ports::ledger::Ledger;
use flux::core::ports::notifier::{Outcomes, Waiters};
use tokio_util::sync::CancellationToken;

use super::{now, order};

/// What two processes of one sale have.
pub struct Bench {
    pub here: Arc<dyn Outcomes>,
    pub there: Arc<dyn Outcomes>,
    pub names: Arc<OrderNames>,
    /// Where outcomes are found by looking at the ledger.
    pub ledger: Option<Arc<dyn Ledger>>,
}

macro_rules! outcomes_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, outcomes:
            a_waiter_elsewhere_is_woken,
            a_waiter_for_another_order_sleeps_on,
            listening_ends_when_told,
        );
    };
}
pub(crate) use outcomes_contract;

const SOON: Duration = Duration::from_secs(5);

struct Listener {
    waiters: Arc<Waiters>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn listen(outcomes: &Arc<dyn Outcomes>) -> Listener {
    let (waiters, stop) = (Arc::new(Waiters::default()), CancellationToken::new());
    let (outcomes, w, s) = (outcomes.clone(), waiters.clone(), stop.clone());
    let task = tokio::spawn(async move { outcomes.listen(w, s).await });
    Listener { waiters, stop, task }
}

/// Publishes again and again, as hints may be lost, until the waiter is woken or time is over.
async fn woken(bench: &Bench, listener: &Listener, waited: OrderId, published: OrderId) -> bool {
    let wait = listener.waiters.wait_for(waited);
    let hint = wait.hint();
    if let Some(ledger) = &bench.ledger {
        let order = Order { id: published, ..order(&bench.names, "x", "ann") };
        let decision = Decision::Rejected(Reason::SoldOut);
        ledger.record(&[Decided { order, decision, decided_at: now() }]).await.unwrap();
    }
    let publishing = async {
        loop {
            bench.there.publish(&[bench.names.fresh(now()), published]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = hint => true,
        () = publishing => false,
        () = tokio::time::sleep(SOON) => false,
    }
}

pub async fn a_waiter_elsewhere_is_woken(bench: Bench) {
    let listener = listen(&bench.here);
    let order = bench.names.fresh(now());
    assert!(woken(&bench, &listener, order, order).await);
}

pub async fn a_waiter_for_another_order_sleeps_on(bench: Bench) {
    let listener = listen(&bench.here);
    let first = bench.names.fresh(now());
    assert!(woken(&bench, &listener, first, first).await);
    let (order, other) = (bench.names.fresh(now()), bench.names.fresh(now()));
    assert!(!woken(&bench, &listener, order, other).await);
}

pub async fn listening_ends_when_told(bench: Bench) {
    let listener = listen(&bench.here);
    tokio::time::sleep(Duration::from_millis(100)).await;
    listener.stop.cancel();
    tokio::time::timeout(SOON, listener.task).await.unwrap().unwrap();
}
