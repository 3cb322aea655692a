//! `GET /inventory`.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::etag;
use super::etag::with_etag;
use super::lists;
use super::lists::{ListPage, PAGE_MAX};
use super::problem::{Problem, json_text};
use super::query;
use super::response::Response;
use super::state::AppState;
use crate::core::model::{ItemId, UserId};
use crate::core::ports::ledger::LedgerError;

/// `PUBLIC` if names are public: then shared caches may store the page.
const PRIVATE: &str = "private, max-age=1";
const PUBLIC: &str = "public, max-age=1";

/// A sold one-of-a-kind item.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sold")]
pub(super) struct SoldJson<'a> {
    #[schemars(with = "ItemId")]
    id: &'a str,
    #[schemars(with = "UserId")]
    owner: &'a str,
}

/// Returns `[{"id","owner"}]` of sold one-of-a-kind items, 1,000 per page. A Link header with
/// `rel="next"` has the next page. 304 if the client has the current page.
pub(super) async fn get(state: &AppState, head: &request::Parts) -> Result<Response, Problem> {
    state.access.admit_to_names(head)?;
    let after = query::after(head.uri.query())?.unwrap_or_default();
    let read = |permit| read_inventory(state, &after, permit);
    let page = state.lists.page(&state.lists.inventory, after.clone(), read).await?;
    let mut response = with_etag(json_text(StatusCode::OK, page.text), page.etag, head);
    let headers = response.headers_mut();
    let cached = if state.access.names_are_public() { PUBLIC } else { PRIVATE };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cached));
    if let Some(next) = page.next {
        headers.insert(header::LINK, next);
    }
    Ok(response)
}

async fn read_inventory(
    state: &AppState,
    after: &str,
    permit: OwnedSemaphorePermit,
) -> Result<ListPage, LedgerError> {
    let after = Some(after).filter(|after| !after.is_empty());
    let page = state.api.ports.ledger.inventory(after, PAGE_MAX).await?;
    let rows = page.rows.iter();
    let sold: Vec<_> =
        rows.map(|(id, owner)| SoldJson { id: id.as_str(), owner: owner.as_str() }).collect();
    let text = lists::page_text(permit, &sold);
    let next = page.next.map(|next| {
        let next = state.access.location(format_args!("/inventory?after={}", query::encode(&next)));
        let link = [b"<", next.as_bytes(), b">; rel=\"next\""].concat();
        HeaderValue::try_from(link).expect("a location is visible ASCII")
    });
    Ok(ListPage { etag: etag::of(&text), text, next })
}
