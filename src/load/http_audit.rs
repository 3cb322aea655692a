//! The audit of a `--target` server: compares the item as `GET /items/ID` shows it with the
//! decisions of this load test's orders. Orders of other buyers are not known.

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

/// Longest list of samples. When it is full, every second sample is dropped and the sampling rate
/// is halved.
const SAMPLES_MAX: usize = 128;
const SAMPLE_PAUSE: Duration = Duration::from_millis(100);
/// Longest time for which a server serves a cached item.
pub(super) const ITEM_CACHE_TIME: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) struct ShownItem {
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    pub sold: u64,
}

/// The item at one time of the sale, as the server showed it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StockSample {
    pub(super) since_start: Duration,
    pub(super) item: ShownItem,
}

/// Samples an item periodically during the sale. Stops when dropped.
#[derive(Debug)]
pub(super) struct StockSampler {
    sampling: JoinHandle<Vec<StockSample>>,
    stop: DropGuard,
}

impl StockSampler {
    pub fn start(address: &Address, id: &ItemId, began: Instant) -> Self {
        let stop = CancellationToken::new();
        let sampling = tokio::spawn(sample(address.clone(), id.clone(), began, stop.clone()));
        Self { sampling, stop: stop.drop_guard() }
    }

    /// Takes a last sample and returns all. Failed reads are left out.
    pub async fn finish(self) -> Vec<StockSample> {
        drop(self.stop);
        self.sampling.await.expect("the sampler does not panic")
    }
}

async fn sample(
    address: Address,
    id: ItemId,
    began: Instant,
    stop: CancellationToken,
) -> Vec<StockSample> {
    let mut samples = Vec::new();
    let mut pause = SAMPLE_PAUSE;
    loop {
        let last = stop.is_cancelled();
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
        let _stopped = stop.run_until_cancelled(sleep(pause)).await;
    }
}

/// Checks that the server accepts our key, with a request that is not a valid order.
pub(super) async fn check_access(address: &Address) -> Result<(), StressError> {
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
struct StatsBody {
    backend: String,
}

/// Reads the item from the server; `None` if it is not listed.
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
    let stats = answer.and_then(|a| serde_json::from_slice::<StatsBody>(&a.body).ok());
    stats.map_or("unknown".to_owned(), |stats| stats.backend)
}

/// The figures that can be derived over HTTP. `sold` and `rejected` count only orders of this load
/// test. Units count as stranded only if the item was not restocked during the test.
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
