use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use secrecy::SecretString;

use super::{UsageError, keyed};
use crate::client::Address;
use crate::config::{Flags, Settings};
use crate::stop;
use crate::telemetry::say;
use crate::top::Top;

/// Watch a running sale in the terminal
///
/// Shows rates, backlog, latencies, items, workers, the last decisions and dead letters, updated
/// every second. Press ? for the keys. If NO_COLOR is set, no colours are used.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Server to watch, as http://HOST:PORT [default: the address in the setting listen]
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    target: Option<Address>,
    /// File with the admin key, which shows buyers' names [default: the setting admin_key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print the current state as text and exit
    #[arg(long)]
    once: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    // The log is not started: its lines would overwrite the screen.
    let settings = Settings::load(flags)?;
    let address = match args.target {
        Some(address) => address,
        None => super::health::local_address(&settings.listen).map_err(UsageError)?,
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
        return Err(UsageError("top needs a terminal: add --once to print text".to_owned()).into());
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let stop = stop::on_signal_or_hangup(Duration::from_millis(settings.grace_ms))?;
    top.watch(colour, stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<SecretString, UsageError> {
    let error = |e| UsageError(format!("cannot read --key-file {}: {e}", file.display()));
    std::fs::read_to_string(file).map(SecretString::from).map_err(error)
}
