//! What flux is about, and the ports through which it meets the world.
//!
//! The order's road is in [`order`]; a port is a trait in the `mod.rs` of its folder, with one
//! adapter per file beside it. `connection/` holds the one connection that the adapters of a vendor
//! share.

pub mod calls;
pub mod clear_text;
pub mod connection;
pub mod ledger;
pub mod lock;
pub mod marks;
pub mod meters;
pub mod order;
pub mod outcomes;
pub mod pulses;
pub mod queue;
pub mod text;
pub mod trace;
pub mod webhooks;

use std::sync::Arc;

/// The ports that a process of flux works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ports {
    pub queue: Arc<dyn queue::Queue>,
    pub ledger: Arc<dyn ledger::Ledger>,
    /// `None`: decide without a lock. Slower under contention, as safe as with it.
    pub lock: Option<Arc<dyn lock::Lock>>,
    pub outcomes: Arc<dyn outcomes::Outcomes>,
    /// `None` where the queue itself notices a reused key.
    pub marks: Option<Arc<dyn marks::Marks>>,
    /// `None` where no shop wants to be told of decisions.
    pub webhooks: Option<Arc<dyn webhooks::Webhooks>>,
    pub names: Arc<order::OrderNames>,
    pub clock: Arc<dyn order::Clock>,
    pub chance: Arc<dyn order::Chance>,
    pub calls: Arc<calls::Calls>,
    pub meters: Arc<meters::Meters>,
    pub pulses: Arc<dyn pulses::Pulses>,
    pub tracer: trace::Tracer,
}

impl Ports {
    /// The outbox that whoever acknowledges orders must tell of their decisions before; `None`
    /// where the ledger does so itself, or nobody wants to know.
    pub fn outbox_to_tell(&self) -> Option<&Arc<dyn webhooks::Webhooks>> {
        self.webhooks.as_ref().filter(|webhooks| !webhooks.put_by_ledger())
    }
}
