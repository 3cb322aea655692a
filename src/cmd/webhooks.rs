use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use tokio::time::Instant;

use super::UsageError;
use super::dlq::WhichArgs;
use crate::config::Flags;
use crate::core::model::{Clock, SystemClock};
use crate::telemetry::{remark, say};
use crate::webhooks::EndpointReply;
use crate::wiring;

/// Letters listed in one go.
const LETTERS_MAX: usize = 10_000;

/// Look at, send again or drop the decisions that the shop did not take
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each letter with its reason, as a line of JSON; on stderr, how many events wait
    List,
    /// Make letters due again; workers send them
    Redrive {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Drop letters for good
    Drop {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Send the shop an event of type flux.test, signed as the others; exit code 1 if it is not taken
    SendTest,
    /// Embedded: put no further events; those that wait stay
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
        Action::Redrive { which } => {
            say(format_args!("{} due again", outbox.redrive(&which.letters()).await?))?;
        }
        Action::Drop { which } => {
            say(format_args!("{} dropped", outbox.drop_letters(&which.letters()).await?))?;
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
