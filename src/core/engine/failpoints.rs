//! Guards of safety that can be taken out of the pipeline, so that the simulation can show that it
//! would notice. Only where debug assertions are on: a release build has no switch, and nothing
//! of this is left in it.

/// A guard that stands in the pipeline itself; the others stand in the ledger and the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A delivery is acknowledged after its orders' decisions are written.
    AckAfterCommit,
    /// An order is in the queue before its buyer is told so.
    DurableBefore202,
    /// Repeats of an order are dropped before it is decided.
    RepeatDropped,
    /// What looks like a repeat is compared with the order that has its id.
    RequestCompared,
    /// Where the ledger does not tell the shop, orders are acknowledged after it is told.
    OutboxBeforeAck,
    /// It is told of orders that are found decided too.
    OutboxForDecided,
    /// An order is decided as dropped before its dead letter goes.
    DroppedFirst,
}

#[cfg(debug_assertions)]
thread_local! {
    static OUT: std::cell::Cell<Option<Failpoint>> = const { std::cell::Cell::new(None) };
}

/// Takes a guard out, for all that this thread does, or puts all of them back.
#[cfg(debug_assertions)]
pub fn take_out(guard: Option<Failpoint>) {
    OUT.set(guard);
}

#[cfg(debug_assertions)]
pub(super) fn is_off(guard: Failpoint) -> bool {
    OUT.get() == Some(guard)
}

#[cfg(not(debug_assertions))]
pub(super) const fn is_off(_: Failpoint) -> bool {
    false
}
