use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::config::Flags;
use crate::core::order::worker::Worker;
use crate::core::pulses::{Kind, while_beating};
use crate::telemetry::Terminal;
use crate::{stop, wiring};

/// Receive orders and decide them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Items decided at once [default: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<usize, 1, 10_000>)]
    concurrency: Option<usize>,
}

pub async fn run(args: Args, flags: &mut Flags) -> Result<ExitCode> {
    flags.concurrency = args.concurrency;
    let settings = super::settings(flags)?;
    let stop = stop::on_signal(Duration::from_millis(settings.grace_ms))?;
    let ports = wiring::start(&settings).await?;
    let rules = wiring::rules(&settings, settings.concurrency);
    tracing::info!("working on {} items at once", rules.concurrency);
    let concurrency = rules.concurrency;
    let worker = Worker { ports: ports.clone(), rules, story: Arc::new(Terminal::start()) };
    while_beating(&ports, Kind::Work, concurrency, worker.run(stop)).await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
