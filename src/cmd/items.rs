use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::config::Flags;
use crate::core::model::{ItemChange, ItemId, MAX_STOCK};
use crate::wiring;
use crate::wiring::{KeyUse, items};

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
        which: WhichArgs,
    },
    /// Go on with the sale of items that were closed
    Open {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Remove items that have no orders; a stock brings them back
    Remove {
        #[command(flatten)]
        which: WhichArgs,
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
struct WhichArgs {
    #[arg(required = true, value_name = "ID", value_parser = ItemId::parse)]
    items: Vec<ItemId>,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings_of_a_store(flags)?;
    let ledger = wiring::open(&settings, KeyUse::Settle).await?.ledger;
    match args.action {
        Action::List { json } => items::list(&*ledger, json).await?,
        Action::Close { which } => {
            items::change(&*ledger, &which.items, ItemChange::closed(true)).await?;
        }
        Action::Open { which } => {
            items::change(&*ledger, &which.items, ItemChange::closed(false)).await?;
        }
        Action::Remove { which } => items::remove(&*ledger, &which.items).await?,
        Action::Restock { item, stock } => {
            items::change(&*ledger, &[item], ItemChange::stock(stock)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
