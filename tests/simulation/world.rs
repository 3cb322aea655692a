//! The world of one run: one source of chance, one clock, faults, a trace, and processes that
//! are paused, killed and started again.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flux::core::order::{Chance, Clock, Timestamp};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::auditor::Auditor;

/// What may go wrong. Each run draws which of these are on, and how often they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A call never arrives; its caller does not know.
    RequestLost,
    /// A call is carried out; its caller does not know.
    ReplyLost,
    /// A call is carried out long after its caller gave it up.
    LateWrite,
    /// A call is refused for being one too many.
    Throttled,
    /// Some entries of a batch fail, carried out or not.
    PartialBatch,
    /// A call or its reply takes up to several leases and visibility timeouts.
    Slow,
    DeliveredTwice,
    DeliveredLate,
    DeliveredOutOfOrder,
    LockGrantedTwice,
    LockLost,
    LockExpired,
    LocksWiped,
    /// Somebody who is no worker of ours holds the lock for some leases.
    LockStuck,
    MarksWiped,
    /// A process ends at whatever it waits for, and is started again later.
    Kill,
    /// A process stands still at whatever it waits for, up to several leases and timeouts.
    Pause,
    /// A process is told to stop, ends in order, and is started again later.
    Stop,
    /// A process's time of day jumps by up to a minute, in either direction.
    ClockJump,
    /// A process's time of day jumps by 31 days.
    ClockLeap,
    Restock,
    StockLowered,
    /// Another producer's messages, some of them no orders.
    ForeignMessage,
    /// The dead letters are sent again.
    Redrive,
}

impl Fault {
    pub const ALL: [Fault; 24] = {
        use Fault::*;
        [
            RequestLost,
            ReplyLost,
            LateWrite,
            Throttled,
            PartialBatch,
            Slow,
            DeliveredTwice,
            DeliveredLate,
            DeliveredOutOfOrder,
            LockGrantedTwice,
            LockLost,
            LockExpired,
            LocksWiped,
            LockStuck,
            MarksWiped,
            Kill,
            Pause,
            Stop,
            ClockJump,
            ClockLeap,
            Restock,
            StockLowered,
            ForeignMessage,
            Redrive,
        ]
    };
    /// Those that may happen in a run in which nothing but contention is in the way.
    const OF_CONTENTION: [Fault; 8] = [
        Fault::LockGrantedTwice,
        Fault::LockLost,
        Fault::LockExpired,
        Fault::LocksWiped,
        Fault::LockStuck,
        Fault::ClockJump,
        Fault::Restock,
        Fault::StockLowered,
    ];
    /// How often a fault that is on happens, in a thousand chances.
    const RATES: [u64; 4] = [3, 10, 50, 200];
}

/// Times happened, by fault.
pub type Happened = [u64; Fault::ALL.len()];

#[derive(Debug)]
pub struct World {
    chance: Mutex<u64>,
    rates: [u64; Fault::ALL.len()],
    /// Only locks, stocks and clocks misbehave: no delivery need come twice.
    pub contention_only: bool,
    calm: AtomicBool,
    born: Instant,
    log: Mutex<(Vec<String>, Happened)>,
    auditor: Mutex<Auditor>,
}

/// The time of day at which every run begins.
const BEGIN: u64 = 1_700_000_000_000;
/// How long a caller waits for a reply that does not come.
const NO_REPLY: (u64, u64) = (50, 3_000);
/// How long a process stands still; leases and visibility timeouts are in between.
const PAUSES: [(u64, u64); 3] = [(1, 100), (100, 2_000), (2_000, 40_000)];

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        let mut world = World {
            chance: Mutex::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D)),
            rates: Default::default(),
            contention_only: false,
            calm: AtomicBool::new(false),
            born: Instant::now(),
            log: Mutex::default(),
            auditor: Mutex::default(),
        };
        world.contention_only = world.one_in(8);
        for fault in Fault::ALL {
            let on = world.one_in(2);
            let rate = *world.pick(&Fault::RATES);
            let may = !world.contention_only || Fault::OF_CONTENTION.contains(&fault);
            world.rates[fault as usize] = if on && may { rate } else { 0 };
        }
        Arc::new(world)
    }

    /// The next number of the one stream of chance (SplitMix64, Steele et al. 2014).
    fn next(&self) -> u64 {
        let mut state = self.chance.lock().unwrap();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, not including, `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn between(&self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub fn span(&self, milliseconds: (u64, u64)) -> Duration {
        Duration::from_millis(self.between(milliseconds))
    }

    pub fn happens(&self, fault: Fault) -> bool {
        self.happens_in(fault, 1_000)
    }

    fn happens_in(&self, fault: Fault, chances: u64) -> bool {
        let rate = self.rates[fault as usize];
        let happens = rate > 0 && !self.is_calm() && self.below(chances) < rate;
        if happens {
            self.log.lock().unwrap().1[fault as usize] += 1;
        }
        happens
    }

    /// From now on nothing goes wrong any more; what did is left to be overcome.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Since the beginning of the run.
    pub fn now(&self) -> Duration {
        self.born.elapsed()
    }

    pub fn tell(&self, event: fmt::Arguments<'_>) {
        let line = format!("{:>7} {event}", self.now().as_millis());
        self.log.lock().unwrap().0.push(line);
    }

    /// Lets the auditor see something; what it finds wrong goes into the trace at that place.
    pub fn audit<T>(&self, see: impl FnOnce(&mut Auditor) -> T) -> T {
        let (seen, wrong) = {
            let mut auditor = self.auditor.lock().unwrap();
            auditor.now = self.now();
            let known = auditor.wrong.len();
            let seen = see(&mut auditor);
            (seen, auditor.wrong[known..].to_vec())
        };
        wrong.iter().for_each(|wrong| self.tell(format_args!("BROKEN {wrong}")));
        seen
    }

    pub fn take_log(&self) -> (Vec<String>, Happened) {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    async fn travel(&self) {
        let time =
            if self.happens(Fault::Slow) { self.span((10, 20_000)) } else { self.span((0, 8)) };
        if time.is_zero() {
            tokio::task::yield_now().await;
        } else {
            sleep(time).await;
        }
    }
}

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
            });
            return self.no_reply().await;
        }
        world.tell(format_args!("{} {what}", self.name));
        let done = act();
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

impl Clock for Process {
    fn now(&self) -> Timestamp {
        let since = self.world.now().as_millis() as i64 + self.skew.load(Ordering::Relaxed);
        Timestamp(BEGIN.saturating_add_signed(since))
    }
}

impl Chance for Process {
    fn draw(&self) -> u128 {
        u128::from(self.world.next()) << 64 | u128::from(self.world.next())
    }
}
