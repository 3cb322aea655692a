//! The subcommands: arguments -> wiring -> one call.

mod audit;
mod backup;
mod completions;
mod dlq;
mod health;
mod items;
mod man;
mod provision;
mod restore;
mod serve;
mod stress;
pub mod test_deployment;
#[cfg_attr(not(feature = "top"), path = "no_top.rs")]
mod top;
mod webhooks;
mod work;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::error::{ContextValue, ErrorKind};
use clap::{Parser, Subcommand, ValueEnum};
use secrecy::SecretString;

use crate::client::Address;
use crate::config::{Backend, ConfigError, Flags, LogFormat, Settings};
use crate::http::Keys;
use crate::telemetry::complain;
use crate::wiring;
use crate::wiring::UsageError;

/// How long threads may take to end after the command has finished.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// A flash-sale order engine: no unit is sold twice, no order is lost
#[derive(Debug, Parser)]
#[command(version = env!("VERSION_OF_FLUX"), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings")]
struct CommonFlags {
    /// Settings file [default: config/flux.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where orders are stored: embedded or aws [default: aws if SQS_QUEUE_URL is set]
    #[arg(long, global = true, value_name = "NAME", hide_possible_values = true)]
    backend: Option<BackendName>,
    /// Format of log lines: text or json
    #[arg(long, global = true, value_name = "NAME", hide_possible_values = true)]
    log_format: Option<LogFormatName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BackendName {
    Embedded,
    Aws,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatName {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Work(work::Args),
    Provision(provision::Args),
    Items(items::Args),
    Stress(stress::Args),
    Audit(audit::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Dlq(dlq::Args),
    Top(top::Args),
    Webhooks(webhooks::Args),
    Health(health::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program. Exit code 0 for success, 2 for an error that the user can correct, 1 for
/// other errors.
///
/// It is here and not in `main.rs` because code that is first instantiated in the binary is
/// compiled after the library, not in parallel with it.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => match one_line(&e) {
            Some(line) => {
                complain(line);
                return ExitCode::from(2);
            }
            None => e.exit(),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            // Spawned, because a future in `block_on` itself runs outside the worker threads, and
            // each of its wake-ups would switch threads.
            let result = runtime.block_on(runtime.spawn(cli.run()));
            // The command has finished. A thread may still be in a call that cannot be cancelled,
            // such as a DNS lookup.
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
            wiring::wait_for_stores();
            result.unwrap_or_else(|e| Err(e.into()))
        }
        Err(e) => Err(e.into()),
    };
    result.unwrap_or_else(|e| {
        // A closed stdout is no error to report: `flux dlq list | head`.
        let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind != Some(io::ErrorKind::BrokenPipe) {
            complain(format_args!("{e:#}"));
        }
        exit_code(&e)
    })
}

impl Cli {
    async fn run(self) -> Result<ExitCode> {
        let mut flags = self.common.flags();
        match self.command {
            Command::Serve(args) => serve::run(args, &mut flags).await,
            Command::Work(args) => work::run(args, &mut flags).await,
            Command::Provision(args) => provision::run(args, &flags).await,
            Command::Items(args) => items::run(args, &flags).await,
            Command::Stress(args) => stress::run(args, flags).await,
            Command::Audit(args) => audit::run(args, &flags).await,
            Command::Backup(args) => backup::run(args, &flags).await,
            Command::Restore(args) => restore::run(args, &flags).await,
            Command::Dlq(args) => dlq::run(args, &flags).await,
            Command::Top(args) => top::run(args, &flags).await,
            Command::Webhooks(args) => webhooks::run(args, &flags).await,
            Command::Health(args) => health::run(args, &flags).await,
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        }
    }
}

impl CommonFlags {
    fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            backend: self.backend.map(|name| match name {
                BackendName::Embedded => Backend::Embedded,
                BackendName::Aws => Backend::Aws,
            }),
            log_format: self.log_format.map(|name| match name {
                LogFormatName::Text => LogFormat::Text,
                LogFormatName::Json => LogFormat::Json,
            }),
            ..Flags::default()
        }
    }
}

/// Loads the settings and starts the log.
fn settings(flags: &Flags) -> Result<Settings> {
    let settings = Settings::load(flags)?;
    crate::telemetry::start_log(&settings);
    for name in &settings.ignored {
        tracing::debug!("environment variable {name} ignored: of a Kubernetes Service, or unused");
    }
    Ok(settings)
}

/// [`settings`] for a command that reads an existing store and must not create one.
fn settings_of_a_store(flags: &Flags) -> Result<Settings> {
    let settings = settings(flags)?;
    has_store(&settings)?;
    Ok(settings)
}

/// Fails if the embedded backend is used and its store does not exist.
fn has_store(settings: &Settings) -> Result<(), UsageError> {
    if settings.backend() == Backend::Embedded && !settings.data.exists() {
        let data = settings.data.display();
        let what = format!("there is no {data}: change to its directory, or set FLUX_DATA");
        return Err(UsageError(what));
    }
    Ok(())
}

/// Adds the first of `keys` to the requests to a server; `source` is where the keys are from.
fn keyed(address: Address, keys: &SecretString, source: &str) -> Result<Address, UsageError> {
    let keys = Keys::parse(keys);
    let key = keys.first().ok_or_else(|| UsageError(format!("{source} contains no key")))?;
    address.with_key(key).map_err(|_| {
        let what = "contains a character that no key may have";
        UsageError(format!("{source} {what}: put the key on one line"))
    })
}

/// Parses a whole number from `FROM` to `TO`.
fn whole<T: TryFrom<u64>, const FROM: u64, const TO: u64>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| (FROM..=TO).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("must be a whole number from {FROM} to {TO}"))
}

/// An argument error as one line; `None` for `--help` and `--version`.
fn one_line(error: &clap::Error) -> Option<String> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = without_passwords(error);
    let parts = text.split("\n\n").take_while(|part| !part.starts_with("Usage:"));
    let parts = parts.filter(|part| !part.starts_with("For more information"));
    let words: Vec<&str> = parts.flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    Some(format!("{} (see --help)", line.replace(" tip: ", "; ")))
}

/// The error's text without passwords: clap quotes the argument, which may be a URL with one.
fn without_passwords(error: &clap::Error) -> String {
    let mut text = error.to_string();
    for (_, value) in error.context() {
        let ContextValue::String(typed) = value else { continue };
        if let Some((scheme, rest)) = typed.split_once("://")
            && let Some((_, host)) = rest.rsplit_once('@')
        {
            text = text.replace(typed, &format!("{scheme}://...@{host}"));
        }
    }
    text
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let usage = error.is::<UsageError>() || error.is::<ConfigError>();
    ExitCode::from(if usage { 2 } else { 1 })
}
