//! When to stop: the first SIGTERM or SIGINT asks, the second does not wait.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A process group's signal often comes twice, from the terminal or `timeout` and from the parent
/// that passes it on: what comes so soon after the first is the same wish to stop.
const ECHO: Duration = Duration::from_millis(100);
/// SIGHUP in a mask of signals, where signal n is bit n - 1.
const SIGHUP_BIT: u64 = 1;

/// A token that is cancelled at the first SIGTERM or SIGINT. Everything has `grace` from then on to
/// finish; after that, or at a second signal, the process leaves at once. Nothing is lost either
/// way: what was not acknowledged is decided by another worker.
pub fn on_signal(grace: Duration) -> std::io::Result<CancellationToken> {
    on_signals(grace, None)
}

/// [`on_signal`], and at a SIGHUP: for commands that end with their terminal, unless they were
/// started to outlive it (nohup).
pub fn on_signal_or_hangup(grace: Duration) -> std::io::Result<CancellationToken> {
    let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
    on_signals(grace, hangup)
}

/// Whether this process was started with SIGHUP ignored and has not asked for it yet.
pub fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & SIGHUP_BIT != 0)
}

fn on_signals(grace: Duration, hangup: Option<Signal>) -> std::io::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let hangup = async {
        match hangup {
            Some(mut hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hangup => {}
        }
        tracing::info!("stopping; a second signal leaves at once");
        token.cancel();
        // A thread, so that it also bounds the end of the runtime and the closing of the store.
        let late = std::thread::Builder::new().name("flux-grace".to_owned()).spawn(move || {
            std::thread::sleep(grace);
            leave("grace period over");
        });
        if let Err(e) = late {
            tracing::warn!("the grace period is not enforced: {e}");
        }
        tokio::time::sleep(ECHO).await;
        let _echo = (term.recv().now_or_never(), int.recv().now_or_never());
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        leave("second signal");
    });
    Ok(stop)
}

fn leave(why: &str) -> ! {
    tracing::warn!("leaving at once: {why}; undecided orders stay in the queue");
    std::process::exit(0);
}
