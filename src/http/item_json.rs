//! An item as the API shows it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::core::model::{Item, ItemId, Listing};

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

impl<'a> From<&'a Item> for ItemJson<'a> {
    fn from(item: &'a Item) -> Self {
        let Item { stock, free, held, sold, .. } = *item;
        let unlisted = item.listing == Listing::Unlisted;
        Self { item_id: &item.id, stock, free, held, sold, status: item.status(), unlisted }
    }
}
