use std::process::ExitCode;

use anyhow::Result;

use super::Usage;
use crate::config::Flags;
use crate::core::model::ItemId;
use crate::load;
use crate::load::Verdict;
use crate::telemetry::say;
use crate::wiring;
use crate::wiring::KeyUse;

/// Check the promises by the stored orders; exit code 1 if one broke
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this item
    #[arg(long, value_name = "ID", value_parser = ItemId::parse)]
    item: Option<ItemId>,
    /// Print the figures as JSON, items one by one
    #[arg(long)]
    json: bool,
    /// Pass where there are no items or no orders
    #[arg(long)]
    allow_empty: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings_of_a_store(flags)?;
    let ports = wiring::open(&settings, KeyUse::Read).await?;
    let report = load::audit(&*ports.ledger, args.item.as_ref()).await?;
    if let Some(item) = &args.item
        && report.items.is_empty()
    {
        let place = wiring::describe(&settings, &ports);
        return Err(Usage(format!("no item {item} here ({place}): check --item")).into());
    }
    if report.is_of_nothing() && !args.allow_empty {
        let place = wiring::describe(&settings, &ports);
        let items = report.items.len();
        let orders = report.total.orders;
        let what = format!("nothing to audit ({place}): items {items}, orders {orders}");
        return Err(Usage(format!("{what}; --allow-empty lets that pass")).into());
    }
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(&report)?;
    }
    Ok(exit_code(report.verdict))
}

/// 0 when every promise that was checked held, 1 when one did not.
pub fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(u8::from(verdict == Verdict::Fail))
}
