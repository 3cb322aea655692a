//! `/items` and `/items/ID`.

use hyper::StatusCode;
use hyper::http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::access;
use super::body;
use super::body::RequestBody;
use super::etag;
use super::item_json::ItemJson;
use super::lists;
use super::lists::{ListPage, PAGE_MAX};
use super::problem::{Problem, json, json_text};
use super::query;
use super::response;
use super::response::Response;
use super::state::AppState;
use crate::core::model::{ItemChange, ItemId, Listing, MAX_STOCK};
use crate::core::ports::ledger::{ItemRemoved, ItemSet, LedgerError};

const ITEMS_PAGE: usize = 100;
/// The accepted bodies of `PUT /items/ID`.
const CHANGE: &str = r#"{"stock":N}, {"status":"open"|"closed"} or both"#;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Items")]
pub(super) struct ItemsJson<'a> {
    items: Vec<ItemJson<'a>>,
    /// Value of `after` for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next: Option<String>,
}

/// The change of an item; fields that are left out stay unchanged.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ItemChange", extend("anyOf" = [
    {"required": ["stock"], "properties": {"stock": {"type": "integer"}}},
    {"required": ["status"], "properties": {"status": {"type": "string"}}},
]))]
pub(super) struct ChangeJson {
    #[schemars(range(max = 1_000_000_000_000_u64))]
    stock: Option<u64>,
    status: Option<SaleJson>,
}

#[derive(Deserialize, PartialEq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum SaleJson {
    Open,
    Closed,
}

/// Requests with the admin key read the ledger. Other responses may be a second old.
pub(super) async fn list(state: &AppState, head: &request::Parts) -> Result<Response, Problem> {
    let query = head.uri.query();
    let after = query::after(query)?;
    let limit = query::limit(query, ITEMS_PAGE, PAGE_MAX)?;
    let page = if access::is_admin(head) {
        read_items(state, after.as_deref(), limit, state.lists.permit()?).await?
    } else {
        let key = format!("{limit} {}", after.as_deref().unwrap_or_default());
        let read = |permit| read_items(state, after.as_deref(), limit, permit);
        state.lists.page(&state.lists.items, key, read).await?
    };
    Ok(json_text(StatusCode::OK, page.text))
}

async fn read_items(
    state: &AppState,
    after: Option<&str>,
    limit: usize,
    permit: OwnedSemaphorePermit,
) -> Result<ListPage, LedgerError> {
    let page = state.api.ports.ledger.items(after, limit).await?;
    let items = page.rows.iter().map(ItemJson::from).collect();
    let text = lists::page_text(permit, &ItemsJson { items, next: page.next });
    Ok(ListPage { etag: etag::of(&text), text, next: None })
}

pub(super) async fn get(
    state: &AppState,
    id: &str,
    head: &request::Parts,
) -> Result<Response, Problem> {
    let id = ItemId::parse(id).map_err(|e| Problem::not_found(e.0))?;
    let read = state.api.ports.ledger.item(&id);
    let item = match access::is_admin(head) {
        true => read.await,
        false => state.item_reads.get(&id, None, read).await,
    };
    let item = item?.filter(|item| !item.is_removed());
    let item = item.ok_or_else(|| Problem::not_found("item not found"))?;
    Ok(json(StatusCode::OK, &ItemJson::from(&item)))
}

/// Discards cached reads, so that later requests see what is committed now.
fn clear_cached_reads(state: &AppState) {
    state.lists.items.clear();
    state.item_reads.clear();
}

/// Creates an item, sets its stock, or closes or reopens its sale. Stock below the held and sold
/// units is refused. After the response no order is decided by the previous state.
pub(super) async fn put(
    state: &AppState,
    id: &str,
    head: &request::Parts,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    state.access.admit_admin(head)?;
    let id = ItemId::parse(id)?;
    body::expect_json(head, &state.access)?;
    let bytes = body.read().await?;
    // serde also accepts a list of the field values in place of an object.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request(format!("the body is not {CHANGE} but a list")));
    }
    let change = serde_json::from_slice(&bytes)
        .map_err(|e| Problem::bad_request(format!("the body is not {CHANGE}: {e}")))?;
    let set = state.api.ports.ledger.set_item(&id, checked(change)?).await;
    // A write without an answer may have been applied.
    clear_cached_reads(state);
    let (status, item) = match set? {
        ItemSet::Created(item) => (StatusCode::CREATED, item),
        ItemSet::Changed(item) | ItemSet::Unchanged(item) => (StatusCode::OK, item),
        ItemSet::BelowTaken(taken) => {
            let detail = format!("{taken} units are held or sold: stock cannot be below that");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        ItemSet::Unlisted => {
            let detail = "item not found: to list it, send its stock too";
            return Err(Problem::not_found(detail));
        }
    };
    if item.listing == Listing::Listed {
        state.item_cache.list(&id);
    }
    Ok(json(status, &ItemJson::from(&item)))
}

/// Removes an item that has no orders. Idempotent.
pub(super) async fn remove(
    state: &AppState,
    id: &str,
    head: &request::Parts,
) -> Result<Response, Problem> {
    state.access.admit_admin(head)?;
    let id = ItemId::parse(id)?;
    let removed = state.api.ports.ledger.remove_item(&id).await;
    // A write without an answer may have been applied.
    clear_cached_reads(state);
    match removed? {
        ItemRemoved::Removed(_) | ItemRemoved::Already => {}
        ItemRemoved::HasOrders => {
            let detail = "an item with orders cannot be removed; close its sale instead";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        ItemRemoved::Unlisted => return Err(Problem::not_found("item not found")),
    }
    state.item_cache.forget(&id);
    Ok(response::empty(StatusCode::NO_CONTENT))
}

fn checked(change: ChangeJson) -> Result<ItemChange, Problem> {
    match change {
        ChangeJson { stock: None, status: None } => {
            Err(Problem::bad_request(format!("nothing to change: send {CHANGE}")))
        }
        ChangeJson { stock: Some(stock), .. } if stock > MAX_STOCK => {
            Err(Problem::bad_request(format!("stock must be at most {MAX_STOCK}")))
        }
        ChangeJson { stock, status } => {
            Ok(ItemChange { stock, closed: status.map(|status| status == SaleJson::Closed) })
        }
    }
}
