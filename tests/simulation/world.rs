//! The world of one run: its random numbers, its clock, its faults and its trace.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::auditor::Auditor;

/// The kinds of faults. Each run chooses at random which are enabled, and how often they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A call is not carried out; its caller gets no reply.
    RequestLost,
    /// A call is carried out; its caller gets no reply.
    ReplyLost,
    /// A call is carried out long after its caller gave up.
    LateWrite,
    /// A call is refused because of a rate limit.
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
    /// A holder that is not a worker of the sale keeps the lock for some leases.
    LockStuck,
    FingerprintsWiped,
    /// A process is killed at any await, and is started again later.
    Kill,
    /// A process is paused at any await, for up to several leases and timeouts.
    Pause,
    /// A process is stopped, shuts down, and is started again later.
    Stop,
    /// A process's time of day jumps by up to a minute, in either direction.
    ClockJump,
    /// A process's time of day jumps by 31 days.
    ClockLeap,
    Restock,
    StockLowered,
    /// An item's sale is closed or reopened.
    SaleClosed,
    /// An item without orders is removed, until it is restocked.
    ItemRemoved,
    /// Messages of another producer; some are not orders.
    ForeignMessage,
    /// A message with the id of another user's order.
    ForgedId,
    /// The dead letters are redriven.
    Redrive,
    /// The dead letters are dropped, possibly during a redrive.
    LettersDropped,
}

impl Fault {
    pub const ALL: [Fault; 28] = {
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
            FingerprintsWiped,
            Kill,
            Pause,
            Stop,
            ClockJump,
            ClockLeap,
            Restock,
            StockLowered,
            SaleClosed,
            ItemRemoved,
            ForeignMessage,
            ForgedId,
            Redrive,
            LettersDropped,
        ]
    };
    /// Faults of a run with contention only.
    const OF_CONTENTION: [Fault; 10] = [
        Fault::LockGrantedTwice,
        Fault::LockLost,
        Fault::LockExpired,
        Fault::LocksWiped,
        Fault::LockStuck,
        Fault::ClockJump,
        Fault::Restock,
        Fault::StockLowered,
        Fault::SaleClosed,
        Fault::ItemRemoved,
    ];
    /// Faults with few occasions in a run.
    const RARELY_TRIED: [Fault; 9] = [
        Fault::LockGrantedTwice,
        Fault::LockLost,
        Fault::LockExpired,
        Fault::LocksWiped,
        Fault::Restock,
        Fault::StockLowered,
        Fault::SaleClosed,
        Fault::ItemRemoved,
        Fault::LettersDropped,
    ];
    /// How often an enabled fault happens in 1,000 occasions, or in 200 if they are few.
    const RATES: [u64; 4] = [3, 10, 50, 200];
}

/// Number of occurrences, by fault.
pub type Happened = [u64; Fault::ALL.len()];

#[derive(Debug)]
pub struct World {
    random_state: Mutex<u64>,
    rates: [u64; Fault::ALL.len()],
    /// True if only locks, stocks and clocks have faults: no redelivery is needed.
    pub contention_only: bool,
    calm: AtomicBool,
    /// Number of calls that are not carried out yet.
    pub calls_in_progress: AtomicUsize,
    started: Instant,
    trace: Mutex<Vec<String>>,
    happened: Mutex<Happened>,
    auditor: Mutex<Auditor>,
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        let mut world = World {
            random_state: Mutex::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D)),
            rates: Default::default(),
            contention_only: false,
            calm: AtomicBool::new(false),
            calls_in_progress: AtomicUsize::new(0),
            started: Instant::now(),
            trace: Mutex::default(),
            happened: Mutex::new([0; Fault::ALL.len()]),
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

    /// The next random number of the run (SplitMix64, Steele et al. 2014). Not fastrand, which
    /// would change the runs of the seeds in docs/reliability.md.
    pub fn next(&self) -> u64 {
        let mut state = self.random_state.lock().unwrap();
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
        self.happens_in(fault, if Fault::RARELY_TRIED.contains(&fault) { 200 } else { 1_000 })
    }

    pub fn happens_in(&self, fault: Fault, chances: u64) -> bool {
        let rate = self.rates[fault as usize];
        let happens = rate > 0 && !self.is_calm() && self.below(chances) < rate;
        if happens {
            self.happened.lock().unwrap()[fault as usize] += 1;
        }
        happens
    }

    /// Ends all faults. The pipeline then has to recover from those that happened.
    pub fn stop_faults(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// True if calls, including late ones, may still be carried out.
    pub fn has_calls_in_progress(&self) -> bool {
        self.calls_in_progress.load(Ordering::Relaxed) > 0
    }

    /// Time since the start of the run.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn trace(&self, event: fmt::Arguments<'_>) {
        let line = format!("{:>7} {event}", self.now().as_millis());
        self.trace.lock().unwrap().push(line);
    }

    /// Calls the auditor. Promises that it finds broken are added to the trace at this point.
    pub fn audit<T>(&self, call: impl FnOnce(&mut Auditor) -> T) -> T {
        let (result, wrong) = {
            let mut auditor = self.auditor.lock().unwrap();
            auditor.now = self.now();
            let known = auditor.wrong.len();
            let result = call(&mut auditor);
            (result, auditor.wrong[known..].to_vec())
        };
        wrong.iter().for_each(|wrong| self.trace(format_args!("BROKEN {wrong}")));
        result
    }

    pub fn take_trace(&self) -> (Vec<String>, Happened) {
        let trace = std::mem::take(&mut *self.trace.lock().unwrap());
        (trace, *self.happened.lock().unwrap())
    }

    /// Waits for the time that a call or its reply takes.
    pub async fn travel(&self) {
        let time =
            if self.happens(Fault::Slow) { self.span((10, 20_000)) } else { self.span((0, 8)) };
        if time.is_zero() {
            tokio::task::yield_now().await;
        } else {
            sleep(time).await;
        }
    }
}
