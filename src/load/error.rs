//! Why a load test ends without a report.

use crate::client::{Address, Unanswered};
use crate::core::model::ItemId;
use crate::core::ports::ledger::LedgerError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    #[error("no answer from {0}: {1}; start `flux serve` there, or give another --target")]
    Unreachable(Address, String),
    #[error("{0}: {1} is no answer of flux; give the address of a `flux serve` as --target")]
    NotFlux(Address, String),
    #[error("{0} sells to who has a key only; set buy_key (FLUX_BUY_KEY) to one of its keys")]
    NotAdmitted(Address),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0} units of this item are held or sold already; give at least that as --stock")]
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
