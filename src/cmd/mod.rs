//! The subcommands: arguments -> wiring -> one call.

mod audit;
mod dlq;
mod provision;
mod serve;
mod stress;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Backend, ConfigError, Flags, LogFormat, Settings};
use crate::wiring::Usage;

/// A flash-sale order engine: nothing is ever sold twice, no order is lost.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    all: AllFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct AllFlags {
    /// Settings file, in place of config/flux.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where orders and decisions are kept [default: aws if SQS_QUEUE_URL is set, else embedded]
    #[arg(long, global = true)]
    backend: Option<BackendName>,
    /// How log lines are written
    #[arg(long, global = true)]
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
    Stress(stress::Args),
    Audit(audit::Args),
    Dlq(dlq::Args),
}

impl Cli {
    pub async fn run(self) -> Result<ExitCode> {
        let mut flags = self.all.flags();
        match self.command {
            Command::Serve(args) => serve::run(args, &mut flags).await,
            Command::Work(args) => work::run(args, &mut flags).await,
            Command::Provision(args) => provision::run(args, &flags).await,
            Command::Stress(args) => stress::run(args, flags).await,
            Command::Audit(args) => audit::run(args, &flags).await,
            Command::Dlq(args) => dlq::run(args, &flags).await,
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
    Ok(settings)
}

/// 2 for what the user can change, 1 for the rest.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let usage = error.is::<Usage>() || error.is::<ConfigError>();
    ExitCode::from(if usage { 2 } else { 1 })
}
