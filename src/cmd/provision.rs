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
use crate::wiring::{KeyUse, UsageError, in_use};

/// Create what a sale needs: tables, queues, items
///
/// Safe to repeat: existing tables, queues and items are kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List this item, or change its stock
    #[arg(long, value_name = "ID", value_parser = ItemId::parse, requires = "stock",
          conflicts_with = "catalog")]
    item: Option<ItemId>,
    /// Total number of units of --item, including those sold and held
    #[arg(long, value_name = "N", requires = "item", allow_negative_numbers = true,
          value_parser = super::whole::<u64, 0, MAX_STOCK>)]
    stock: Option<u64>,
    /// List all items in a JSON file: [{"item_id":"hall_A","stock":500}, ...]
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Name of the SQS queue, FIFO if it ends in .fifo [default: from SQS_QUEUE_URL, or flux-orders]
    #[arg(long, value_name = "NAME", value_parser = queue_name)]
    queue: Option<String>,
    /// Orders per second for which to warm up the DynamoDB table
    #[arg(long, value_name = "RATE", allow_negative_numbers = true,
          value_parser = super::whole::<u32, 1, 1_000_000>)]
    expect: Option<u32>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete queues and tables, or the embedded store, with all data
    #[arg(long, conflicts_with_all = ["item", "catalog", "print", "expect"])]
    destroy: bool,
    /// Confirm --destroy
    #[arg(long, requires = "destroy")]
    yes: bool,
    /// Delete even if processes use the queues, tables or store
    #[arg(long, requires = "destroy")]
    force: bool,
    /// Print something and change nothing: iam, the least-privilege IAM policy of each command
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
        let what = "--destroy deletes all orders and decisions: add --yes, or --dry-run to preview";
        return Err(UsageError(what.to_owned()).into());
    }
    if args.destroy && !args.dry_run && args.print.is_none() {
        check_unused(&args, &settings).await?;
    }
    match (args.print, settings.backend()) {
        (Some(Print::Iam), _) => aws::print_iam(&args, &settings).await?,
        (None, Backend::Aws) => aws::on_aws(args, settings).await?,
        (None, Backend::Embedded) => on_embedded(args, settings).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn items(&self) -> Result<Vec<CatalogItem>, UsageError> {
        match (&self.item, self.stock, &self.catalog) {
            (Some(item), Some(stock), _) => Ok(vec![CatalogItem { item_id: item.clone(), stock }]),
            (_, _, Some(file)) => read_catalog(file),
            _ => Ok(Vec::new()),
        }
    }
}

/// SQS allows 80 characters (Amazon SQS Developer Guide, "Queue quotas"). The longest name that
/// flux derives from a queue's ends in `-webhooks-dlq`.
const QUEUE_NAME_MAX: usize = 80 - "-webhooks-dlq".len();

fn queue_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix(".fifo").unwrap_or(text);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > QUEUE_NAME_MAX || !name.chars().all(is_allowed) {
        let characters = "characters of A-Z a-z 0-9 - _, optionally followed by .fifo";
        return Err(format!("must be 1-{QUEUE_NAME_MAX} {characters}"));
    }
    Ok(text.to_owned())
}

/// Fails if processes use what `--destroy` deletes; with `--force`, warns.
async fn check_unused(args: &Args, settings: &Settings) -> Result<(), UsageError> {
    if settings.backend() == Backend::Embedded && !settings.data.exists() {
        return Ok(());
    }
    if !args.force {
        return in_use::refuse(settings, "; or add --force").await;
    }
    match in_use::processes(settings).await {
        Ok(processes) if processes.is_empty() => {}
        Ok(processes) => {
            tracing::warn!("deleting although in use by {}", in_use::named(&processes));
        }
        Err(error) => tracing::warn!("deleting without a check for processes in use: {error}"),
    }
    Ok(())
}

/// Prints the items that a dry run would list in a store that does not exist yet.
fn print_planned(items: &[CatalogItem]) -> Result<()> {
    for CatalogItem { item_id, stock } in items {
        say(format_args!("item {item_id} with stock {stock} would be listed"))?;
    }
    Ok(())
}

async fn on_embedded(args: Args, settings: Settings) -> Result<()> {
    let items = args.items()?;
    let file = settings.data.display();
    if args.queue.is_some() || args.expect.is_some() {
        let what = "--queue and --expect need AWS: add --backend aws";
        return Err(UsageError(what.to_owned()).into());
    }
    let exists = settings.data.exists();
    match (exists, args.destroy, args.dry_run) {
        (false, true, _) => say(format_args!("{file} does not exist"))?,
        (true, true, true) => {
            say(format_args!("{file} would be deleted with all data"))?;
        }
        (true, true, false) => {
            wiring::backup::delete(&settings, args.force).await?;
            say(format_args!("{file} deleted"))?;
        }
        (false, false, true) => {
            say(format_args!("{file} would be created"))?;
            print_planned(&items)?;
        }
        (_, false, dry_run) => {
            let ports = wiring::open(&settings, KeyUse::StoreIfMissing).await?;
            say(format_args!("{file} {}", if exists { "already exists" } else { "created" }))?;
            list_items(&*ports.ledger, &items, dry_run).await?;
        }
    }
    Ok(())
}

/// An entry of a catalog file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogItem {
    item_id: ItemId,
    stock: u64,
}

/// Reads a catalog: a JSON array of `{"item_id","stock"}`, each item once.
fn read_catalog(file: &Path) -> Result<Vec<CatalogItem>, UsageError> {
    let error = |why: String| UsageError(format!("catalog {}: {why}", file.display()));
    let example = r#"expected [{"item_id":"hall_A","stock":500}]"#;
    let text = std::fs::read_to_string(file).map_err(|e| error(format!("{e}; check --catalog")))?;
    let items: Vec<CatalogItem> =
        serde_json::from_str(&text).map_err(|e| error(format!("{e}; {example}")))?;
    let mut ids = HashSet::new();
    for CatalogItem { item_id: item, stock } in &items {
        if *stock > MAX_STOCK {
            return Err(error(format!("{item}: stock must be at most {MAX_STOCK}")));
        }
        if !ids.insert(item.clone()) {
            return Err(error(format!("{item} is listed twice: keep one of them")));
        }
    }
    Ok(items)
}

/// Lists items, or changes their stock; a dry run only prints what would be done. Stops at the
/// first item that cannot be changed. Idempotent, so the command can be repeated.
async fn list_items(ledger: &dyn Ledger, items: &[CatalogItem], dry_run: bool) -> Result<()> {
    for CatalogItem { item_id: item, stock } in items {
        let result = if dry_run {
            match ledger.item(item).await?.filter(|item| !item.is_removed()) {
                None => "would be listed".to_owned(),
                Some(now) if now.stock == *stock => "is already listed".to_owned(),
                Some(now) => format!("would be changed from {}", now.stock),
            }
        } else {
            match ledger.set_stock(item, *stock).await? {
                ItemSet::Created(_) => "listed".to_owned(),
                ItemSet::Changed(_) => "changed".to_owned(),
                ItemSet::Unchanged(_) => "is already listed".to_owned(),
                refused => return Err(super::items::refusal(item, &refused).into()),
            }
        };
        say(format_args!("item {item} with stock {stock} {result}"))?;
    }
    Ok(())
}
