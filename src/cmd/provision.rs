#[cfg_attr(not(feature = "aws"), path = "provision/no_aws.rs")]
mod aws;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde::Deserialize;

use crate::config::{Backend, Flags, Settings};
use crate::core::model::{ItemId, MAX_STOCK};
use crate::core::ports::ledger::{ItemSet, Ledger};
use crate::telemetry::say;
use crate::wiring;
use crate::wiring::{KeyUse, Usage, in_use};

/// Make what a sale needs: tables, queues, items; safe to run twice
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List an item, or change its stock
    #[arg(long, value_name = "ID", value_parser = ItemId::parse, requires = "stock",
          conflicts_with = "catalog")]
    item: Option<ItemId>,
    /// Units of the item; no fewer than are sold and held
    #[arg(long, value_name = "N", requires = "item", allow_negative_numbers = true,
          value_parser = super::whole::<u64, 0, MAX_STOCK>)]
    stock: Option<u64>,
    /// List the items of a file: [{"item_id":"hall_A","stock":500}, ...]
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// The queue's name, FIFO if it ends in .fifo [default: SQS_QUEUE_URL's, else flux-orders]
    #[arg(long, value_name = "NAME", value_parser = queue_name)]
    queue: Option<String>,
    /// Orders a second that the table must take from the start
    #[arg(long, value_name = "RATE", allow_negative_numbers = true,
          value_parser = super::whole::<u32, 1, 1_000_000>)]
    expect: Option<u32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Delete queues and tables, or the embedded store, and all that is in them
    #[arg(long, conflicts_with_all = ["item", "catalog", "print", "expect"])]
    destroy: bool,
    /// Confirm --destroy
    #[arg(long, requires = "destroy")]
    yes: bool,
    /// Delete even what processes are using
    #[arg(long, requires = "destroy")]
    force: bool,
    /// Do nothing but print: iam, the least-privilege policy of each command
    #[arg(long, value_name = "iam", hide_possible_values = true,
          conflicts_with_all = ["item", "catalog", "dry_run"])]
    print: Option<Print>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Print {
    Iam,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    if args.destroy && !args.yes && !args.dry_run {
        let what = "--destroy deletes all orders and decisions: add --yes, or --dry-run to see";
        return Err(Usage(what.to_owned()).into());
    }
    if args.destroy && !args.dry_run && args.print.is_none() {
        spare_the_living(&args, &settings).await?;
    }
    match (args.print, settings.backend()) {
        (Some(Print::Iam), _) => aws::print_iam(&args, &settings).await?,
        (None, Backend::Aws) => aws::on_aws(args, settings).await?,
        (None, Backend::Embedded) => on_this_machine(args, settings).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn items(&self) -> Result<Vec<CatalogItem>, Usage> {
        match (&self.item, self.stock, &self.catalog) {
            (Some(item), Some(stock), _) => Ok(vec![CatalogItem { item_id: item.clone(), stock }]),
            (_, _, Some(file)) => read_catalog(file),
            _ => Ok(Vec::new()),
        }
    }
}

/// A name that SQS takes, with room for `-webhooks-dlq` (Amazon SQS Developer Guide, "Queue
/// quotas": 80 characters).
fn queue_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix(".fifo").unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 67 || !name.chars().all(fits) {
        let what = "must be 1-67 characters out of A-Z a-z 0-9 - _, and may end in .fifo";
        return Err(what.to_owned());
    }
    Ok(text.to_owned())
}

/// Before what is there is deleted: refuses if processes use it, unless forced.
async fn spare_the_living(args: &Args, settings: &Settings) -> Result<(), Usage> {
    if settings.backend() == Backend::Embedded && !settings.data.exists() {
        return Ok(());
    }
    if !args.force {
        return in_use::refuse(settings, "; or add --force").await;
    }
    match in_use::processes(settings).await {
        Ok(living) if living.is_empty() => {}
        Ok(living) => tracing::warn!("deleting what is in use by {}", in_use::named(&living)),
        Err(why) => tracing::warn!("deleting, although {why}"),
    }
    Ok(())
}

/// What a dry run says of items where there is no ledger yet.
fn announce(items: &[CatalogItem]) -> Result<()> {
    for CatalogItem { item_id, stock } in items {
        say(format_args!("item {item_id} with stock {stock} would be listed"))?;
    }
    Ok(())
}

async fn on_this_machine(args: Args, settings: Settings) -> Result<()> {
    let items = args.items()?;
    let file = settings.data.display();
    if args.queue.is_some() || args.expect.is_some() {
        let what = "--queue and --expect are for AWS: add --backend aws";
        return Err(Usage(what.to_owned()).into());
    }
    let there = settings.data.exists();
    match (there, args.destroy, args.dry_run) {
        (false, true, _) => say(format_args!("{file} is not there"))?,
        (true, true, true) => {
            say(format_args!("{file} would be deleted with all that is in it"))?;
        }
        (true, true, false) => {
            wiring::backup::delete(&settings, args.force).await?;
            say(format_args!("{file} deleted"))?;
        }
        (false, false, true) => {
            say(format_args!("{file} would be made"))?;
            announce(&items)?;
        }
        (_, false, dry_run) => {
            let ports = wiring::open(&settings, KeyUse::StoreIfMissing).await?;
            say(format_args!("{file} {}", if there { "is there already" } else { "made" }))?;
            list_items(&*ports.ledger, &items, dry_run).await?;
        }
    }
    Ok(())
}

/// An item as a catalog lists it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogItem {
    item_id: ItemId,
    stock: u64,
}

/// Reads a catalog: a JSON array of `{"item_id","stock"}`, no item twice.
fn read_catalog(file: &Path) -> Result<Vec<CatalogItem>, Usage> {
    let wrong = |why: String| Usage(format!("catalog {}: {why}", file.display()));
    let example = r#"it must be like [{"item_id":"hall_A","stock":500}]"#;
    let text = std::fs::read_to_string(file).map_err(|e| wrong(format!("{e}; check --catalog")))?;
    let listed: Vec<CatalogItem> =
        serde_json::from_str(&text).map_err(|e| wrong(format!("{e}; {example}")))?;
    let mut seen = HashSet::new();
    for CatalogItem { item_id: item, stock } in &listed {
        if *stock > MAX_STOCK {
            return Err(wrong(format!("{item}: stock must be at most {MAX_STOCK}")));
        }
        if !seen.insert(item.clone()) {
            return Err(wrong(format!("{item} is listed twice: keep one of them")));
        }
    }
    Ok(listed)
}

/// Lists items, or raises or lowers their stock; a dry run only says what it would do. Stops at
/// the first that cannot be: those before it are done, and the same again goes on from there.
async fn list_items(ledger: &dyn Ledger, items: &[CatalogItem], dry_run: bool) -> Result<()> {
    for CatalogItem { item_id: item, stock } in items {
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
