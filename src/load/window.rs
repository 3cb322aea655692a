//! The audit of a foreign server: what its shop window (`GET /items/ID`) shows against what our
//! own orders were answered. Orders of other buyers are not seen.

use hyper::StatusCode;
use serde::Deserialize;

use super::connection::{Address, Connection};
use super::figures::Figures;
use super::settle::Reading;
use super::sight::Sight;
use super::stress::StressError;
use crate::core::order::ItemId;

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct ItemShown {
    pub stock: u64,
    free: u64,
    held: u64,
    sold: u64,
}

#[derive(Deserialize)]
struct StatsShown {
    backend: String,
}

/// The item as the server shows it; `None` when it is not listed (yet).
pub(super) async fn item(
    address: &Address,
    item: &ItemId,
) -> Result<Option<ItemShown>, StressError> {
    let answer = Connection::to(address).get(&format!("/items/{item}")).await;
    let answer = answer.map_err(|e| StressError::from((address, e)))?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let not_flux = |_| StressError::NotFlux(address.clone(), answer.status.to_string());
    serde_json::from_slice(&answer.body).map(Some).map_err(not_flux)
}

/// The server's backend, or `unknown`.
pub(super) async fn backend(address: &Address) -> String {
    let answer = Connection::to(address).get("/stats").await.ok();
    let stats = answer.and_then(|a| serde_json::from_slice::<StatsShown>(&a.body).ok());
    stats.map_or("unknown".to_owned(), |stats| stats.backend)
}

/// What can be said from outside. `sold` and `rejected` are our own orders only; units are
/// stranded only where nobody restocked meanwhile.
pub(super) fn figures(
    ours: &Reading,
    before: Option<ItemShown>,
    after: Option<ItemShown>,
) -> Figures {
    let (sold, item) = (ours.sold(), after.unwrap_or_default());
    let restocked = before.is_some_and(|before| before.stock != item.stock);
    let stranded = ours.sold_out() > 0 && !restocked;
    let taken = item.held + item.sold.max(sold);
    let counted = item.sold.saturating_sub(before.map_or(0, |before| before.sold));
    Figures {
        stock: item.stock,
        free: item.free,
        held: item.held,
        sold,
        orders: ours.orders(),
        rejected: ours.rejected(),
        undecided: ours.count(|sight| sight == Sight::Waiting),
        oversold_units: taken.saturating_sub(item.stock),
        stranded_units: if stranded { item.free } else { 0 },
        uncounted_units: sold.saturating_sub(counted),
        unbalanced_units: (item.free + item.held + item.sold).abs_diff(item.stock),
        ..Figures::default()
    }
}
