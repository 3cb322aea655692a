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
use crate::wiring::Usage;

/// How long the threads of a command that is done may take to end.
const THREADS_END_WITHIN: Duration = Duration::from_millis(100);

/// A flash-sale order engine: nothing is ever sold twice, no order is lost.
#[derive(Debug, Parser)]
#[command(version = env!("VERSION_OF_FLUX"), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    all: AllFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings")]
struct AllFlags {
    /// Settings file, in place of config/flux.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where orders are kept: embedded or aws [default: aws if SQS_QUEUE_URL is set]
    #[arg(long, global = true, value_name = "NAME", hide_possible_values = true)]
    backend: Option<BackendName>,
    /// How log lines are written: text or json
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

/// The program: 0 when all went well, 2 for what the user can change, 1 for the rest.
///
/// Here and not in `main.rs`: what is first called from the binary is compiled with the binary,
/// after the library instead of beside it.
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
            // On the runtime's own threads, which this one would have to wake and be woken by.
            let ended = runtime.block_on(runtime.spawn(cli.run()));
            // All that matters is done. A thread may still be in a call that cannot be cancelled,
            // like a look-up in DNS.
            runtime.shutdown_timeout(THREADS_END_WITHIN);
            wiring::wait_for_stores();
            ended.unwrap_or_else(|e| Err(e.into()))
        }
        Err(e) => Err(e.into()),
    };
    result.unwrap_or_else(|e| {
        // Who reads the answer has seen enough: `flux dlq list | head`.
        let closed = e.downcast_ref::<io::Error>().map(io::Error::kind);
        if closed != Some(io::ErrorKind::BrokenPipe) {
            complain(format_args!("{e:#}"));
        }
        exit_code(&e)
    })
}

impl Cli {
    async fn run(self) -> Result<ExitCode> {
        let mut flags = self.all.flags();
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

impl AllFlags {
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

/// Settings in force, with the log started.
fn settings(flags: &Flags) -> Result<Settings> {
    let settings = Settings::load(flags)?;
    crate::telemetry::start_log(&settings);
    for name in &settings.ignored {
        tracing::debug!("{name} in the environment is not read: a Kubernetes Service's, or unused");
    }
    Ok(settings)
}

/// [`settings`] for a command that looks at what is there, and makes no embedded store to find it
/// empty.
fn settings_of_a_store(flags: &Flags) -> Result<Settings> {
    let settings = settings(flags)?;
    has_store(&settings)?;
    Ok(settings)
}

/// Refuses if the embedded store that is meant is not there.
fn has_store(settings: &Settings) -> Result<(), Usage> {
    if settings.backend() == Backend::Embedded && !settings.data.exists() {
        let data = settings.data.display();
        let what = format!("there is no {data}: go to where it is, or set FLUX_DATA");
        return Err(Usage(what));
    }
    Ok(())
}

/// The server, asked with the first of these keys; `whose` names them.
fn keyed(address: Address, keys: &SecretString, whose: &str) -> Result<Address, Usage> {
    let keys = Keys::parse(keys);
    let key = keys.first().ok_or_else(|| Usage(format!("{whose} holds no key")))?;
    address
        .with_key(key)
        .map_err(|_| Usage(format!("{whose} holds what no key can: give it on one line")))
}

/// Reads a whole number within bounds.
fn whole<T: TryFrom<u64>, const FROM: u64, const TO: u64>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| (FROM..=TO).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("must be a whole number from {FROM} to {TO}"))
}

/// What was wrong with the arguments, in one line; `None` for a page that somebody asked for.
fn one_line(error: &clap::Error) -> Option<String> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = without_passwords(error);
    let said = text.split("\n\n").take_while(|part| !part.starts_with("Usage:"));
    let said = said.filter(|part| !part.starts_with("For more information"));
    let words: Vec<&str> = said.flat_map(str::split_whitespace).collect();
    let said = words.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    Some(format!("{} (--help tells more)", said.replace(" tip: ", "; ")))
}

/// clap repeats what was typed, and a URL may hold a password before its @.
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
    let usage = error.is::<Usage>() || error.is::<ConfigError>();
    ExitCode::from(if usage { 2 } else { 1 })
}
