//! When to stop: the first SIGTERM or SIGINT asks, the second does not wait.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A process group's signal often comes twice, from the terminal or `timeout` and from the parent
/// that passes it on: what comes so soon after the first is the same wish to stop.
const ECHO: Duration = Duration::from_millis(100);

/// A token that is cancelled at the first signal. Everything has `grace` from then on to finish;
/// after that, or at a second signal, the process leaves at once. Nothing is lost either way: what
/// was not acknowledged is decided by another worker.
pub fn on_signal(grace: Duration) -> std::io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
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
