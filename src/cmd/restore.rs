use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::config::Flags;
use crate::stop;
use crate::telemetry::say;
use crate::wiring::backup;

/// Replace the embedded store with a backup
///
/// Fails while a process uses the store. The backup is checked first and is not changed. The former
/// store is kept under another name.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Backup to restore, written by flux backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the store even if it contains orders
    #[arg(long)]
    replace: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    backup::embedded_only(&settings, "restore")?;
    let stop = stop::on_signal_or_hangup(Duration::from_millis(settings.grace_ms))?;
    let file = args.file.display().to_string();
    let data = settings.data.display();
    let restored = backup::restore(&settings, args.file, args.replace, stop).await?;
    say(format_args!("{data} restored from {file}: {}", restored.contents))?;
    if let Some(former) = restored.former {
        say(format_args!("the former store is kept as {}", former.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
