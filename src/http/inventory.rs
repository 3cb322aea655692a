//! `GET /inventory`.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::etag;
use super::etag::tagged;
use super::items::{PAGE_MAX, after, in_place};
use super::lists::Page;
use super::problem::{Problem, json_text};
use super::query;
use super::response::Answer;
use super::server::Server;
use crate::core::model::{ItemId, UserId};
use crate::core::ports::ledger::LedgerError;

/// Where everybody may see names, what stands in between may keep the page for all.
const CACHE_CONTROL: [&str; 2] = ["private, max-age=1", "public, max-age=1"];

/// A one-of-a-kind item that is sold.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sold")]
pub(super) struct SoldJson<'a> {
    #[schemars(with = "ItemId")]
    id: &'a str,
    #[schemars(with = "UserId")]
    owner: &'a str,
}

impl Server {
    /// `[{"id","owner"}]` of sold one-of-a-kind items, 1,000 to a page; a Link header with
    /// `rel="next"` names the next page. 304 to those who have it.
    pub async fn inventory(&self, head: &request::Parts) -> Result<Answer, Problem> {
        self.admit_to_names(head)?;
        let after = after(head.uri.query())?.unwrap_or_default();
        let read = |place| self.read_inventory(&after, place);
        let page = self.list_page(&self.inventory, after.clone(), read).await?;
        let mut answer = tagged(json_text(StatusCode::OK, page.text), page.tag, head);
        let headers = answer.headers_mut();
        let kept = CACHE_CONTROL[usize::from(self.names_are_public())];
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
        if let Some(next) = page.next {
            headers.insert(header::LINK, next);
        }
        Ok(answer)
    }

    async fn read_inventory(
        &self,
        after: &str,
        place: OwnedSemaphorePermit,
    ) -> Result<Page, LedgerError> {
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
        Ok(Page { tag: etag::of(&text), text, next })
    }
}
