//! A simulated process of flux: it can be paused and killed, its clock can jump, and it calls the
//! services.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use flux::core::model::{Clock, IdSource, Timestamp};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::world::{Fault, World};

/// The time of day at which every run begins.
const BEGIN: u64 = 1_700_000_000_000;
/// How long a caller waits for a missing reply, in milliseconds.
const NO_REPLY: (u64, u64) = (50, 3_000);
/// Ranges of a pause, in milliseconds; leases and visibility timeouts are within them.
const PAUSES: [(u64, u64); 3] = [(1, 100), (100, 2_000), (2_000, 40_000)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Dead,
}

/// A process of flux, or another client of the services. When it is killed, all its tasks stop at
/// their next await, and their calls have no further effect.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub world: Arc<World>,
    state: Mutex<State>,
    changed: Notify,
    /// Error of its clock, in milliseconds.
    skew: AtomicI64,
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    Refused,
    Unknown,
}

impl Process {
    pub fn new(world: &Arc<World>, name: String) -> Arc<Process> {
        Arc::new(Process {
            name,
            world: world.clone(),
            state: Mutex::new(State::Running),
            changed: Notify::new(),
            skew: AtomicI64::new(0),
        })
    }

    /// Waits while the process is paused; for ever if it is dead.
    pub async fn wait_while_paused(&self) {
        self.wait_for(State::Running).await;
    }

    pub async fn died(&self) {
        self.wait_for(State::Dead).await;
    }

    async fn wait_for(&self, wanted: State) {
        loop {
            // Not a watch channel, which wakes its receivers in a random order.
            let changed = self.changed.notified();
            if *self.state.lock().unwrap() == wanted {
                return;
            }
            changed.await;
        }
    }

    fn set_state(&self, new: State) {
        let mut state = self.state.lock().unwrap();
        if *state != State::Dead {
            *state = new;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Runs a future until it ends or the process is killed.
    pub async fn while_alive(&self, work: impl Future) {
        tokio::select! {
            biased;
            () = self.died() => {}
            _ = work => {}
        }
    }

    pub fn kill(&self) {
        self.world.trace(format_args!("{} is killed", self.name));
        self.set_state(State::Dead);
    }

    pub async fn pause(&self) {
        let time = self.world.span(*self.world.pick(&PAUSES));
        self.world.trace(format_args!("{} is paused for {time:?}", self.name));
        self.set_state(State::Paused);
        sleep(time).await;
        self.set_state(State::Running);
    }

    pub fn jump(&self, milliseconds: i64) {
        self.world.trace(format_args!("{}'s clock jumps by {milliseconds} ms", self.name));
        self.skew.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// A point between two steps of a process, where it may be killed or paused.
    async fn step(&self) {
        if self.world.happens_in(Fault::Kill, 20_000) {
            self.kill();
        }
        if self.world.happens_in(Fault::Pause, 20_000) {
            self.pause().await;
        }
        self.wait_while_paused().await;
    }

    /// A call to a service. The service runs `act` now, later or never, by the faults of the run.
    pub async fn call<T: Send + 'static>(
        &self,
        what: String,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let world = &self.world;
        self.step().await;
        let calls_in_progress = CallInProgress::new(world);
        world.travel().await;
        if world.happens(Fault::Throttled) {
            world.trace(format_args!("{} {what}: throttled", self.name));
            self.wait_while_paused().await;
            return Err(Failed::Refused);
        }
        if world.happens(Fault::RequestLost) {
            world.trace(format_args!("{} {what}: request lost", self.name));
            return self.no_reply().await;
        }
        if world.happens(Fault::LateWrite) {
            let late = world.span((1, 20_000));
            let world = world.clone();
            let call = format!("{} {what}", self.name);
            world.trace(format_args!("{call}: will arrive in {late:?}"));
            tokio::spawn(async move {
                sleep(late).await;
                world.trace(format_args!("{call}: arrives late"));
                act();
                drop(calls_in_progress);
            });
            return self.no_reply().await;
        }
        world.trace(format_args!("{} {what}", self.name));
        let done = act();
        drop(calls_in_progress);
        if world.happens(Fault::ReplyLost) {
            world.trace(format_args!("{} {what}: reply lost", self.name));
            return self.no_reply().await;
        }
        world.travel().await;
        self.step().await;
        Ok(done)
    }

    /// A call within the machine: its reply is not lost.
    pub async fn local_call<T: Send>(
        &self,
        what: String,
        act: impl FnOnce() -> T + Send,
    ) -> Result<T, Failed> {
        self.step().await;
        self.world.travel().await;
        if self.world.happens(Fault::Throttled) {
            self.world.trace(format_args!("{} {what}: busy", self.name));
            self.wait_while_paused().await;
            return Err(Failed::Refused);
        }
        self.world.trace(format_args!("{} {what}", self.name));
        let done = act();
        self.world.travel().await;
        self.step().await;
        Ok(done)
    }

    async fn no_reply<T>(&self) -> Result<T, Failed> {
        sleep(self.world.span(NO_REPLY)).await;
        self.wait_while_paused().await;
        Err(Failed::Unknown)
    }
}

struct CallInProgress(Arc<World>);

impl CallInProgress {
    fn new(world: &Arc<World>) -> CallInProgress {
        world.calls_in_progress.fetch_add(1, Ordering::Relaxed);
        CallInProgress(world.clone())
    }
}

impl Drop for CallInProgress {
    fn drop(&mut self) {
        self.0.calls_in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clock for Process {
    fn now(&self) -> Timestamp {
        let since = self.world.now().as_millis() as i64 + self.skew.load(Ordering::Relaxed);
        Timestamp(BEGIN.saturating_add_signed(since))
    }
}

impl IdSource for Process {
    fn next_id(&self) -> u128 {
        u128::from(self.world.next()) << 64 | u128::from(self.world.next())
    }
}
