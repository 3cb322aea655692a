//! Reloads the settings at SIGHUP, and applies those that can change in a running process.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::access::Jwks;
use super::{UsageError, access, descriptors};
use crate::config::{Flags, Settings};
use crate::http::Access;
use crate::{stop, telemetry};

/// Settings that `flux serve` applies at a reload.
const SERVER_KEYS: &[&str] = &[
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
];

/// Settings that every process applies at a reload.
const COMMON_KEYS: &[&str] = &["log"];

/// The parts of a running `flux serve` that a reload changes.
pub struct Serving {
    pub access: Arc<Access>,
    pub jwks: Option<Jwks>,
    pub address: SocketAddr,
}

/// Receives the SIGHUPs of this process from now on.
pub struct Hangups {
    signals: Signal,
    /// True if a SIGHUP after the terminal has closed ends this process.
    end_with_terminal: bool,
}

impl Hangups {
    /// Registers the handler. From then on SIGHUP no longer ends the process by default.
    pub fn listen() -> std::io::Result<Hangups> {
        let end_with_terminal = has_terminal() && !stop::ignores_hangup();
        Ok(Hangups { signals: signal(SignalKind::hangup())?, end_with_terminal })
    }
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Reloads the settings at each SIGHUP until stopped. If they are invalid, the error is logged and
/// nothing changes. `serving` is `None` for a process without an API.
///
/// A closing terminal sends SIGHUP too. Then the process stops, as it would without this handler,
/// unless it was started with SIGHUP ignored (nohup).
pub async fn on_hangup(
    mut hangups: Hangups,
    flags: &Flags,
    mut settings: Settings,
    mut serving: Option<Serving>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangups.signals.recv() => {}
        }
        if hangups.end_with_terminal && !has_terminal() {
            tracing::info!("stopping: the terminal was closed");
            stop.cancel();
            return;
        }
        let reloading = reload(flags, &settings, serving.as_mut());
        match stop.run_until_cancelled(reloading).await {
            Some(Ok(reloaded)) => settings = reloaded,
            Some(Err(e)) => tracing::error!("reload failed; settings unchanged: {e:#}"),
            None => return,
        }
    }
}

/// True if buying requires a key or a token.
fn requires_keys(settings: &Settings) -> bool {
    let Settings { buy_key, jwt_secret, jwt_jwks, .. } = settings;
    buy_key.is_some() || jwt_secret.is_some() || jwt_jwks.is_some()
}

async fn reload(
    flags: &Flags,
    before: &Settings,
    serving: Option<&mut Serving>,
) -> Result<Settings> {
    let flags = flags.clone();
    let settings = tokio::task::spawn_blocking(move || Settings::load(&flags)).await??;
    let is_server = serving.is_some();
    if is_server && requires_keys(before) && !requires_keys(&settings) {
        // A file that is missing for a moment must not open the sale to everybody.
        let why =
            "buy_key, jwt_secret and jwt_jwks are no longer set: restart to sell without keys";
        return Err(UsageError(why.to_owned()).into());
    }
    if let Some(Serving { access, jwks, address }) = serving {
        let mut rules = access::rules(&settings, jwks).await?;
        rules.connections = Some(descriptors::connections(settings.connections_max));
        access.replace(rules);
        warn_if_open(access, *address);
    }
    telemetry::set_log_filter(&settings.log);
    let mut applied = Vec::new();
    let mut need_restart = Vec::new();
    for key in before.differing(&settings) {
        if COMMON_KEYS.contains(&key) || is_server && SERVER_KEYS.contains(&key) {
            applied.push(key);
        } else if !SERVER_KEYS.contains(&key) {
            need_restart.push(key);
        }
    }
    let changed = if applied.is_empty() { "nothing".to_owned() } else { applied.join(", ") };
    tracing::warn!("settings reloaded; changed: {changed}");
    if !need_restart.is_empty() {
        tracing::warn!("changed settings that need a restart: {}", need_restart.join(", "));
    }
    Ok(settings)
}

/// Warns if other machines can buy without keys: in the log, and on stderr whatever the log filter is.
pub fn warn_if_open(access: &Access, address: SocketAddr) {
    if let Some(warning) = access.warning(Some(address)) {
        tracing::warn!("{warning}");
        telemetry::banner(&format!("listening on {address} WITHOUT KEYS: {warning}"));
    }
}
