use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Subcommand};

use super::Usage;
use crate::config::Flags;
use crate::core::order::OrderId;
use crate::core::order::dead_letters::{self, Which};
use crate::telemetry::say;
use crate::wiring;

/// Look at, send again or drop the orders that could not be decided
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each letter with its reason, as a line of JSON
    List,
    /// Send letters again under their order ids; drop those already decided
    Redrive {
        #[command(flatten)]
        which: WhichArgs,
        /// The order that the letter named by --id should have been
        #[arg(long, value_name = "JSON", requires = "id")]
        body: Option<String>,
    },
    /// Drop letters for good
    Drop {
        #[command(flatten)]
        which: WhichArgs,
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
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    args.check()?;
    let settings = super::settings_of_a_store(flags)?;
    let ports = wiring::open(&settings).await?;
    match args.action {
        Action::List => {
            for letter in dead_letters::list(&ports).await? {
                say(serde_json::to_string(&letter)?)?;
            }
        }
        Action::Redrive { which, body } => {
            let fates = dead_letters::redrive(&ports, which.letters(), body.as_deref()).await?;
            for (id, fate) in fates {
                say(format_args!("{id} {fate}"))?;
            }
        }
        Action::Drop { which } => {
            let dropped = dead_letters::drop(&ports, which.letters()).await?;
            say(format_args!("{dropped} dropped"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn check(&self) -> Result<(), Usage> {
        match &self.action {
            Action::Redrive { which, body: Some(_) } if which.id.len() != 1 => {
                Err(Usage("--body mends one letter: give one --id".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl WhichArgs {
    pub(super) fn letters(self) -> Which {
        if self.all { Which::All } else { Which::These(self.id) }
    }
}
