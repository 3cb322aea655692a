use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use secrecy::SecretString;

use super::{Usage, keyed};
use crate::client::Address;
use crate::config::{Flags, Settings};
use crate::stop;
use crate::telemetry::say;
use crate::top::Top;

/// Watch a running sale in the terminal
///
/// Rates, backlog, times, items, workers, the last decisions and dead letters, every second.
/// ? shows the keys. NO_COLOR, set to anything, takes the colours away.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A running flux serve, as http://HOST:PORT [default: where the settings have it listen]
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    target: Option<Address>,
    /// A file with the admin key, to see who bought [default: the setting admin_key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print what is known now as text, and leave
    #[arg(long)]
    once: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    // Without a log, which would be drawn over.
    let settings = Settings::load(flags)?;
    let address = match args.target {
        Some(address) => address,
        None => super::health::own(&settings.listen).map_err(Usage)?,
    };
    let address = match (args.key_file, &settings.admin_key) {
        (Some(file), _) => keyed(address, &read(&file)?, "--key-file")?,
        (None, Some(keys)) => keyed(address, keys, "admin_key")?,
        (None, None) => address,
    };
    let top = Top { address };
    if args.once {
        say(top.once().await.map_err(|e| anyhow!(e))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Usage("top needs a terminal: use --once for text".to_owned()).into());
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let stop = stop::on_signal_or_hangup(Duration::from_millis(settings.grace_ms))?;
    top.watch(colour, stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<SecretString, Usage> {
    let wrong = |e| Usage(format!("cannot read --key-file {}: {e}", file.display()));
    std::fs::read_to_string(file).map(SecretString::from).map_err(wrong)
}
