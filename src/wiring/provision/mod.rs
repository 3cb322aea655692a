//! What a sale needs: on AWS two queues, three tables and the order key, on both backends items with
//! their stock.
//!
//! Everything here may be run again, and then changes nothing.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "aws")]
pub mod iam;

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::Usage;
use crate::core::model::{ItemId, MAX_STOCK};
use crate::core::ports::ledger::{ItemSet, Ledger};
use crate::telemetry::say;
#[cfg(feature = "aws")]
pub use aws::{Plan, apply, derived_key, destroy};

/// An item as a catalog lists it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    pub item_id: ItemId,
    pub stock: u64,
}

/// Reads a catalog: a JSON array of `{"item_id","stock"}`, no item twice.
pub fn read_catalog(file: &Path) -> Result<Vec<Listing>, Usage> {
    let wrong = |why: String| Usage(format!("catalog {}: {why}", file.display()));
    let example = r#"it must be like [{"item_id":"hall_A","stock":500}]"#;
    let text = std::fs::read_to_string(file).map_err(|e| wrong(format!("{e}; check --catalog")))?;
    let listings: Vec<Listing> =
        serde_json::from_str(&text).map_err(|e| wrong(format!("{e}; {example}")))?;
    let mut items = HashSet::new();
    for listing in &listings {
        let item = &listing.item_id;
        if listing.stock > MAX_STOCK {
            return Err(wrong(format!("{item}: stock must be at most {MAX_STOCK}")));
        }
        if !items.insert(item.clone()) {
            return Err(wrong(format!("{item} is listed twice: keep one of them")));
        }
    }
    Ok(listings)
}

/// Lists items, or raises or lowers their stock; a dry run only says what it would do. Stops at
/// the first that cannot be: those before it are done, and the same again goes on from there.
pub async fn list_items(ledger: &dyn Ledger, items: &[Listing], dry_run: bool) -> Result<()> {
    for Listing { item_id: item, stock } in items {
        let said = if dry_run {
            match ledger.item(item).await?.filter(|item| !item.is_removed()) {
                None => "would be listed".to_owned(),
                Some(now) if now.stock == *stock => "is there already".to_owned(),
                Some(now) => format!("would be changed from {}", now.stock),
            }
        } else {
            match ledger.set_stock(item, *stock).await? {
                ItemSet::Created(_) => "listed".to_owned(),
                ItemSet::Changed(_) => "changed".to_owned(),
                ItemSet::Unchanged(_) => "is there already".to_owned(),
                refused => return Err(super::items::refusal(item, &refused).into()),
            }
        };
        say(format_args!("item {item} with stock {stock} {said}"))?;
    }
    Ok(())
}
