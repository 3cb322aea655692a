//! What can happen in a sale, step by step.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Send(usize),
    Restock,
    Receive {
        worker: usize,
        order: usize,
    },
    Begin(usize),
    Acquire(usize),
    Read(usize),
    Write(usize),
    Find(usize),
    EndLane(usize),
    /// A lease whose holder is gone runs out.
    LeaseOver,
    /// The worker finds out that it lost the lock.
    NoticeLoss(usize),
    Fault(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Delivered again: the visibility timeout passed, or the acknowledgement was lost.
    Redeliver {
        worker: usize,
        order: usize,
    },
    /// The lease runs out under its holder, or the lock's service forgets it.
    LeaseLost,
    /// The lock's service does not answer: the worker goes on without.
    LockAway(usize),
    /// A write gets no answer in time; it may be applied later, or never.
    LoseWrite(usize),
    ArriveLate,
    Crash(usize),
}
