use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::UsageError;
use crate::config::Flags;
use crate::core::engine::heartbeat::with_heartbeats;
use crate::core::engine::worker::Worker;
use crate::core::ports::heartbeats::Kind;
use crate::telemetry::Terminal;
use crate::wiring::reload;
use crate::wiring::reload::Hangups;
use crate::wiring::traces::Traces;
use crate::{http, stop, wiring};

/// Receive orders and decide them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Items decided concurrently [default: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<usize, 1, 10_000>)]
    concurrency: Option<usize>,
}

pub async fn run(args: Args, flags: &mut Flags) -> Result<ExitCode> {
    flags.concurrency = args.concurrency;
    let settings = super::settings(flags)?;
    let traces = Traces::of(&settings)?;
    let stop = stop::on_signal(Duration::from_millis(settings.grace_ms))?;
    let hangups = Hangups::listen()?;
    let metrics = match &settings.metrics_listen {
        None => None,
        Some(address) => Some(http::listen(address).await.map_err(|e| {
            UsageError(format!("cannot listen on {address}: {e}; change metrics_listen"))
        })?),
    };
    let ports = wiring::start(&settings).await?;
    if let Some(listener) = &metrics {
        tracing::info!("metrics on http://{}/metrics", listener.local_addr()?);
    }
    let (ports, export) = traces.start(ports)?;
    let rules = wiring::rules(&settings, settings.concurrency);
    tracing::info!("working on {} items at once", rules.concurrency);
    let concurrency = rules.concurrency;
    let worker = Worker { ports: ports.clone(), rules, observer: Arc::new(Terminal::start()) };
    let metrics = async {
        if let Some(listener) = metrics {
            http::serve_metrics(listener, ports.clone(), stop.clone()).await;
        }
    };
    let sending = wiring::webhooks::send(&settings, &ports, stop.clone());
    let reloading = reload::on_hangup(hangups, flags, settings.clone(), None, stop.clone());
    let all = async { tokio::join!(worker.run(stop.clone()), metrics, sending, reloading) };
    with_heartbeats(&ports, Kind::Work, concurrency, all).await;
    export.finish().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
