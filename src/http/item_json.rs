//! An item in API responses.

use schemars::JsonSchema;
use serde::Serialize;

use crate::core::model::{Item, ItemId, Listing};

/// An item. `free + held + sold = stock` always holds.
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
    /// True if an order created the item and it was never listed; otherwise absent.
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
