//! The contract of the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flux::core::model::ItemId;
use flux::core::ports::lock::{Acquired, Lock, Renewed, Token};

use super::{fresh_name, item};

pub struct Bench {
    pub lock: Arc<dyn Lock>,
}

macro_rules! lock_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, lock:
            lock_has_one_holder,
            holder_can_acquire_again,
            unrenewed_lease_expires,
            a_renewed_lease_lasts,
            lost_lease_cannot_be_renewed,
            release_needs_the_token,
            released_lock_is_free_at_once,
            renewal_reports_that_others_wait,
            items_have_separate_locks,
        );
    };
}
pub(crate) use lock_contract;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

fn token() -> Token {
    Token(uuid::Uuid::new_v4().as_u128())
}

fn any_item() -> ItemId {
    item(&fresh_name("item"))
}

async fn acquire(bench: &Bench, item: &ItemId, token: Token, lease: Duration) -> Acquired {
    bench.lock.acquire(item, token, lease).await.unwrap()
}

pub async fn lock_has_one_holder(bench: Bench) {
    bench.lock.check().await.unwrap();
    let x = any_item();
    let holders = Arc::new(AtomicUsize::new(0));
    let racing = (0..8).map(|_| {
        let lock = bench.lock.clone();
        let x = x.clone();
        let holders = holders.clone();
        tokio::spawn(async move {
            let mut held = 0;
            for _ in 0..50 {
                let mine = token();
                if lock.acquire(&x, mine, LONG).await.unwrap() == Acquired::Yes {
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    holders.fetch_sub(1, Ordering::SeqCst);
                    lock.release(&x, mine).await.unwrap();
                    held += 1;
                }
            }
            held
        })
    });
    let mut held = 0;
    for racer in racing.collect::<Vec<_>>() {
        held += racer.await.unwrap();
    }
    assert!(held > 0);
}

pub async fn holder_can_acquire_again(bench: Bench) {
    let x = any_item();
    let mine = token();
    assert_eq!(acquire(&bench, &x, mine, SHORT).await, Acquired::Yes);
    assert_eq!(acquire(&bench, &x, mine, LONG).await, Acquired::Yes);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(acquire(&bench, &x, token(), LONG).await, Acquired::Busy);
}

pub async fn unrenewed_lease_expires(bench: Bench) {
    let x = any_item();
    assert_eq!(acquire(&bench, &x, token(), SHORT).await, Acquired::Yes);
    assert_eq!(acquire(&bench, &x, token(), SHORT).await, Acquired::Busy);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(acquire(&bench, &x, token(), SHORT).await, Acquired::Yes);
}

pub async fn a_renewed_lease_lasts(bench: Bench) {
    let x = any_item();
    let mine = token();
    acquire(&bench, &x, mine, SHORT).await;
    let renewed = bench.lock.renew(&x, mine, LONG).await.unwrap();
    assert_eq!(renewed, Renewed::Yes { wanted: false });
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(acquire(&bench, &x, token(), SHORT).await, Acquired::Busy);
}

pub async fn lost_lease_cannot_be_renewed(bench: Bench) {
    let x = any_item();
    let mine = token();
    assert_eq!(bench.lock.renew(&x, mine, LONG).await.unwrap(), Renewed::Lost);
    acquire(&bench, &x, mine, SHORT).await;
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(bench.lock.renew(&x, mine, LONG).await.unwrap(), Renewed::Lost);
    let other = token();
    assert_eq!(acquire(&bench, &x, other, LONG).await, Acquired::Yes);
    assert_eq!(bench.lock.renew(&x, mine, LONG).await.unwrap(), Renewed::Lost);
    assert!(matches!(bench.lock.renew(&x, other, LONG).await.unwrap(), Renewed::Yes { .. }));
}

pub async fn release_needs_the_token(bench: Bench) {
    let x = any_item();
    acquire(&bench, &x, token(), LONG).await;
    bench.lock.release(&x, token()).await.unwrap();
    assert_eq!(acquire(&bench, &x, token(), LONG).await, Acquired::Busy);
}

pub async fn released_lock_is_free_at_once(bench: Bench) {
    let x = any_item();
    let mine = token();
    acquire(&bench, &x, mine, LONG).await;
    bench.lock.release(&x, mine).await.unwrap();
    bench.lock.release(&x, mine).await.unwrap();
    assert_eq!(acquire(&bench, &x, token(), LONG).await, Acquired::Yes);
}

pub async fn renewal_reports_that_others_wait(bench: Bench) {
    let x = any_item();
    let mine = token();
    let other = token();
    acquire(&bench, &x, mine, LONG).await;
    assert_eq!(acquire(&bench, &x, other, LONG).await, Acquired::Busy);
    let renewed = bench.lock.renew(&x, mine, LONG).await.unwrap();
    assert_eq!(renewed, Renewed::Yes { wanted: true });
    bench.lock.release(&x, mine).await.unwrap();
    assert_eq!(acquire(&bench, &x, other, LONG).await, Acquired::Yes);
    let renewed = bench.lock.renew(&x, other, LONG).await.unwrap();
    assert_eq!(renewed, Renewed::Yes { wanted: false });
}

pub async fn items_have_separate_locks(bench: Bench) {
    assert_eq!(acquire(&bench, &any_item(), token(), LONG).await, Acquired::Yes);
    assert_eq!(acquire(&bench, &any_item(), token(), LONG).await, Acquired::Yes);
}
