mod output;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Subcommand};

use super::UsageError;
use crate::config::Flags;
use crate::core::engine::redrive::{DlqAction, RedriveOptions};
use crate::core::model::OrderId;
use crate::core::ports::dead_letters::DlqFilter;
use crate::{stop, wiring};

/// Look at, send again or drop the orders that could not be decided
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each letter: its order id, why it is here, what came
    List {
        /// Only those in whose reason this text stands
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// A line of JSON for each, with its whole text
        #[arg(long)]
        json: bool,
    },
    /// Send letters again under their order ids; drop those already decided
    Redrive {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        options: CourseArgs,
        /// The order that the letter named by --id should have been
        #[arg(long, value_name = "JSON", requires = "id")]
        body: Option<String>,
    },
    /// Drop letters for good; undecided orders get the status dropped
    Drop {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        options: CourseArgs,
        /// Confirm --all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(super) struct WhichArgs {
    /// The order id of a letter; may be given several times
    #[arg(long, group = "which", value_name = "ORDER_ID", value_parser = OrderId::parse)]
    id: Vec<OrderId>,
    /// All letters
    #[arg(long, group = "which")]
    all: bool,
    /// Of all, only those in whose reason this text stands
    #[arg(long, value_name = "TEXT", requires = "all")]
    reason: Option<String>,
}

#[derive(Debug, clap::Args)]
struct CourseArgs {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Letters a second, at most; interrupt it at any time, and the same again goes on from there
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<u32, 1, 1_000_000>)]
    rate: Option<u32>,
    /// A line of JSON for each letter
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    args.check()?;
    let settings = super::settings_of_a_store(flags)?;
    let stop = stop::on_signal_or_hangup(Duration::from_millis(settings.grace_ms))?;
    let ports = wiring::open(&settings, wiring::KeyUse::Read).await?;
    let (which, action, options) = match args.action {
        Action::List { reason, json } => {
            output::list(&ports, reason.as_deref(), json).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Redrive { which, body, options } => (which, DlqAction::Redrive { body }, options),
        Action::Drop { which, options, .. } => (which, DlqAction::Drop, options),
    };
    let CourseArgs { dry_run, rate, json } = options;
    let options = RedriveOptions { dry_run, rate, most: None, stop };
    let well = output::act(&ports, &which.letters(), &action, &options, json).await?;
    Ok(ExitCode::from(u8::from(!well)))
}

impl Args {
    fn check(&self) -> Result<(), UsageError> {
        let said = match &self.action {
            Action::Redrive { which, body: Some(_), .. } if which.id.len() != 1 => {
                "--body mends one letter: give one --id"
            }
            Action::Drop { which: WhichArgs { all: true, .. }, options, yes: false }
                if !options.dry_run =>
            {
                "--all drops them for good: add --yes, or --dry-run to see"
            }
            _ => return Ok(()),
        };
        Err(UsageError(said.to_owned()))
    }
}

impl WhichArgs {
    pub(super) fn letters(self) -> DlqFilter {
        if self.all { DlqFilter::All { reason: self.reason } } else { DlqFilter::These(self.id) }
    }
}
