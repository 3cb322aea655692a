//! `/items` and `/items/ID`.

use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::request;
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::body::RequestBody;
use super::etag;
use super::lists;
use super::problem::{Problem, json, json_text, lined};
use super::query;
use super::response::{Answer, AnswerBody};
use super::server::Server;
use super::shared::Shared;
use crate::core::model::{Item, ItemChange, ItemId, Listing, MAX_STOCK};
use crate::core::ports::ledger::{ItemRemoved, ItemSet, LedgerError};

const ITEMS_PAGE: usize = 100;
pub(super) const PAGE_MAX: usize = 1_000;
/// What changes an item.
const CHANGE: &str = r#"{"stock":N}, {"status":"open"|"closed"} or both"#;

/// Single items that were looked at lately, and for how long one look is shown: for a moment only,
/// because a buyer looks before and after buying.
pub(super) type ItemLooks = Shared<ItemId, Result<Option<Item>, LedgerError>>;
const ITEM_LOOKS_MAX: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
const ITEM_FRESH: Duration = Duration::from_millis(100);

pub(super) fn item_looks() -> ItemLooks {
    // An item that is missing may be listed the next moment, in any process.
    Shared::new(ITEM_LOOKS_MAX, ITEM_FRESH, |look| !matches!(look, Ok(None)))
}

/// A page's text, which keeps its place among [`super::Limits::pages`] for as long as it is in memory.
struct Page {
    text: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// `free + held + sold = stock`, always.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Item")]
pub(super) struct ItemJson<'a> {
    item_id: &'a ItemId,
    stock: u64,
    free: u64,
    held: u64,
    sold: u64,
    #[schemars(extend("enum" = ["open", "sold_out", "closed"]))]
    status: &'static str,
    /// True where an order made the item, and nobody listed it; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("const" = true))]
    unlisted: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Items")]
pub(super) struct ItemsJson<'a> {
    items: Vec<ItemJson<'a>>,
    /// What `after` is to be for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next: Option<String>,
}

/// What is to change; what is left out stays as it is.
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

impl Server {
    /// The admin sees what is there; others may see what was there within the last second.
    pub async fn items(&self, head: &request::Parts) -> Result<Answer, Problem> {
        let query = head.uri.query();
        let after = after(query)?;
        let limit = query::limit(query, ITEMS_PAGE, PAGE_MAX)?;
        let page = if self.is_admin(head) {
            self.read_items(after.as_deref(), limit, self.place_for_page()?).await?
        } else {
            let name = format!("{limit} {}", after.as_deref().unwrap_or_default());
            let read = |place| self.read_items(after.as_deref(), limit, place);
            self.list_page(&self.item_list, name, read).await?
        };
        Ok(json_text(StatusCode::OK, page.text))
    }

    async fn read_items(
        &self,
        after: Option<&str>,
        limit: usize,
        place: OwnedSemaphorePermit,
    ) -> Result<lists::Page, LedgerError> {
        let page = self.api.ports.ledger.items(after, limit).await?;
        let items = page.rows.iter().map(shown).collect();
        let text = in_place(place, &ItemsJson { items, next: page.next });
        Ok(lists::Page { tag: etag::of(&text), text, next: None })
    }

    pub async fn item(&self, id: &str, head: &request::Parts) -> Result<Answer, Problem> {
        let id = ItemId::parse(id).map_err(|e| Problem::not_found(e.0))?;
        let read = self.api.ports.ledger.item(&id);
        let item = match self.is_admin(head) {
            true => read.await,
            false => self.item_looks.get(&id, None, read).await,
        };
        let item = item?.filter(|item| !item.is_removed());
        let item = item.ok_or_else(|| Problem::not_found("there is no such item"))?;
        Ok(json(StatusCode::OK, &shown(&item)))
    }

    /// Whoever asks from now on sees the items as they are written by now.
    fn forget_items(&self) {
        self.item_list.forget();
        self.item_looks.forget();
    }

    /// Creates the item, sets its stock, which goes no lower than what is held and sold, closes its
    /// sale or opens it again. Once that is answered, nothing more is sold by how it was before.
    pub async fn put_item(
        &self,
        id: &str,
        head: &request::Parts,
        body: &mut RequestBody,
    ) -> Result<Answer, Problem> {
        self.admit_admin(head)?;
        let id = ItemId::parse(id)?;
        self.expect_json(head)?;
        let bytes = body.read().await?;
        // serde would read a list of the fields' values too.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(Problem::bad_request(format!("the body is not {CHANGE} but a list")));
        }
        let change = serde_json::from_slice(&bytes)
            .map_err(|e| Problem::bad_request(format!("the body is not {CHANGE}: {e}")))?;
        let set = self.api.ports.ledger.set_item(&id, checked(change)?).await;
        // A write that was not answered may have been made.
        self.forget_items();
        let (status, item) = match set? {
            ItemSet::Created(item) => (StatusCode::CREATED, item),
            ItemSet::Changed(item) | ItemSet::Unchanged(item) => (StatusCode::OK, item),
            ItemSet::BelowTaken(taken) => {
                let detail = format!("{taken} units are held or sold: stock cannot be below that");
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            ItemSet::Unlisted => {
                let detail = "there is no such item: give its stock too, to list it";
                return Err(Problem::not_found(detail));
            }
        };
        if item.listing == Listing::Listed {
            self.known.list(&id);
        }
        Ok(json(status, &shown(&item)))
    }

    /// Takes an item without orders out of the sale. Idempotent.
    pub async fn remove_item(&self, id: &str, head: &request::Parts) -> Result<Answer, Problem> {
        self.admit_admin(head)?;
        let id = ItemId::parse(id)?;
        let removed = self.api.ports.ledger.remove_item(&id).await;
        // A write that was not answered may have been made.
        self.forget_items();
        match removed? {
            ItemRemoved::Removed(_) | ItemRemoved::Already => {}
            ItemRemoved::HasOrders => {
                let detail = "an item that has orders stays: close its sale instead";
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            ItemRemoved::Unlisted => return Err(Problem::not_found("there is no such item")),
        }
        self.known.forget(&id);
        let mut answer = Response::new(AnswerBody::whole(""));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    }
}

fn checked(change: ChangeJson) -> Result<ItemChange, Problem> {
    match change {
        ChangeJson { stock: None, status: None } => {
            Err(Problem::bad_request(format!("there is nothing to change: send {CHANGE}")))
        }
        ChangeJson { stock: Some(stock), .. } if stock > MAX_STOCK => {
            Err(Problem::bad_request(format!("stock must be at most {MAX_STOCK}")))
        }
        ChangeJson { stock, status } => {
            Ok(ItemChange { stock, closed: status.map(|status| status == SaleJson::Closed) })
        }
    }
}

pub(super) fn in_place(place: OwnedSemaphorePermit, page: &impl Serialize) -> Bytes {
    Bytes::from_owner(Page { text: lined(page), _place: place })
}

pub(super) fn after(query: Option<&str>) -> Result<Option<String>, Problem> {
    match query::value(query, "after") {
        None => Ok(None),
        Some(Some(after)) => Ok(Some(after.into_owned())),
        Some(None) => Err(Problem::bad_request("after must be percent-encoded UTF-8")),
    }
}

pub(super) fn shown(item: &Item) -> ItemJson<'_> {
    let Item { stock, free, held, sold, .. } = *item;
    let unlisted = item.listing == Listing::Unlisted;
    ItemJson { item_id: &item.id, stock, free, held, sold, status: item.status(), unlisted }
}
