//! Pages of items and of the inventory: everybody may poll them, so each is read from the ledger once
//! a second at most, however many ask, and not more than a few a second in all.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::problem::Problem;
use super::request_id;
use super::server::Server;
use super::shared::Shared;
use crate::core::ports::ledger::LedgerError;

/// How long a page may be shown.
const FRESH: Duration = Duration::from_secs(1);
/// Pages that are kept, at most. They are of [`super::Limits::pages`], and go when there are no more.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Pages of a list that are read in a second, in all. That many more may wait for their turn.
const READS_PER_SECOND: u32 = 16;

#[derive(Debug, Clone)]
pub(super) struct Page {
    pub text: Bytes,
    /// Strong: another text has another.
    pub tag: HeaderValue,
    pub next: Option<HeaderValue>,
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
    kept: Shared<String, Result<Page, NoPage>>,
    /// Until when reads are paid for.
    paid: Mutex<Instant>,
}

impl Default for List {
    fn default() -> Self {
        let keeps = |read: &Result<Page, NoPage>| !matches!(read, Err(NoPage::Busy));
        let kept = Shared::new(KEPT_MAX, FRESH, keeps);
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

impl Server {
    /// A page of a list by its name, from memory if it is there.
    pub async fn list_page<F>(
        &self,
        list: &List,
        name: String,
        read: impl FnOnce(OwnedSemaphorePermit) -> F,
    ) -> Result<Page, Problem>
    where
        F: Future<Output = Result<Page, LedgerError>>,
    {
        let reading = async {
            let wait = list.turn().ok_or(NoPage::Busy)?;
            sleep(wait).await;
            let place = self.place_for_page().map_err(|_| NoPage::Busy)?;
            read(place).await.map_err(|e| {
                let request_id = request_id::current();
                tracing::warn!(request_id, "no list for a second: {e}");
                NoPage::Away
            })
        };
        list.kept.get(&name, None, reading).await.map_err(|no| match no {
            NoPage::Busy => busy(),
            NoPage::Away => {
                let what = "the ledger does not answer; try again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
            }
        })
    }

    pub fn place_for_page(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = self.pages.clone().try_acquire_owned().or_else(|_| {
            self.inventory.forget();
            self.item_list.forget();
            self.pages.clone().try_acquire_owned()
        });
        place.map_err(|_| busy())
    }
}

fn busy() -> Problem {
    let what = "too many lists are being read; try again in a moment";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
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
