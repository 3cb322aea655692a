//! A process of flux in the simulation: paused, killed, its clock set; and its calls to services.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use flux::core::model::{Clock, IdSource, Timestamp};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::world::{Fault, World};

/// The time of day at which every run begins.
const BEGIN: u64 = 1_700_000_000_000;
/// How long a caller waits for a reply that does not come.
const NO_REPLY: (u64, u64) = (50, 3_000);
/// How long a process stands still; leases and visibility timeouts are in between.
const PAUSES: [(u64, u64); 3] = [(1, 100), (100, 2_000), (2_000, 40_000)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Dead,
}

/// A process of flux, or another that calls the services. Its death is that of all its tasks at
/// what they wait for: from then on nothing of what they do reaches anybody.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub world: Arc<World>,
    state: Mutex<State>,
    changed: Notify,
    /// How far its time of day is off, in milliseconds.
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
        let (state, changed, skew) = (Mutex::new(State::Running), Notify::new(), AtomicI64::new(0));
        Arc::new(Process { name, world: world.clone(), state, changed, skew })
    }

    /// Waits while the process is paused, and for ever when it is dead.
    pub async fn turn(&self) {
        self.reaches(State::Running).await;
    }

    pub async fn died(&self) {
        self.reaches(State::Dead).await;
    }

    async fn reaches(&self, wanted: State) {
        loop {
            // Not a watch channel: it wakes who waits in an order of its own chance.
            let changed = self.changed.notified();
            if *self.state.lock().unwrap() == wanted {
                return;
            }
            changed.await;
        }
    }

    fn turn_into(&self, new: State) {
        let mut state = self.state.lock().unwrap();
        if *state != State::Dead {
            *state = new;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Runs the rest of the process's life, as long as it lives.
    pub async fn while_alive(&self, rest: impl Future) {
        tokio::select! {
            biased;
            () = self.died() => {}
            _ = rest => {}
        }
    }

    pub fn kill(&self) {
        self.world.tell(format_args!("{} is killed", self.name));
        self.turn_into(State::Dead);
    }

    pub async fn pause(&self) {
        let time = self.world.span(*self.world.pick(&PAUSES));
        self.world.tell(format_args!("{} is paused for {time:?}", self.name));
        self.turn_into(State::Paused);
        sleep(time).await;
        self.turn_into(State::Running);
    }

    pub fn jump(&self, milliseconds: i64) {
        self.world.tell(format_args!("{}'s clock jumps by {milliseconds} ms", self.name));
        self.skew.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// Between two steps of a process, where it may die or stand still.
    async fn step(&self) {
        if self.world.happens_in(Fault::Kill, 20_000) {
            self.kill();
        }
        if self.world.happens_in(Fault::Pause, 20_000) {
            self.pause().await;
        }
        self.turn().await;
    }

    /// A call to a service, which carries out `act`, or not, now or later.
    pub async fn call<T: Send + 'static>(
        &self,
        what: String,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let world = &self.world;
        self.step().await;
        let under_way = UnderWay::new(world);
        world.travel().await;
        if world.happens(Fault::Throttled) {
            world.tell(format_args!("{} {what}: throttled", self.name));
            self.turn().await;
            return Err(Failed::Refused);
        }
        if world.happens(Fault::RequestLost) {
            world.tell(format_args!("{} {what}: request lost", self.name));
            return self.no_reply().await;
        }
        if world.happens(Fault::LateWrite) {
            let (late, world) = (world.span((1, 20_000)), world.clone());
            let told = format!("{} {what}", self.name);
            world.tell(format_args!("{told}: will arrive in {late:?}"));
            tokio::spawn(async move {
                sleep(late).await;
                world.tell(format_args!("{told}: arrives late"));
                act();
                drop(under_way);
            });
            return self.no_reply().await;
        }
        world.tell(format_args!("{} {what}", self.name));
        let done = act();
        drop(under_way);
        if world.happens(Fault::ReplyLost) {
            world.tell(format_args!("{} {what}: reply lost", self.name));
            return self.no_reply().await;
        }
        world.travel().await;
        self.step().await;
        Ok(done)
    }

    /// A call that does not leave the machine: its answer is not lost.
    pub async fn local_call<T: Send>(
        &self,
        what: String,
        act: impl FnOnce() -> T + Send,
    ) -> Result<T, Failed> {
        self.step().await;
        self.world.travel().await;
        if self.world.happens(Fault::Throttled) {
            self.world.tell(format_args!("{} {what}: busy", self.name));
            self.turn().await;
            return Err(Failed::Refused);
        }
        self.world.tell(format_args!("{} {what}", self.name));
        let done = act();
        self.world.travel().await;
        self.step().await;
        Ok(done)
    }

    async fn no_reply<T>(&self) -> Result<T, Failed> {
        sleep(self.world.span(NO_REPLY)).await;
        self.turn().await;
        Err(Failed::Unknown)
    }
}

struct UnderWay(Arc<World>);

impl UnderWay {
    fn new(world: &Arc<World>) -> UnderWay {
        world.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(world.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
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
