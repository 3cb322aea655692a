use std::sync::Arc;

use anyhow::Result;

use super::{Args, list_items, print_planned};
use crate::config::Settings;
use crate::core::ports::ledger::Ledger;
use crate::core::ports::usage::Calls;
use crate::telemetry::say;
use crate::wiring;
use crate::wiring::UsageError;
use crate::wiring::provision::{Plan, apply, destroy, iam};

impl Args {
    fn plan(&self, settings: &Settings) -> Plan {
        Plan::new(settings, self.queue.clone(), self.expect)
    }
}

pub(super) async fn print_iam(args: &Args, settings: &Settings) -> Result<()> {
    let aws = wiring::aws::load(settings, Arc::new(Calls::default())).await?;
    let policies = iam::policies(&args.plan(settings), aws.region());
    say(format_args!("{}", serde_json::to_string_pretty(&policies)?))?;
    Ok(())
}

pub(super) async fn on_aws(args: Args, settings: Settings) -> Result<()> {
    let plan = args.plan(&settings);
    let items = args.items()?;
    let aws = wiring::aws::load(&settings, Arc::new(Calls::default())).await?;
    // If stdout is closed, the remaining steps are still done; the error is returned after them.
    let mut printed = Ok(());
    let mut step = |line: String| {
        if printed.is_ok() {
            printed = say(line);
        }
    };
    if args.destroy {
        destroy(&aws, &plan, args.dry_run, &mut step).await.map_err(UsageError)?;
        printed?;
        return Ok(());
    }
    let environment = apply(&aws, &plan, args.dry_run, &mut step).await.map_err(UsageError)?;
    printed?;
    let ledger = wiring::aws::ledger(&aws, &settings).await?;
    if args.dry_run && ledger.check().await.is_err() {
        print_planned(&items)?;
    } else {
        list_items(&ledger, &items, args.dry_run).await?;
    }
    if args.dry_run {
        return Ok(());
    }
    say("# environment for serve and work:")?;
    let print = |(name, value): &(&str, String)| say(format_args!("{name}={value}"));
    environment.iter().try_for_each(print)?;
    Ok(())
}
