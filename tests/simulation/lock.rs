//! The simulated lock, idempotency store and notifier.

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

/// How long a request for a busy lock is remembered.
const WANTED: Duration = Duration::from_secs(1);
/// The token of a holder that is not a worker of the sale.
pub const STRANGER: Token = Token(0);

/// The client of the simulated Redis in one process.
#[derive(Debug)]
pub struct SimRedis {
    pub process: Arc<Process>,
    pub store: Arc<Store>,
}

impl fmt::Display for SimRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated Redis")
    }
}

impl Store {
    /// Injects faults of the lock's service.
    fn inject_lock_faults(&self, state: &mut State, item: &ItemId, lease: Duration) {
        let now = Instant::now();
        if self.world.happens(Fault::LocksWiped) {
            self.world.trace(format_args!("all locks are wiped"));
            state.locks.clear();
        }
        if self.world.happens(Fault::LockLost) {
            self.world.trace(format_args!("the lock of {item} is lost"));
            state.locks.remove(item);
        }
        if self.world.happens(Fault::LockStuck) {
            let until = now + lease * self.world.between((1, 4)) as u32;
            self.world.trace(format_args!("a stranger locks {item}"));
            state
                .locks
                .insert(item.clone(), HeldLock { token: STRANGER, until, wanted_until: now });
        }
    }

    fn acquire(&self, item: &ItemId, token: Token, lease: Duration) -> Acquired {
        let mut state = self.state();
        let now = Instant::now();
        self.inject_lock_faults(&mut state, item, lease);
        if let Some(held) = state.locks.get_mut(item)
            && held.token != token
            && held.until > now
            && !self.world.happens(Fault::LockGrantedTwice)
        {
            held.wanted_until = now + WANTED;
            return Acquired::Busy;
        }
        if state.locks.get(item).is_some_and(|held| held.token != token) {
            self.world.trace(format_args!("the lock of {item} is taken from another"));
        }
        let lease = if self.world.happens(Fault::LockExpired) { lease / 10 } else { lease };
        state.locks.insert(item.clone(), HeldLock { token, until: now + lease, wanted_until: now });
        Acquired::Yes
    }

    fn renew(&self, item: &ItemId, token: Token, lease: Duration) -> Renewed {
        let mut state = self.state();
        let now = Instant::now();
        self.inject_lock_faults(&mut state, item, lease);
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

    fn check_keys(&self, fingerprints: &[Fingerprint]) -> Vec<KeyCheck> {
        let mut state = self.state();
        if self.world.happens(Fault::FingerprintsWiped) {
            self.world.trace(format_args!("all fingerprints are deleted"));
            self.world.audit(|auditor| auditor.keys_unchecked(state.idempotency.keys().copied()));
            state.idempotency.clear();
        }
        let mut check = |fingerprint: &Fingerprint| {
            let known = *state.idempotency.entry(fingerprint.order).or_insert(fingerprint.hash);
            let matches = known == fingerprint.hash || self.is_disabled(Guard::Fingerprint);
            if matches { KeyCheck::Match } else { KeyCheck::Mismatch }
        };
        fingerprints.iter().map(&mut check).collect()
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
        let store = self.store.clone();
        let id = item.clone();
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
        let store = self.store.clone();
        let id = item.clone();
        let renew = move || store.renew(&id, token, lease);
        let renewed = self.process.call(format!("renews {item}"), renew).await;
        renewed.map_err(|e| LockError(format!("{e:?}")))
    }

    async fn release(&self, item: &ItemId, token: Token) -> Result<(), LockError> {
        let store = self.store.clone();
        let id = item.clone();
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
        fingerprints: &[Fingerprint],
    ) -> Result<Vec<KeyCheck>, IdempotencyError> {
        let store = self.store.clone();
        let batch = fingerprints.to_vec();
        let check = move || store.check_keys(&batch);
        let checked = self.process.call("checks keys".to_owned(), check).await;
        if checked.is_err() {
            let orders = fingerprints.iter().map(|fingerprint| fingerprint.order);
            self.store.world.audit(|auditor| auditor.keys_unchecked(orders));
        }
        checked.map_err(|e| IdempotencyError(format!("{e:?}")))
    }
}

#[async_trait]
impl Notifier for SimRedis {
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn publish(&self, orders: &[OrderId]) {
        let what = format!("notifies of {}", orders.len());
        let _lost = self.process.call(what, || ()).await;
    }

    async fn listen(&self, _: Arc<Subscribers>, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
