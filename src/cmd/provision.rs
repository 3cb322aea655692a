use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;

use crate::config::{Backend, Flags, Settings};
use crate::core::calls::Calls;
use crate::core::ledger::Ledger;
use crate::core::order::{ItemId, MAX_STOCK};
use crate::wiring::provision::{Listing, Plan, apply, destroy, iam, list_items, read_catalog};
use crate::wiring::{self, Usage};

/// Create or bring up to date tables, queues and items; running it twice changes nothing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List an item, or change its stock
    #[arg(long, value_name = "ID", value_parser = ItemId::parse, requires = "stock",
          conflicts_with = "catalog")]
    item: Option<ItemId>,
    /// Units of the item; no fewer than are sold and held
    #[arg(long, value_name = "N", requires = "item",
          value_parser = clap::value_parser!(u64).range(0..=MAX_STOCK))]
    stock: Option<u64>,
    /// List the items of a JSON file: [{"item_id":"hall_A","stock":500}, ...]
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// The queue's name; .fifo at its end makes it FIFO [default: as in SQS_QUEUE_URL, else flux-orders]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Orders a second that the table must take from the start
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    expect: Option<u32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Delete queues and tables, or the embedded store, with all that is in them
    #[arg(long, conflicts_with_all = ["item", "catalog", "print", "expect"])]
    destroy: bool,
    /// Really
    #[arg(long, requires = "destroy")]
    yes: bool,
    /// Print something in place of doing anything
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["item", "catalog", "dry_run"])]
    print: Option<Print>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Print {
    /// The least-privilege IAM policies of serve, work and provision
    Iam,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    if args.destroy && !args.yes && !args.dry_run {
        let what = "--destroy deletes all orders and decisions: add --yes, or --dry-run to see";
        return Err(Usage(what.to_owned()).into());
    }
    match (args.print, settings.backend()) {
        (Some(Print::Iam), _) => print_iam(&args, &settings).await?,
        (None, Backend::Aws) => on_aws(args, settings).await?,
        (None, Backend::Embedded) => on_this_machine(args, settings).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn plan(&self, settings: &Settings) -> Plan {
        Plan::new(settings, self.queue.clone(), self.expect)
    }

    fn items(&self) -> Result<Vec<Listing>, Usage> {
        match (&self.item, self.stock, &self.catalog) {
            (Some(item), Some(stock), _) => Ok(vec![Listing { item_id: item.clone(), stock }]),
            (_, _, Some(file)) => read_catalog(file),
            _ => Ok(Vec::new()),
        }
    }
}

async fn print_iam(args: &Args, settings: &Settings) -> Result<()> {
    let aws = wiring::aws::load(settings, Arc::new(Calls::default())).await?;
    let policies = iam::policies(&args.plan(settings), aws.region());
    println!("{}", serde_json::to_string_pretty(&policies)?);
    Ok(())
}

/// What a dry run says of items where there is no ledger yet.
fn announce(items: &[Listing]) {
    for Listing { item_id, stock } in items {
        println!("item {item_id} with stock {stock} would be listed");
    }
}

async fn on_aws(args: Args, settings: Settings) -> Result<()> {
    let (plan, items) = (args.plan(&settings), args.items()?);
    let aws = wiring::aws::load(&settings, Arc::new(Calls::default())).await?;
    if args.destroy {
        let lines = destroy(&aws, &plan, args.dry_run).await.map_err(anyhow::Error::msg)?;
        lines.iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    let made = apply(&aws, &plan, args.dry_run).await.map_err(anyhow::Error::msg)?;
    made.lines.iter().for_each(|line| println!("{line}"));
    let ledger = wiring::aws::ledger(&aws, &settings);
    if args.dry_run && ledger.check().await.is_err() {
        announce(&items);
    } else {
        list_items(&ledger, &items, args.dry_run).await?;
    }
    println!("# the environment to use it:");
    made.environment.iter().for_each(|(name, value)| println!("{name}={value}"));
    Ok(())
}

async fn on_this_machine(args: Args, settings: Settings) -> Result<()> {
    let (items, file) = (args.items()?, settings.data.display());
    if args.queue.is_some() || args.expect.is_some() {
        let what = "--queue and --expect are for AWS: add --backend aws";
        return Err(Usage(what.to_owned()).into());
    }
    let there = settings.data.exists();
    match (there, args.destroy, args.dry_run) {
        (false, true, _) => println!("{file} is not there"),
        (true, true, true) => println!("{file} would be deleted with all that is in it"),
        (true, true, false) => {
            wiring::delete_store(&settings)?;
            println!("{file} deleted");
        }
        (false, false, true) => {
            println!("{file} would be made");
            announce(&items);
        }
        (_, false, dry_run) => {
            let ports = wiring::connect(&settings).await?;
            println!("{file} {}", if there { "is there already" } else { "made" });
            list_items(&*ports.ledger, &items, dry_run).await?;
        }
    }
    Ok(())
}
