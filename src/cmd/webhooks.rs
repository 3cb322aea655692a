use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use tokio::time::Instant;

use super::UsageError;
use super::dlq::FilterArgs;
use crate::config::Flags;
use crate::core::model::{Clock, SystemClock};
use crate::core::ports::dead_letters::DlqAction;
use crate::telemetry::{remark, say};
use crate::webhooks::EndpointReply;
use crate::wiring;

/// Letters that one call lists, at most.
const LETTERS_MAX: usize = 10_000;

/// List, redrive or drop webhook events that the shop did not accept
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each dead letter as a line of JSON, and the number of queued events on stderr
    List,
    /// Make dead letters due again; workers send them
    Redrive {
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Delete dead letters for good
    Drop {
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Send the shop a signed event of type flux.test; exit code 1 if it is not accepted
    SendTest,
    /// Embedded: queue no further events; queued events stay
    Off,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    if matches!(args.action, Action::SendTest) {
        return send_test(flags).await;
    }
    let settings = super::settings_of_a_store(flags)?;
    let outbox = wiring::webhooks::outbox(&settings).await?;
    match args.action {
        Action::List => {
            let letters = outbox.dead_letters(LETTERS_MAX).await?;
            if letters.is_empty() {
                remark("no dead letters");
            }
            for letter in letters {
                say(serde_json::to_string(&letter)?)?;
            }
            tracing::info!("{} wait to be sent", outbox.waiting().await?.waiting);
        }
        Action::Redrive { filter } => {
            let count = outbox.resolve_letters(&filter.filter(), DlqAction::Redrive).await?;
            say(format_args!("{count} due again"))?;
        }
        Action::Drop { filter } => {
            let count = outbox.resolve_letters(&filter.filter(), DlqAction::Drop).await?;
            say(format_args!("{count} dropped"))?;
        }
        Action::Off => {
            outbox.end().await.map_err(|e| UsageError(e.to_string()))?;
            say("no further events are put, until a process with a webhook_url starts")?;
        }
        Action::SendTest => unreachable!("handled above"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn send_test(flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    let Some(shop) = wiring::webhooks::endpoint(&settings) else {
        let what = "there is nowhere to send it: set webhook_url and webhook_secret";
        return Err(UsageError(what.to_owned()).into());
    };
    let begun = Instant::now();
    let answer = shop.send_test(SystemClock.now()).await;
    let ms = begun.elapsed().as_millis();
    match answer {
        EndpointReply::Accepted => say(format_args!("{} took it in {ms} ms", shop.url))?,
        EndpointReply::Gone => bail!("{} wants no webhooks: HTTP status 410", shop.url),
        EndpointReply::Failed { why, .. } => bail!("{} did not take it: {why}", shop.url),
    }
    Ok(ExitCode::SUCCESS)
}
