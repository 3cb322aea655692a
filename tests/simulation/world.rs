//! The world of one run: one source of chance, one clock, the faults, the trace.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// An item's sale is closed, or opened again.
    SaleClosed,
    /// An item without orders is removed, until it is restocked.
    ItemRemoved,
    /// Another producer's messages, some of them no orders.
    ForeignMessage,
    /// A message that bears the id of somebody else's order.
    ForgedId,
    /// The dead letters are sent again.
    Redrive,
    /// The dead letters are dropped, whatever else is done with them.
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
            MarksWiped,
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
    /// Those that may happen in a run in which nothing but contention is in the way.
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
    /// Those with few chances to happen.
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
    /// How often a fault that is on happens, in a thousand chances, or in 200.
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
    /// Calls that are not carried out yet.
    pub under_way: AtomicUsize,
    born: Instant,
    log: Mutex<(Vec<String>, Happened)>,
    auditor: Mutex<Auditor>,
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        let mut world = World {
            chance: Mutex::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D)),
            rates: Default::default(),
            contention_only: false,
            calm: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
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

    /// The next number of the one stream of chance (SplitMix64, Steele et al. 2014). Not fastrand:
    /// with it the seeds of the runs in docs/reliability.md would be other runs.
    pub fn next(&self) -> u64 {
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
        self.happens_in(fault, if Fault::RARELY_TRIED.contains(&fault) { 200 } else { 1_000 })
    }

    pub fn happens_in(&self, fault: Fault, chances: u64) -> bool {
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

    /// Whether calls, late ones too, may still be carried out.
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
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
