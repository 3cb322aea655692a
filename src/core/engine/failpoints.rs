//! Safety guards that the simulation can disable in the pipeline, to prove that it detects their
//! loss. Only with debug assertions: a release build contains no switch.

/// A guard of the pipeline. The ledger and the queue have guards of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A delivery is acknowledged after its orders' decisions are written.
    AckAfterCommit,
    /// An order is in the queue before its buyer gets a 202.
    DurableBefore202,
    /// Repeats of an order are dropped before it is decided.
    RepeatDropped,
    /// An apparent repeat is compared with the order that has its id.
    RequestCompared,
    /// If the ledger does not put events itself, they are put before their orders are acknowledged.
    OutboxBeforeAck,
    /// The events of orders that are found decided are put too.
    OutboxForDecided,
    /// An order is decided as dropped before its dead letter is deleted.
    DroppedFirst,
}

#[cfg(debug_assertions)]
thread_local! {
    static DISABLED: std::cell::Cell<Option<Failpoint>> = const { std::cell::Cell::new(None) };
}

/// Disables one guard on this thread; `None` enables all.
#[cfg(debug_assertions)]
pub fn disable(guard: Option<Failpoint>) {
    DISABLED.set(guard);
}

#[cfg(debug_assertions)]
pub(super) fn is_off(guard: Failpoint) -> bool {
    DISABLED.get() == Some(guard)
}

#[cfg(not(debug_assertions))]
pub(super) const fn is_off(_: Failpoint) -> bool {
    false
}
