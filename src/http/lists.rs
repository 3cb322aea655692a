//! Cached pages of the items and the inventory. These are public, so each page is read from the
//! ledger at most once a second, and all pages together at a limited rate.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::problem::{LEDGER_UNAVAILABLE, Problem, json_line};
use super::request_id;
use super::shared_reads::SharedReads;
use crate::core::ports::ledger::LedgerError;

/// Maximum rows of a page.
pub(super) const PAGE_MAX: usize = 1_000;
/// Maximum age of a cached page.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Maximum cached pages of a list. Each holds a permit of [`super::Limits::pages`]; when those run
/// out, the cache is cleared.
const CACHED_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Maximum pages of a list read per second, and maximum reads that wait for their turn.
const READS_PER_SECOND: u32 = 16;

#[derive(Debug, Clone)]
pub(super) struct ListPage {
    pub text: Bytes,
    pub etag: HeaderValue,
    /// The `Link` header to the next page.
    pub next: Option<HeaderValue>,
}

/// A page's text with its permit of [`super::Limits::pages`].
struct PageText {
    text: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for PageText {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// The page as JSON. The permit is released when the text is freed, so when the cache and all clients
/// are done with it.
pub(super) fn page_text(permit: OwnedSemaphorePermit, page: &impl Serialize) -> Bytes {
    Bytes::from_owner(PageText { text: json_line(page), _permit: permit })
}

#[derive(Debug, Clone, Copy)]
enum PageError {
    LedgerUnavailable,
    /// Too many reads are waiting, or too many pages are in memory.
    Busy,
}

/// The pages of one list.
#[derive(Debug)]
pub(super) struct List {
    cached: SharedReads<String, Result<ListPage, PageError>>,
    /// When the reads so far are paid off, as in the rate limiter of `access`.
    paid_off: Mutex<Instant>,
}

impl Default for List {
    fn default() -> Self {
        let is_cacheable =
            |read: &Result<ListPage, PageError>| !matches!(read, Err(PageError::Busy));
        let cached = SharedReads::new(CACHED_MAX, MAX_AGE, is_cacheable);
        Self { cached, paid_off: Mutex::new(Instant::now()) }
    }
}

impl List {
    /// Discards the cached pages, so that later requests see what is committed now.
    pub fn clear(&self) {
        self.cached.clear();
    }

    /// How long the next read must wait for its turn; `None` if too many reads wait.
    fn next_turn(&self) -> Option<Duration> {
        let mut paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let next = (*paid_off).max(now - second) + second / READS_PER_SECOND;
        let wait = next.saturating_duration_since(now);
        if wait > second {
            return None;
        }
        *paid_off = next;
        Some(wait)
    }
}

/// All lists, and the permits for pages in memory.
#[derive(Debug)]
pub(super) struct Lists {
    pub items: List,
    pub inventory: List,
    permits: Arc<Semaphore>,
}

impl Lists {
    /// At most `pages` pages are in memory at once.
    pub fn new(pages: usize) -> Self {
        let permits = Arc::new(Semaphore::new(pages));
        Self { items: List::default(), inventory: List::default(), permits }
    }

    /// The page with this key, cached or from `read`.
    pub async fn page<F>(
        &self,
        list: &List,
        key: String,
        read: impl FnOnce(OwnedSemaphorePermit) -> F,
    ) -> Result<ListPage, Problem>
    where
        F: Future<Output = Result<ListPage, LedgerError>>,
    {
        let reading = async {
            let wait = list.next_turn().ok_or(PageError::Busy)?;
            sleep(wait).await;
            let permit = self.permit().map_err(|_| PageError::Busy)?;
            read(permit).await.map_err(|e| {
                let request_id = request_id::current();
                tracing::warn!(request_id, "list read failed; answering 503 for a second: {e}");
                PageError::LedgerUnavailable
            })
        };
        list.cached.get(&key, None, reading).await.map_err(|e| match e {
            PageError::Busy => busy(),
            PageError::LedgerUnavailable => Problem::unavailable(LEDGER_UNAVAILABLE),
        })
    }

    /// A permit for one page in memory. Cached pages give way to it.
    pub fn permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = self.permits.clone().try_acquire_owned().or_else(|_| {
            self.inventory.clear();
            self.items.clear();
            self.permits.clone().try_acquire_owned()
        });
        permit.map_err(|_| busy())
    }
}

fn busy() -> Problem {
    Problem::unavailable("too many lists are being read; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_have_a_burst_and_then_take_turns() {
        let list = List::default();
        tokio::time::sleep(Duration::from_secs(9)).await;
        let turns = || (0..100).map_while(|_| list.next_turn()).collect::<Vec<_>>();
        let burst = turns();
        assert_eq!(burst.iter().filter(|wait| wait.is_zero()).count(), 16);
        assert_eq!(burst.len(), 32);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(turns().len(), 8);
    }
}
