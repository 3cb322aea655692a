//! Stopping: the first SIGTERM or SIGINT starts a stop, the second ends the process at once.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals within this time after the first one are ignored. A process group often gets the same signal
/// twice: from the terminal or `timeout`, and from the parent that forwards it.
const ECHO: Duration = Duration::from_millis(100);
/// The longest wait for a log line to be written.
const LINE_WITHIN: Duration = Duration::from_millis(100);
/// SIGHUP in a signal mask, in which signal n is bit n - 1.
const SIGHUP_BIT: u64 = 1;

/// A token that is cancelled at the first SIGTERM or SIGINT. Everything then has `grace` to finish. After
/// that, or at a second signal, the process exits at once. No order is lost in either case: orders that
/// were not acknowledged are decided by another worker.
///
/// Signals are handled on a thread of their own, because every other thread may hang: in a DNS lookup,
/// on a disk that does not respond, or in a write to a log that nobody reads.
pub fn on_signal(grace: Duration) -> io::Result<CancellationToken> {
    on_signals(grace, false)
}

/// [`on_signal`], also at SIGHUP: for commands that end with their terminal, unless they were started
/// with SIGHUP ignored (nohup).
pub fn on_signal_or_hangup(grace: Duration) -> io::Result<CancellationToken> {
    on_signals(grace, !ignores_hangup())
}

/// True if this process was started with SIGHUP ignored. Only valid before it registers a handler.
pub fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & SIGHUP_BIT != 0)
}

/// The signal handlers, and the runtime that waits for them.
struct Signals {
    runtime: Runtime,
    term: Signal,
    int: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn register(at_hangup: bool) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let term = signal(SignalKind::terminate())?;
        let int = signal(SignalKind::interrupt())?;
        let hangup = at_hangup.then(|| signal(SignalKind::hangup())).transpose()?;
        drop(entered);
        Ok(Self { runtime, term, int, hangup })
    }
}

fn on_signals(grace: Duration, at_hangup: bool) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    let (registered, registering) = channel();
    thread::Builder::new().name("flux-signals".to_owned()).spawn(
        move || match Signals::register(at_hangup) {
            Ok(Signals { runtime, term, int, hangup }) => {
                let _receiver_waits = registered.send(Ok(()));
                runtime.block_on(listen(term, int, hangup, grace, token));
            }
            Err(e) => drop(registered.send(Err(e))),
        },
    )?;
    registering.recv().unwrap_or_else(|e| Err(io::Error::other(e)))?;
    Ok(stop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second signal ends the process, whatever still runs"
)]
async fn listen(
    mut term: Signal,
    mut int: Signal,
    hangup: Option<Signal>,
    grace: Duration,
    token: CancellationToken,
) {
    let hangup = async {
        match hangup {
            Some(mut hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hangup => {}
    }
    // Logged before the token is cancelled: a short command would exit before its line is written.
    let stopping = || tracing::info!("stopping; a second signal exits at once");
    let _hangs = log(stopping).recv_timeout(LINE_WITHIN);
    token.cancel();
    let over = tokio::time::sleep(grace);
    tokio::time::sleep(ECHO.min(grace)).await;
    let _echo = (term.recv().now_or_never(), int.recv().now_or_never());
    let why = tokio::select! {
        _ = term.recv() => "second signal",
        _ = int.recv() => "second signal",
        () = over => "grace period over",
    };
    let line = format!("exiting at once: {why}; undecided orders stay in the queue");
    let _hangs = log(move || tracing::warn!("{line}")).recv_timeout(LINE_WITHIN);
    std::process::exit(0);
}

/// Logs on a thread of its own, because a log can block. A message arrives when the line is written.
fn log(line: impl FnOnce() + Send + 'static) -> Receiver<()> {
    let (logged, done) = channel();
    // If no thread can be started, the line is lost.
    let _started = thread::Builder::new().spawn(move || {
        line();
        let _receiver_waits = logged.send(());
    });
    done
}
