//! Errors of a load test.

use crate::client::{Address, Unanswered};
use crate::core::model::ItemId;
use crate::core::ports::ledger::LedgerError;

/// A load test that ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    #[error("no response from {0}: {1}; start `flux serve` there, or give another --target")]
    Unreachable(Address, String),
    #[error("{0} returned {1}, not a response of flux; give a `flux serve` as --target")]
    NotFlux(Address, String),
    #[error("{0} requires a key; set buy_key (FLUX_BUY_KEY) to one of its keys")]
    NotAdmitted(Address),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0} units of this item are already held or sold; give a --stock of {0} or more")]
    BelowTaken(u64),
    #[error(
        "{address}: the stock of {item} is {stock}; set it to {wanted} with `flux provision`, or \
         leave --stock out"
    )]
    OtherStock { address: Address, item: ItemId, stock: String, wanted: u64 },
}

impl From<(&Address, Unanswered)> for StressError {
    fn from((address, e): (&Address, Unanswered)) -> Self {
        StressError::Unreachable(address.clone(), e.to_string())
    }
}
