use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::UsageError;
use crate::config::Flags;
use crate::core::engine::heartbeat::with_heartbeats;
use crate::core::engine::worker::Worker;
use crate::core::ports::heartbeats::Kind;
use crate::http::Access;
use crate::telemetry::Terminal;
use crate::wiring::reload;
use crate::wiring::reload::{Hangups, Serving};
use crate::wiring::traces::Traces;
use crate::{http, stop, wiring};

/// Accept orders over HTTP
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 means any free port [default: 127.0.0.1:5000]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Items decided concurrently by this process; with 0, only flux work decides [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<usize, 0, 10_000>)]
    workers: Option<usize>,
}

pub async fn run(args: Args, flags: &mut Flags) -> Result<ExitCode> {
    flags.listen = args.listen;
    flags.workers = args.workers;
    let settings = super::settings(flags)?;
    let traces = Traces::of(&settings)?;
    let stop = stop::on_signal(Duration::from_millis(settings.grace_ms))?;
    let hangups = Hangups::listen()?;
    let listener = http::listen(&settings.listen).await.map_err(|e| {
        let listen = &settings.listen;
        UsageError(format!(
            "cannot listen on {listen}: {e}; choose another with --listen HOST:PORT"
        ))
    })?;
    let mut jwks = None;
    let access = Access::new(wiring::access::rules(&settings, &mut jwks).await?);
    let ports = wiring::start(&settings).await?;
    let (ports, export) = traces.start(ports)?;
    let address = listener.local_addr()?;
    tracing::info!("listening on http://{address}");
    reload::warn_if_open(&access, address);
    let serving = Serving { access: access.clone(), jwks, address };
    let reloading =
        reload::on_hangup(hangups, flags, settings.clone(), Some(serving), stop.clone());
    let serving = wiring::serve(&settings, ports.clone(), access.clone(), listener, stop.clone());
    let deciding = async {
        if settings.workers > 0 {
            let rules = wiring::rules(&settings, settings.workers);
            let sending = wiring::webhooks::send(&settings, &ports, stop.clone());
            let observer = Arc::new(Terminal::start());
            let working = Worker { ports: ports.clone(), rules, observer }.run(stop.clone());
            tokio::join!(working, sending);
        }
    };
    let all = async { tokio::join!(serving, deciding, reloading) };
    with_heartbeats(&ports, Kind::Serve, settings.workers, all).await;
    export.finish().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
