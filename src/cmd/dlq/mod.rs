mod output;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Subcommand};

use super::UsageError;
use crate::config::Flags;
use crate::core::engine::redrive::RedriveOptions;
use crate::core::model::OrderId;
use crate::core::ports::dead_letters::{DlqAction, DlqFilter};
use crate::{stop, wiring};

/// List, redrive or drop orders that could not be decided
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each dead letter: its order id, its reason and its text
    List {
        /// Only letters whose reason contains this text
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Print a line of JSON for each letter, with its whole text
        #[arg(long)]
        json: bool,
    },
    /// Send orders again under their order ids; drop letters of decided orders
    Redrive {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        options: ActionArgs,
        /// The corrected order, sent in place of the text of the letter of --id
        #[arg(long, value_name = "JSON", requires = "id")]
        body: Option<String>,
    },
    /// Delete letters for good; undecided orders get the status dropped
    Drop {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        options: ActionArgs,
        /// Confirm --all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(super) struct FilterArgs {
    /// The order id of a letter; can be repeated
    #[arg(long, group = "which", value_name = "ORDER_ID", value_parser = OrderId::parse)]
    id: Vec<OrderId>,
    /// All letters
    #[arg(long, group = "which")]
    all: bool,
    /// Of all, only letters whose reason contains this text
    #[arg(long, value_name = "TEXT", requires = "all")]
    reason: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ActionArgs {
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Letters per second, at most. Can be interrupted; the same command then continues
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<u32, 1, 1_000_000>)]
    rate: Option<u32>,
    /// Print a line of JSON for each letter
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    args.check()?;
    let settings = super::settings_of_a_store(flags)?;
    let stop = stop::on_signal_or_hangup(Duration::from_millis(settings.grace_ms))?;
    let ports = wiring::open(&settings, wiring::KeyUse::Read).await?;
    let (filter, action, body, args) = match args.action {
        Action::List { reason, json } => {
            output::list(&ports, reason.as_deref(), json).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Redrive { filter, body, options } => (filter, DlqAction::Redrive, body, options),
        Action::Drop { filter, options, .. } => (filter, DlqAction::Drop, None, options),
    };
    let ActionArgs { dry_run, rate, json } = args;
    let options = RedriveOptions { body, dry_run, rate, max: None, stop };
    let is_success = output::act(&ports, &filter.filter(), action, &options, json).await?;
    Ok(ExitCode::from(u8::from(!is_success)))
}

impl Args {
    fn check(&self) -> Result<(), UsageError> {
        let problem = match &self.action {
            Action::Redrive { filter, body: Some(_), .. } if filter.id.len() != 1 => {
                "--body corrects one letter: give exactly one --id"
            }
            Action::Drop { filter: FilterArgs { all: true, .. }, options, yes: false }
                if !options.dry_run =>
            {
                "--all deletes all letters for good: add --yes, or --dry-run to preview"
            }
            _ => return Ok(()),
        };
        Err(UsageError(problem.to_owned()))
    }
}

impl FilterArgs {
    pub(super) fn filter(self) -> DlqFilter {
        if self.all { DlqFilter::All { reason: self.reason } } else { DlqFilter::These(self.id) }
    }
}
