use std::process::ExitCode;

use anyhow::Result;

use super::UsageError;
use crate::config::Flags;
use crate::core::model::ItemId;
use crate::load;
use crate::load::AuditResult;
use crate::telemetry::say;
use crate::wiring;
use crate::wiring::KeyUse;

/// Check the promises against the stored orders
///
/// Reads only, also during a sale. Exits with 1 if a promise was broken, and with 2 if there is
/// nothing to audit.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Audit only this item
    #[arg(long, value_name = "ID", value_parser = ItemId::parse)]
    item: Option<ItemId>,
    /// Print the figures as JSON, in total and per item
    #[arg(long)]
    json: bool,
    /// Exit with 0 if there are no items or no orders
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
        let store = wiring::describe(&settings, &ports);
        return Err(UsageError(format!("there is no item {item} ({store}): check --item")).into());
    }
    if report.is_of_nothing() && !args.allow_empty {
        let store = wiring::describe(&settings, &ports);
        let items = report.items.len();
        let orders = report.total.orders;
        let what = format!("nothing to audit ({store}): items {items}, orders {orders}");
        return Err(UsageError(format!("{what}; --allow-empty accepts that")).into());
    }
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(&report)?;
    }
    Ok(exit_code(report.verdict))
}

/// 0 if all promises that were checked hold, else 1.
pub fn exit_code(verdict: AuditResult) -> ExitCode {
    ExitCode::from(u8::from(verdict == AuditResult::Fail))
}
