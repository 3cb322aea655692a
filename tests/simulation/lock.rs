//! The simulated lock, idempotency and notifier.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flux::core::model::{ItemId, OrderId};
use flux::core::ports::idempotency::{Fingerprint, IdempotencyError, IdempotencyStore, KeyCheck};
use flux::core::ports::lock::{Acquired, Lock, LockError, Renewed, Token};
use flux::core::ports::notifier::{Notifier, Subscribers};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::guards::Guard;
use super::process::Process;
use super::store::{HeldLock, State, Store};
use super::world::Fault;

/// How long a wish for a lock is remembered.
const WANTED: Duration = Duration::from_secs(1);
/// The token of somebody who is no worker of ours.
pub const STRANGER: Token = Token(0);

/// What Redis holds, as one process sees it.
#[derive(Debug)]
pub struct SimRedis {
    pub process: Arc<Process>,
    pub store: Arc<Store>,
}

impl fmt::Display for SimRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated locks and marks")
    }
}

impl Store {
    /// What befalls locks by themselves.
    fn disturb(&self, state: &mut State, item: &ItemId, lease: Duration) {
        let now = Instant::now();
        if self.world.happens(Fault::LocksWiped) {
            self.world.tell(format_args!("all locks are wiped"));
            state.locks.clear();
        }
        if self.world.happens(Fault::LockLost) {
            self.world.tell(format_args!("the lock of {item} is lost"));
            state.locks.remove(item);
        }
        if self.world.happens(Fault::LockStuck) {
            let until = now + lease * self.world.between((1, 4)) as u32;
            self.world.tell(format_args!("a stranger locks {item}"));
            state
                .locks
                .insert(item.clone(), HeldLock { token: STRANGER, until, wanted_until: now });
        }
    }

    fn acquire(&self, item: &ItemId, token: Token, lease: Duration) -> Acquired {
        let (mut state, now) = (self.state(), Instant::now());
        self.disturb(&mut state, item, lease);
        if let Some(held) = state.locks.get_mut(item)
            && held.token != token
            && held.until > now
            && !self.world.happens(Fault::LockGrantedTwice)
        {
            held.wanted_until = now + WANTED;
            return Acquired::Busy;
        }
        if state.locks.get(item).is_some_and(|held| held.token != token) {
            self.world.tell(format_args!("the lock of {item} is taken from another"));
        }
        let lease = if self.world.happens(Fault::LockExpired) { lease / 10 } else { lease };
        state.locks.insert(item.clone(), HeldLock { token, until: now + lease, wanted_until: now });
        Acquired::Yes
    }

    fn renew(&self, item: &ItemId, token: Token, lease: Duration) -> Renewed {
        let (mut state, now) = (self.state(), Instant::now());
        self.disturb(&mut state, item, lease);
        match state.locks.get_mut(item) {
            Some(held) if held.token == token && held.until > now => {
                held.until = now + lease;
                Renewed::Yes { wanted: held.wanted_until > now }
            }
            _ => Renewed::Lost,
        }
    }

    fn unlock(&self, item: &ItemId, token: Token) {
        let mut state = self.state();
        if state.locks.get(item).is_some_and(|held| held.token == token) {
            state.locks.remove(item);
        }
    }

    fn check_keys(&self, idempotency: &[Fingerprint]) -> Vec<KeyCheck> {
        let mut state = self.state();
        if self.world.happens(Fault::MarksWiped) {
            self.world.tell(format_args!("all marks are wiped"));
            self.world.audit(|auditor| auditor.unmarked(state.idempotency.keys().copied()));
            state.idempotency.clear();
        }
        let mut one = |mark: &Fingerprint| {
            let known = *state.idempotency.entry(mark.order).or_insert(mark.hash);
            let fits = known == mark.hash || self.is_out(Guard::Fingerprint);
            if fits { KeyCheck::Match } else { KeyCheck::Mismatch }
        };
        idempotency.iter().map(&mut one).collect()
    }
}

#[async_trait]
impl Lock for SimRedis {
    async fn acquire(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Acquired, LockError> {
        let (store, id) = (self.store.clone(), item.clone());
        let acquire = move || store.acquire(&id, token, lease);
        let acquired = self.process.call(format!("locks {item}"), acquire).await;
        acquired.map_err(|e| LockError(format!("{e:?}")))
    }

    async fn renew(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Renewed, LockError> {
        let (store, id) = (self.store.clone(), item.clone());
        let renew = move || store.renew(&id, token, lease);
        let renewed = self.process.call(format!("renews {item}"), renew).await;
        renewed.map_err(|e| LockError(format!("{e:?}")))
    }

    async fn release(&self, item: &ItemId, token: Token) -> Result<(), LockError> {
        let (store, id) = (self.store.clone(), item.clone());
        let released =
            self.process.call(format!("unlocks {item}"), move || store.unlock(&id, token));
        released.await.map_err(|e| LockError(format!("{e:?}")))
    }

    async fn check(&self) -> Result<(), LockError> {
        Ok(())
    }
}

#[async_trait]
impl IdempotencyStore for SimRedis {
    async fn check_keys(
        &self,
        idempotency: &[Fingerprint],
    ) -> Result<Vec<KeyCheck>, IdempotencyError> {
        let (store, batch) = (self.store.clone(), idempotency.to_vec());
        let marked = self.process.call("marks".to_owned(), move || store.check_keys(&batch)).await;
        if marked.is_err() {
            let orders = idempotency.iter().map(|mark| mark.order);
            self.store.world.audit(|auditor| auditor.unmarked(orders));
        }
        marked.map_err(|e| IdempotencyError(format!("{e:?}")))
    }
}

#[async_trait]
impl Notifier for SimRedis {
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn publish(&self, orders: &[OrderId]) {
        let what = format!("tells of {}", orders.len());
        let _lost = self.process.call(what, || ()).await;
    }

    async fn listen(&self, _: Arc<Subscribers>, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
