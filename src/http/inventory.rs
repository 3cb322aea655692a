//! `GET /inventory`: everybody may poll it, so its pages are read from the ledger once a second
//! at most, however many ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::Answer;
use super::items::{PAGE_MAX, after, in_place};
use super::problem::{Problem, json_text};
use super::query;
use super::server::Server;
use super::tag::{self, tagged};
use crate::core::order::{ItemId, UserId};

/// How long a page may be shown.
const FRESH: Duration = Duration::from_secs(1);
/// Where everybody may see names, what stands in between may keep the page for all.
const CACHE_CONTROL: [&str; 2] = ["private, max-age=1", "public, max-age=1"];
/// Pages that are kept; the one that was not asked for longest makes room. They are of
/// [`super::Limits::pages`], and go when there are no more.
const KEPT_MAX: usize = 16;

/// A one-of-a-kind item that is sold.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sold")]
pub(super) struct SoldJson<'a> {
    #[schemars(with = "ItemId")]
    id: &'a str,
    #[schemars(with = "UserId")]
    owner: &'a str,
}

#[derive(Debug, Clone)]
struct Page {
    text: Bytes,
    /// Strong: another text has another.
    tag: HeaderValue,
    next: Option<HeaderValue>,
}

/// A page as it was at some instant; `None` when the ledger could not be read. Locked while it is
/// read, so that one reads for all who ask.
type Slot = tokio::sync::Mutex<Option<(Instant, Option<Page>)>>;

/// The pages by what is `after` in their request, and when they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    kept: Mutex<HashMap<String, (Instant, Arc<Slot>)>>,
}

impl Inventory {
    fn slot(&self, after: &str) -> Arc<Slot> {
        let (mut kept, now) = (self.kept(), Instant::now());
        if let Some((asked, slot)) = kept.get_mut(after) {
            *asked = now;
            return slot.clone();
        }
        if kept.len() >= KEPT_MAX {
            let oldest = kept.iter().min_by_key(|(_, (asked, _))| *asked);
            let oldest = oldest.map(|(after, _)| after.clone());
            oldest.and_then(|after| kept.remove(&after));
        }
        let slot = Arc::new(Slot::default());
        kept.insert(after.to_owned(), (now, slot.clone()));
        slot
    }

    /// Makes room in memory.
    pub fn forget(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<Slot>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// `[{"id","owner"}]` of sold one-of-a-kind items, 1,000 to a page; a Link header with
    /// `rel="next"` names the next page. 304 to those who have it.
    pub async fn inventory(&self, head: &request::Parts) -> Result<Answer, Problem> {
        self.admit_to_names(head)?;
        let after = after(head.uri.query())?.unwrap_or_default();
        let page = self.inventory_page(&after).await?;
        let mut answer = tagged(json_text(StatusCode::OK, page.text), page.tag, head);
        let headers = answer.headers_mut();
        let kept = CACHE_CONTROL[usize::from(self.names_are_public())];
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
        if let Some(next) = page.next {
            headers.insert(header::LINK, next);
        }
        Ok(answer)
    }

    async fn inventory_page(&self, after: &str) -> Result<Page, Problem> {
        let slot = self.inventory.slot(after);
        let mut slot = slot.lock().await;
        if let Some((at, page)) = &*slot
            && at.elapsed() < FRESH
        {
            return page.clone().ok_or_else(|| {
                let what = "the ledger did not answer a moment ago; try again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
            });
        }
        // Makes room for the next.
        *slot = None;
        let place = self.place_for_page()?;
        let read = self.read_inventory(after, place).await;
        *slot = Some((Instant::now(), read.as_ref().ok().cloned()));
        read
    }

    async fn read_inventory(
        &self,
        after: &str,
        place: OwnedSemaphorePermit,
    ) -> Result<Page, Problem> {
        let after = Some(after).filter(|after| !after.is_empty());
        let page = self.api.ports.ledger.inventory(after, PAGE_MAX).await?;
        let rows = page.rows.iter();
        let sold: Vec<_> =
            rows.map(|(id, owner)| SoldJson { id: id.as_str(), owner: owner.as_str() }).collect();
        let text = in_place(place, &sold);
        let next = page.next.map(|next| {
            let next = self.location(format_args!("/inventory?after={}", query::encode(&next)));
            let link = [b"<", next.as_bytes(), b">; rel=\"next\""].concat();
            HeaderValue::try_from(link).expect("a location is visible ASCII")
        });
        Ok(Page { tag: tag::of(&text), text, next })
    }
}
