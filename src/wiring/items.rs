//! What an organiser does to items from the command line, in words for a person.

use anyhow::Result;

use super::Usage;
use crate::core::model::{Item, ItemChange, ItemId, Listing};
use crate::core::ports::ledger::{ItemRemoved, ItemSet, Ledger};
use crate::telemetry::{remark, say};

/// Items read at a time.
const PAGE: usize = 1_000;

/// Prints each item, in the ledger's order, or remarks that there is none; as a line of JSON if asked for.
pub async fn list(ledger: &dyn Ledger, json: bool) -> Result<()> {
    let mut after: Option<String> = None;
    let mut none = true;
    loop {
        let page = ledger.items(after.as_deref(), PAGE).await?;
        none &= page.rows.is_empty();
        for item in &page.rows {
            let Item { id, stock, free, held, sold, .. } = item;
            let (status, unlisted) = (item.status(), item.listing == Listing::Unlisted);
            if json {
                let mut line = serde_json::json!({
                    "item_id": id, "stock": stock, "free": free, "held": held, "sold": sold,
                    "status": status,
                });
                if unlisted {
                    line["unlisted"] = true.into();
                }
                say(line)?;
            } else {
                let unlisted = if unlisted { "; nobody listed it" } else { "" };
                say(format_args!(
                    "{id}: {status}; stock {stock}: free {free}, held {held}, sold {sold}{unlisted}"
                ))?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None if none => {
                remark("no items: list one with `flux provision --item ID --stock N`");
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// Changes items alike, and says how each is then. Stops at the first that cannot be changed:
/// those before it are done, and the same again goes on from there.
pub async fn change(ledger: &dyn Ledger, items: &[ItemId], change: ItemChange) -> Result<()> {
    for id in items {
        let (item, how) = match ledger.set_item(id, change).await? {
            ItemSet::Created(item) => {
                remark(format_args!(
                    "item {id} was not listed before; to take it back: flux items remove {id}"
                ));
                (item, ", newly listed")
            }
            ItemSet::Changed(item) => (item, ""),
            ItemSet::Unchanged(item) => (item, " already"),
            refused => return Err(refusal(id, &refused).into()),
        };
        let Item { stock, free, sold, .. } = item;
        let status = item.status();
        say(format_args!("item {id} is {status}{how}; stock {stock}: free {free}, sold {sold}"))?;
    }
    Ok(())
}

/// Removes items without orders, and stops at the first that cannot be removed: those before it are
/// gone, and the same again goes on from there.
pub async fn remove(ledger: &dyn Ledger, items: &[ItemId]) -> Result<()> {
    for id in items {
        let already = match ledger.remove_item(id).await? {
            ItemRemoved::Removed(_) => "",
            ItemRemoved::Already => " already",
            ItemRemoved::HasOrders => {
                let what = format!("{id} has orders: close its sale with `flux items close {id}`");
                return Err(Usage(what).into());
            }
            ItemRemoved::Unlisted => return Err(Usage(format!("there is no item {id}")).into()),
        };
        say(format_args!("item {id} is removed{already}"))?;
    }
    Ok(())
}

/// Why an item was not changed, and what to do.
pub fn refusal(item: &ItemId, refused: &ItemSet) -> Usage {
    Usage(match refused {
        ItemSet::BelowTaken(taken) => {
            format!("{taken} units of {item} are sold or held: give a stock of {taken} or more")
        }
        _ => format!(
            "there is no item {item}: list it with `flux provision --item {item} --stock N`"
        ),
    })
}
