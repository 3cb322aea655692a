//! SIGHUP: the settings are read again, and those that can be changed in a running server are.

use std::fs::File;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{access, descriptors};
use crate::config::{Flags, Settings};
use crate::http::Access;
use crate::telemetry;

/// What a running server can change.
const LIVE: &[&str] = &[
    "admin_key",
    "buy_key",
    "jwt_secret",
    "jwt_jwks",
    "jwt_issuer",
    "jwt_audience",
    "rate_per_user",
    "rate_per_address",
    "rate_burst",
    "trusted_proxies",
    "cors_origins",
    "public_url",
    "connections_max",
    "log",
];

/// Reads the settings again at each SIGHUP until stopped. What is wrong with them is logged, and
/// then all stays as it is. A terminal that was closed sends the same signal; then it is a wish to
/// stop, as it would be without this.
pub async fn on_hangup(
    flags: &Flags,
    mut settings: Settings,
    access: &Access,
    address: SocketAddr,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let terminal = || File::open("/dev/tty").is_ok();
    let had_terminal = terminal();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = hangups.recv() => {}
        }
        if had_terminal && !terminal() {
            tracing::info!("stopping: the terminal was closed");
            stop.cancel();
            return Ok(());
        }
        match reload(flags, &settings, access, address).await {
            Ok(read) => settings = read,
            Err(e) => tracing::error!("the settings stay as they were: {e:#}"),
        }
    }
}

async fn reload(
    flags: &Flags,
    before: &Settings,
    access: &Access,
    address: SocketAddr,
) -> Result<Settings> {
    let flags = flags.clone();
    let settings = tokio::task::spawn_blocking(move || Settings::load(&flags)).await??;
    let mut rules = access::rules(&settings).await?;
    rules.connections = Some(descriptors::connections(settings.connections_max));
    access.replace(rules);
    telemetry::set_log_filter(&settings.log);
    let (live, fixed): (Vec<_>, Vec<_>) =
        before.differing(&settings).into_iter().partition(|key| LIVE.contains(key));
    let changed = if live.is_empty() { "nothing".to_owned() } else { live.join(", ") };
    tracing::warn!("settings read again; changed: {changed}");
    if !fixed.is_empty() {
        tracing::warn!("changed, but needs a restart: {}", fixed.join(", "));
    }
    warn_if_open(access, address);
    Ok(settings)
}

/// Tells whoever runs the server, in a way that no log filter hides, that it is open to others.
pub fn warn_if_open(access: &Access, address: SocketAddr) {
    if let Some(warning) = access.warning(Some(address)) {
        tracing::warn!("{warning}");
        telemetry::banner(&format!("listening on {address} WITHOUT KEYS: {warning}"));
    }
}
