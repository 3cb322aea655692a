use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::config::Flags;
use crate::stop;
use crate::telemetry::say;
use crate::wiring::backup;

/// Copy the embedded store into a new file, while a sale runs
///
/// The file holds the sale as it was at one instant: items, orders, decisions, dead letters, waiting
/// webhooks, and the drawn order_key. It appears when it is whole, and is for its owner alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The copy; a file that is there is never overwritten
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    backup::embedded_only(&settings, "backup")?;
    super::has_store(&settings)?;
    let stop = stop::on_signal_or_hangup(Duration::from_millis(settings.grace_ms))?;
    let file = args.file.display().to_string();
    let contents = backup::backup(&settings, args.file, stop).await?;
    say(format_args!("{file}: {contents}"))?;
    Ok(ExitCode::SUCCESS)
}
