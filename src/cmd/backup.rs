use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::config::Flags;
use crate::stop;
use crate::telemetry::say;
use crate::wiring::backup;

/// Copy the embedded store to a new file, also during a sale
///
/// The file contains a consistent snapshot: items, orders, decisions, dead letters, pending webhooks
/// and the generated order_key. It is created only when the copy is complete, with mode 0600.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write; an existing file is never overwritten
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
