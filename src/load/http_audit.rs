//! The audit of a foreign server: what its shop window (`GET /items/ID`) shows against what our
//! own orders were answered. Orders of other buyers are not seen.

use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::drain::Observations;
use super::error::StressError;
use super::observation::ObservedState;
use super::summary::AuditSummary;
use crate::client::{Address, Connection};
use crate::core::model::ItemId;

/// Samples of an item that are kept, at most; then every second one is dropped, and sampling slows
/// to half the rate.
const SAMPLES_MAX: usize = 128;
const SAMPLE_PAUSE: Duration = Duration::from_millis(100);
/// A server shows an item as it was within this time.
pub(super) const SHOWN_LATE: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) struct ShownItem {
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    pub sold: u64,
}

/// The item as it was shown at some time of the sale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StockSample {
    pub(super) since_start: Duration,
    pub(super) item: ShownItem,
}

/// Reads an item regularly while it is sold; dropping it ends that.
#[derive(Debug)]
pub(super) struct StockSampler {
    sampling: JoinHandle<Vec<StockSample>>,
    over: DropGuard,
}

impl StockSampler {
    pub fn start(address: &Address, id: &ItemId, began: Instant) -> Self {
        let over = CancellationToken::new();
        let sampling = tokio::spawn(sample(address.clone(), id.clone(), began, over.clone()));
        Self { sampling, over: over.drop_guard() }
    }

    /// Reads the item once more, and returns all samples. A read that was not answered is left out.
    pub async fn finish(self) -> Vec<StockSample> {
        drop(self.over);
        self.sampling.await.expect("the sampler does not panic")
    }
}

async fn sample(
    address: Address,
    id: ItemId,
    began: Instant,
    over: CancellationToken,
) -> Vec<StockSample> {
    let mut samples = Vec::new();
    let mut pause = SAMPLE_PAUSE;
    loop {
        let last = over.is_cancelled();
        if let Ok(Some(item)) = item(&address, &id).await {
            samples.push(StockSample { since_start: began.elapsed(), item });
        }
        if last {
            return samples;
        }
        if samples.len() >= SAMPLES_MAX {
            samples = samples.into_iter().step_by(2).collect();
            pause *= 2;
        }
        let _over = over.run_until_cancelled(sleep(pause)).await;
    }
}

/// Whether the server takes orders from us, asked with what is no order.
pub(super) async fn admits(address: &Address) -> Result<(), StressError> {
    let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let answer = Connection::to(address).post("/buy", json, Bytes::from_static(b"{}")).await;
    match answer.map_err(|e| StressError::from((address, e)))?.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(StressError::NotAdmitted(address.clone()))
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct StatsShown {
    backend: String,
}

/// The item as the server shows it; `None` when it is not listed (yet).
pub(super) async fn item(
    address: &Address,
    item: &ItemId,
) -> Result<Option<ShownItem>, StressError> {
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
pub(super) fn summary(
    ours: &Observations,
    before: Option<ShownItem>,
    after: Option<ShownItem>,
) -> AuditSummary {
    let sold = ours.sold();
    let item = after.unwrap_or_default();
    let restocked = before.is_some_and(|before| before.stock != item.stock);
    let stranded = ours.sold_out() > 0 && !restocked;
    let taken = item.held + item.sold.max(sold);
    let counted = item.sold.saturating_sub(before.map_or(0, |before| before.sold));
    AuditSummary {
        stock: item.stock,
        free: item.free,
        held: item.held,
        sold,
        orders: ours.orders(),
        rejected: ours.rejected(),
        undecided: ours.count(|state| state == ObservedState::Waiting),
        oversold_units: taken.saturating_sub(item.stock),
        stranded_units: if stranded { item.free } else { 0 },
        uncounted_units: sold.saturating_sub(counted),
        unbalanced_units: (item.free + item.held + item.sold).abs_diff(item.stock),
        ..AuditSummary::default()
    }
}
