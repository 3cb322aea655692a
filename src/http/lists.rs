//! Pages of items and of the inventory: everybody may poll them, so each is read from the ledger once
//! a second at most, however many ask, and not more than a few a second in all.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::problem::{Problem, lined};
use super::request_id;
use super::shared_reads::SharedReads;
use crate::core::ports::ledger::LedgerError;

/// Rows of a page at most.
pub(super) const PAGE_MAX: usize = 1_000;
/// How long a page may be shown.
const FRESH: Duration = Duration::from_secs(1);
/// Pages that are kept, at most. They are of [`super::Limits::pages`], and go when there are no more.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Pages of a list that are read in a second, in all. That many more may wait for their turn.
const READS_PER_SECOND: u32 = 16;

#[derive(Debug, Clone)]
pub(super) struct ListPage {
    pub text: Bytes,
    /// Strong: another text has another.
    pub etag: HeaderValue,
    pub next: Option<HeaderValue>,
}

/// A page's text with its permit of [`super::Limits::pages`].
struct HeldText {
    text: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for HeldText {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// The page as JSON; `place` is released when the text is freed.
pub(super) fn hold(place: OwnedSemaphorePermit, page: &impl Serialize) -> Bytes {
    Bytes::from_owner(HeldText { text: lined(page), _place: place })
}

/// Why there is no page.
#[derive(Debug, Clone, Copy)]
enum NoPage {
    Away,
    Busy,
}

/// The pages of one list.
#[derive(Debug)]
pub(super) struct List {
    kept: SharedReads<String, Result<ListPage, NoPage>>,
    /// Until when reads are paid for.
    paid: Mutex<Instant>,
}

impl Default for List {
    fn default() -> Self {
        let keeps = |read: &Result<ListPage, NoPage>| !matches!(read, Err(NoPage::Busy));
        let kept = SharedReads::new(KEPT_MAX, FRESH, keeps);
        Self { kept, paid: Mutex::new(Instant::now()) }
    }
}

impl List {
    /// Drops what was read, so that later requests see what is written by now.
    pub fn forget(&self) {
        self.kept.forget();
    }

    /// How long the next read has to wait for its turn; `None` if too many wait.
    fn turn(&self) -> Option<Duration> {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let next = (*paid).max(now - second) + second / READS_PER_SECOND;
        let wait = next.saturating_duration_since(now);
        if wait > second {
            return None;
        }
        *paid = next;
        Some(wait)
    }
}

/// All lists, and the places for pages that are on their way to clients.
#[derive(Debug)]
pub(super) struct Lists {
    pub items: List,
    pub inventory: List,
    places: Arc<Semaphore>,
}

impl Lists {
    /// At most `pages` pages are in memory at once.
    pub fn new(pages: usize) -> Self {
        let places = Arc::new(Semaphore::new(pages));
        Self { items: List::default(), inventory: List::default(), places }
    }

    /// A page of a list by its name, from memory if it is there.
    pub async fn page<F>(
        &self,
        list: &List,
        name: String,
        read: impl FnOnce(OwnedSemaphorePermit) -> F,
    ) -> Result<ListPage, Problem>
    where
        F: Future<Output = Result<ListPage, LedgerError>>,
    {
        let reading = async {
            let wait = list.turn().ok_or(NoPage::Busy)?;
            sleep(wait).await;
            let place = self.place().map_err(|_| NoPage::Busy)?;
            read(place).await.map_err(|e| {
                let request_id = request_id::current();
                tracing::warn!(request_id, "no list for a second: {e}");
                NoPage::Away
            })
        };
        list.kept.get(&name, None, reading).await.map_err(|no| match no {
            NoPage::Busy => busy(),
            NoPage::Away => Problem::unavailable("the ledger does not answer; try again"),
        })
    }

    pub fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = self.places.clone().try_acquire_owned().or_else(|_| {
            self.inventory.forget();
            self.items.forget();
            self.places.clone().try_acquire_owned()
        });
        place.map_err(|_| busy())
    }
}

fn busy() -> Problem {
    Problem::unavailable("too many lists are being read; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_come_in_a_burst_and_then_take_turns() {
        let list = List::default();
        tokio::time::sleep(Duration::from_secs(9)).await;
        let turns = || (0..100).map_while(|_| list.turn()).collect::<Vec<_>>();
        let burst = turns();
        assert_eq!(burst.iter().filter(|wait| wait.is_zero()).count(), 16);
        assert_eq!(burst.len(), 32);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(turns().len(), 8);
    }
}
