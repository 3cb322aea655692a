use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::Usage;
use crate::config::Flags;
use crate::core::model::{Item, ItemChange, ItemId, Listing, MAX_STOCK};
use crate::core::ports::ledger::{ItemRemoved, ItemSet, Ledger};
use crate::telemetry::{remark, say};
use crate::wiring;
use crate::wiring::KeyUse;

/// Items read at a time.
const PAGE: usize = 1_000;

/// List items, close their sale, open it again, change their stock, remove them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each item: open, sold_out or closed, and its units
    List {
        /// A line of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// Stop the sale of items at once: whoever still waits is rejected as closed
    Close {
        #[command(flatten)]
        which: ItemArgs,
    },
    /// Go on with the sale of items that were closed
    Open {
        #[command(flatten)]
        which: ItemArgs,
    },
    /// Remove items that have no orders; a stock brings them back
    Remove {
        #[command(flatten)]
        which: ItemArgs,
    },
    /// List an item, or change its stock; a closed one stays closed
    Restock {
        #[arg(value_name = "ID", value_parser = ItemId::parse)]
        item: ItemId,
        /// Units in all; no fewer than are sold and held
        #[arg(long, value_name = "N", allow_negative_numbers = true,
              value_parser = super::whole::<u64, 0, MAX_STOCK>)]
        stock: u64,
    },
}

#[derive(Debug, clap::Args)]
struct ItemArgs {
    #[arg(required = true, value_name = "ID", value_parser = ItemId::parse)]
    items: Vec<ItemId>,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings_of_a_store(flags)?;
    let ledger = wiring::open(&settings, KeyUse::StoreIfMissing).await?.ledger;
    match args.action {
        Action::List { json } => list(&*ledger, json).await?,
        Action::Close { which } => {
            change(&*ledger, &which.items, ItemChange::closed(true)).await?;
        }
        Action::Open { which } => {
            change(&*ledger, &which.items, ItemChange::closed(false)).await?;
        }
        Action::Remove { which } => remove(&*ledger, &which.items).await?,
        Action::Restock { item, stock } => {
            change(&*ledger, &[item], ItemChange::stock(stock)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each item, in the ledger's order, or remarks that there is none; as a line of JSON if asked for.
async fn list(ledger: &dyn Ledger, json: bool) -> Result<()> {
    let mut after: Option<String> = None;
    let mut none = true;
    loop {
        let page = ledger.items(after.as_deref(), PAGE).await?;
        none &= page.rows.is_empty();
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
async fn change(ledger: &dyn Ledger, items: &[ItemId], change: ItemChange) -> Result<()> {
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
async fn remove(ledger: &dyn Ledger, items: &[ItemId]) -> Result<()> {
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
pub(super) fn refusal(item: &ItemId, refused: &ItemSet) -> Usage {
    Usage(match refused {
        ItemSet::BelowTaken(taken) => {
            format!("{taken} units of {item} are sold or held: give a stock of {taken} or more")
        }
        _ => format!(
            "there is no item {item}: list it with `flux provision --item {item} --stock N`"
        ),
    })
}
