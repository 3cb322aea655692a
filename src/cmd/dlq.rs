use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Subcommand};

use super::Usage;
use crate::config::Flags;
use crate::core::order::OrderId;
use crate::core::order::dead_letters::{self, Which};
use crate::wiring;

/// Look at the orders that could not be decided, send them again, or drop them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each dead letter with its reason, as a line of JSON
    List,
    /// Send dead letters again, each under its own order id; one already decided is dropped
    Redrive {
        #[command(flatten)]
        which: WhichArgs,
        /// Mend the one letter named by --id: the order it should have been, as JSON
        #[arg(long, value_name = "JSON", requires = "id")]
        body: Option<String>,
    },
    /// Drop dead letters for good
    Drop {
        #[command(flatten)]
        which: WhichArgs,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
struct WhichArgs {
    /// The order id of a letter; may be given several times
    #[arg(long, group = "which", value_name = "ORDER_ID")]
    id: Vec<String>,
    /// All letters
    #[arg(long, group = "which")]
    all: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    let ports = wiring::connect(&settings).await?;
    match args.action {
        Action::List => {
            for letter in dead_letters::list(&ports).await? {
                println!("{}", serde_json::to_string(&letter)?);
            }
        }
        Action::Redrive { which, body } => {
            let which = which.parse()?;
            if body.is_some() && !matches!(&which, Which::These(ids) if ids.len() == 1) {
                return Err(Usage("--body mends one letter: give one --id".to_owned()).into());
            }
            for (id, fate) in dead_letters::redrive(&ports, which, body.as_deref()).await? {
                println!("{id} {fate}");
            }
        }
        Action::Drop { which } => {
            println!("{} dropped", dead_letters::drop(&ports, which.parse()?).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl WhichArgs {
    fn parse(&self) -> Result<Which> {
        if self.all {
            return Ok(Which::All);
        }
        let parse = |id: &String| OrderId::parse(id).map_err(|e| Usage(format!("--id {id}: {e}")));
        Ok(Which::These(self.id.iter().map(parse).collect::<Result<_, _>>()?))
    }
}
