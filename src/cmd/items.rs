use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::UsageError;
use crate::config::Flags;
use crate::core::model::{Item, ItemChange, ItemId, Listing, MAX_STOCK};
use crate::core::ports::ledger::{ItemRemoved, ItemSet, Ledger};
use crate::telemetry::{remark, say};
use crate::wiring;
use crate::wiring::KeyUse;

/// Items in one read of the ledger.
const PAGE_SIZE: usize = 1_000;

/// List items, close or open their sale, change their stock, remove them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each item with its status (open, sold_out or closed) and its units
    List {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Close the sale of items: orders still queued are rejected with the reason closed
    Close {
        #[command(flatten)]
        args: ItemArgs,
    },
    /// Reopen the sale of closed items
    Open {
        #[command(flatten)]
        args: ItemArgs,
    },
    /// Remove items that have no orders; restock lists them again
    Remove {
        #[command(flatten)]
        args: ItemArgs,
    },
    /// Change the stock of an item, or list a new one; a closed item stays closed
    Restock {
        /// Item to change
        #[arg(value_name = "ID", value_parser = ItemId::parse)]
        item: ItemId,
        /// Total number of units, including those sold and held
        #[arg(long, value_name = "N", allow_negative_numbers = true,
              value_parser = super::whole::<u64, 0, MAX_STOCK>)]
        stock: u64,
    },
}

#[derive(Debug, clap::Args)]
struct ItemArgs {
    /// Items to change
    #[arg(required = true, value_name = "ID", value_parser = ItemId::parse)]
    items: Vec<ItemId>,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings_of_a_store(flags)?;
    let ledger = wiring::open(&settings, KeyUse::StoreIfMissing).await?.ledger;
    match args.action {
        Action::List { json } => list(&*ledger, json).await?,
        Action::Close { args } => {
            change(&*ledger, &args.items, ItemChange::closed(true)).await?;
        }
        Action::Open { args } => {
            change(&*ledger, &args.items, ItemChange::closed(false)).await?;
        }
        Action::Remove { args } => remove(&*ledger, &args.items).await?,
        Action::Restock { item, stock } => {
            change(&*ledger, &[item], ItemChange::stock(stock)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each item on one line, in the ledger's order; notes on stderr if there is none.
async fn list(ledger: &dyn Ledger, json: bool) -> Result<()> {
    let mut after: Option<String> = None;
    let mut is_empty = true;
    loop {
        let page = ledger.items(after.as_deref(), PAGE_SIZE).await?;
        is_empty &= page.rows.is_empty();
        for item in &page.rows {
            let Item { id, stock, free, held, sold, .. } = item;
            let status = item.status();
            let unlisted = item.listing == Listing::Unlisted;
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
                let unlisted = if unlisted { "; not listed by anybody" } else { "" };
                say(format_args!(
                    "{id}: {status}; stock {stock}: free {free}, held {held}, sold {sold}{unlisted}"
                ))?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None if is_empty => {
                remark("no items; to list one: flux provision --item ID --stock N");
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// Applies the same change to each item and prints its new state. Stops at the first item that
/// cannot be changed. The change is idempotent, so the command can be repeated.
async fn change(ledger: &dyn Ledger, items: &[ItemId], change: ItemChange) -> Result<()> {
    for id in items {
        let (item, note) = match ledger.set_item(id, change).await? {
            ItemSet::Created(item) => {
                remark(format_args!(
                    "item {id} was not listed before; to undo: flux items remove {id}"
                ));
                (item, ", newly listed")
            }
            ItemSet::Changed(item) => (item, ""),
            ItemSet::Unchanged(item) => (item, " already"),
            refused => return Err(refusal(id, &refused).into()),
        };
        let Item { stock, free, sold, .. } = item;
        let status = item.status();
        say(format_args!("item {id} is {status}{note}; stock {stock}: free {free}, sold {sold}"))?;
    }
    Ok(())
}

/// Removes items that have no orders. Stops at the first that cannot be removed. Idempotent.
async fn remove(ledger: &dyn Ledger, items: &[ItemId]) -> Result<()> {
    for id in items {
        let already = match ledger.remove_item(id).await? {
            ItemRemoved::Removed(_) => "",
            ItemRemoved::Already => " already",
            ItemRemoved::HasOrders => {
                let what = format!("{id} has orders; to close its sale: flux items close {id}");
                return Err(UsageError(what).into());
            }
            ItemRemoved::Unlisted => {
                return Err(UsageError(format!("there is no item {id}")).into());
            }
        };
        say(format_args!("item {id} is removed{already}"))?;
    }
    Ok(())
}

/// The error for an item that was not changed.
pub(super) fn refusal(item: &ItemId, refused: &ItemSet) -> UsageError {
    UsageError(match refused {
        ItemSet::BelowTaken(taken) => {
            format!("{taken} units of {item} are sold or held: give a --stock of {taken} or more")
        }
        _ => format!("there is no item {item}; to list it: flux provision --item {item} --stock N"),
    })
}
