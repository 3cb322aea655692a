//! SIGHUP: the settings are read again, and those that can be changed in a running process are.

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

/// What a running server can change.
const OF_A_SERVER: &[&str] = &[
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

/// What every running process can change.
const OF_EACH: &[&str] = &["log"];

/// A running `flux serve`, as far as a reload changes it.
pub struct Serving {
    pub access: Arc<Access>,
    pub jwks: Option<Jwks>,
    pub address: SocketAddr,
}

/// The SIGHUPs of this process from now on.
pub struct Hangups {
    signals: Signal,
    /// A terminal that is closed sends SIGHUP too, and ends this process.
    end_with_terminal: bool,
}

impl Hangups {
    pub fn listen() -> std::io::Result<Hangups> {
        let end_with_terminal = has_terminal() && !stop::ignores_hangup();
        Ok(Hangups { signals: signal(SignalKind::hangup())?, end_with_terminal })
    }
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Reads the settings again at each SIGHUP until stopped. What is wrong with them is logged, and
/// then all stays as it is. A terminal that was closed sends the same signal; then it is a wish to
/// stop, as it would be without this, unless the process was started to outlive it (nohup).
/// `serving` is `None` for a process without an API.
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
            Some(Ok(read)) => settings = read,
            Some(Err(e)) => tracing::error!("the settings stay as they were: {e:#}"),
            None => return,
        }
    }
}

/// Whether buying takes a key or token.
fn takes_keys(settings: &Settings) -> bool {
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
    if is_server && takes_keys(before) && !takes_keys(&settings) {
        // A file that was moved away for a moment must not open the shop.
        let what =
            "no buy_key, jwt_secret or jwt_jwks is set any more: to sell without keys, restart";
        return Err(UsageError(what.to_owned()).into());
    }
    if let Some(Serving { access, jwks, address }) = serving {
        let mut rules = access::rules(&settings, jwks).await?;
        rules.connections = Some(descriptors::connections(settings.connections_max));
        access.replace(rules);
        warn_if_open(access, *address);
    }
    telemetry::set_log_filter(&settings.log);
    let mut live = Vec::new();
    let mut fixed = Vec::new();
    for key in before.differing(&settings) {
        if OF_EACH.contains(&key) || is_server && OF_A_SERVER.contains(&key) {
            live.push(key);
        } else if !OF_A_SERVER.contains(&key) {
            fixed.push(key);
        }
    }
    let changed = if live.is_empty() { "nothing".to_owned() } else { live.join(", ") };
    tracing::warn!("settings read again; changed: {changed}");
    if !fixed.is_empty() {
        tracing::warn!("changed, but needs a restart: {}", fixed.join(", "));
    }
    Ok(settings)
}

/// Tells whoever runs the server, in a way that no log filter hides, that it is open to others.
pub fn warn_if_open(access: &Access, address: SocketAddr) {
    if let Some(warning) = access.warning(Some(address)) {
        tracing::warn!("{warning}");
        telemetry::banner(&format!("listening on {address} WITHOUT KEYS: {warning}"));
    }
}
