//! How a lane takes turns on its item's lock with the lanes of other workers.

use std::time::Duration;

use tokio::time::Instant;

use super::{BatchError, Lane};
use crate::core::ports::lock::{Acquired, Renewed};

/// A lock that others want is released after this time or this many commits, whichever is first.
const TURN_TIME: Duration = Duration::from_millis(200);
const TURN_COMMITS: u32 = 10;
/// Pause between two attempts to acquire a busy lock, before jitter.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct HeldLock {
    /// Start of this lane's turn.
    since: Instant,
    /// Start of the last acquire or renew that succeeded. The lease is counted from here.
    renewed: Instant,
    /// Commits in this turn.
    pub(super) commits: u32,
}

impl Lane {
    /// Acquires the lock unless it is held. Returns true if it was acquired now. If the lock's
    /// service fails, returns false and the lane decides without the lock.
    ///
    /// The lease is counted from before the call, because the service counts it from when it
    /// grants. A lease that expires unnoticed is harmless: the other lane's commit or this one's is
    /// refused by the version of the item.
    pub(super) async fn lock(&mut self) -> Result<bool, BatchError> {
        self.keep_lock().await;
        let Some(lock) = self.state.lock() else { return Ok(false) };
        if self.held.is_some() {
            return Ok(false);
        }
        let lease = self.state.rules.lease;
        let metrics = &self.state.ports.metrics;
        let wait_started = Instant::now();
        loop {
            let asked = Instant::now();
            let acquire = lock.acquire(&self.item, self.token, lease);
            match self.span.call("lock.acquire", acquire).await {
                Ok(Acquired::Yes) => {
                    self.state.observer.lock_acquired(&self.item);
                    metrics.lock_wait.record_time(wait_started.elapsed());
                    self.cached = None;
                    self.held = Some(HeldLock { since: asked, renewed: asked, commits: 0 });
                    return Ok(true);
                }
                Ok(Acquired::Busy) => {
                    metrics.lock_busy.add(1);
                    if !self.state.pause(self.jitter(LOCK_PAUSE)).await {
                        return Err(BatchError::Stopped);
                    }
                }
                Err(e) => {
                    self.state.suspend_lock(&e);
                    return Ok(false);
                }
            }
        }
    }

    /// Renews the lease when a third of it has passed. Releases the lock if this lane's turn is
    /// over and others want it.
    async fn keep_lock(&mut self) {
        let Some(lock) = self.state.lock() else { return };
        let Some(held) = &self.held else { return };
        let lease = self.state.rules.lease;
        let turn_over = held.since.elapsed() >= TURN_TIME || held.commits >= TURN_COMMITS;
        if !turn_over && held.renewed.elapsed() < lease / 3 {
            return;
        }
        let asked = Instant::now();
        let renew = lock.renew(&self.item, self.token, lease);
        match self.span.call("lock.renew", renew).await {
            Ok(Renewed::Yes { wanted: false }) => {
                self.held = Some(HeldLock { since: asked, renewed: asked, commits: 0 });
            }
            Ok(Renewed::Yes { wanted: true }) if turn_over => {
                self.unlock().await;
                self.state.pause(self.jitter(2 * LOCK_PAUSE)).await;
            }
            Ok(Renewed::Yes { wanted: true }) => {
                if let Some(held) = &mut self.held {
                    held.renewed = asked;
                }
            }
            Ok(Renewed::Lost) => {
                self.state.ports.metrics.lock_lost.add(1);
                self.held = None;
            }
            Err(e) => {
                self.state.suspend_lock(&e);
                self.held = None;
            }
        }
    }

    pub(super) async fn unlock(&mut self) {
        self.cached = None;
        if self.held.take().is_some()
            && let Some(lock) = self.state.lock()
            && let Err(e) = lock.release(&self.item, self.token).await
        {
            tracing::warn!(item_id = %self.item, "lock release failed; its lease will expire: {e}");
        }
    }
}
