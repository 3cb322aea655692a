//! Output for people: the log on stderr, and the decisions of a terminal session on stdout.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{LogFormat, Settings};
use crate::core::engine::worker::Observer;
use crate::core::model::text::{visible, visible_but};
use crate::core::model::{Decided, Decision, ItemId, Reason};

/// Lines per second that are printed. Further decisions are summarized once per second.
const LINES_PER_SECOND: u32 = 20;
/// Lines that wait for a slow terminal. Further ones are only counted.
const LINES_WAITING: usize = 256;
const SECOND: Duration = Duration::from_secs(1);
/// Characters in a line of a banner.
const BANNER_WIDTH: usize = 72;

/// Starts the log. The filter has been checked with the settings.
pub fn start_log(settings: &Settings) {
    let filter = filter(&settings.log);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        // If a full disk rejects a line, the line is lost. Reporting that on the same disk would
        // panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => {
            let log = log.with_target(false).with_filter_reloading();
            reload_with(log.reload_handle());
            log.init();
        }
        // Fields on the top level, so that tools find `order_id` where they expect it.
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            reload_with(log.reload_handle());
            log.init();
        }
    }
}

/// The AWS SDK logs access key ids at `info` and signed requests below. Its lines are shown from `warn`
/// on, unless the filter has a more specific target, like `aws_config=debug`.
const SDK: &str = "aws=warn";

fn filter(log: &str) -> EnvFilter {
    let wanted = EnvFilter::builder().parse_lossy(log);
    match wanted.max_level_hint() {
        Some(most) if most <= LevelFilter::WARN => wanted,
        _ => EnvFilter::builder().parse_lossy(format!("{SDK},{log}")),
    }
}

/// Writes one line per record, whatever external text the record contains.
struct LogWriter;

impl Write for LogWriter {
    /// Writes a whole record, as `tracing_subscriber` formats it.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        // The formatter uses this character for colours, and has escaped it in external text.
        let line = visible_but(line, &['\u{1b}']);
        writeln!(io::stderr(), "{line}")?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces the log filter.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

fn reload_with<S: 'static>(handle: reload::Handle<EnvFilter, S>) {
    // Fails only if there is no log any more.
    let set = move |filter| handle.reload(filter).unwrap_or_default();
    let _before = SET_FILTER.set(Box::new(set));
}

/// Replaces the log filter. It has been checked with the settings.
pub fn set_log_filter(filter: &str) {
    if let Some(set) = SET_FILTER.get() {
        set(self::filter(filter));
    }
}

/// Prints a prominent warning on stderr, whatever the log filter is.
pub fn banner(text: &str) {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() + word.len() > BANNER_WIDTH {
            lines += &format!("!!! {line}\n");
            line.clear();
        }
        line = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
    }
    let bar = "!".repeat(BANNER_WIDTH + 4);
    // A closed stderr has no reader to warn.
    let _unread = write!(std::io::stderr(), "{bar}\n{lines}!!! {line}\n{bar}\n");
}

/// Prints a command's result on stdout; fails if stdout is closed. Control characters are replaced, so
/// that external text cannot control the terminal.
pub fn say(text: impl Display) -> io::Result<()> {
    let text = text.to_string();
    writeln!(io::stdout(), "{}", visible_but(&text, &['\n', '\t']))
}

/// Prints a remark about a result on stderr, so that stdout has the result only.
pub fn remark(text: impl Display) {
    // A closed stderr has no reader.
    let _unread = writeln!(io::stderr(), "{}", visible(&text.to_string()));
}

/// Prints why a command failed, on one line of stderr.
pub fn complain(why: impl Display) {
    // A closed stderr has no reader.
    let _unread = writeln!(io::stderr(), "flux: {}", visible(&why.to_string()));
}

/// Prints nothing; for servers and workers without a terminal session.
#[derive(Debug)]
pub struct Silent;

impl Observer for Silent {
    fn lock_acquired(&self, _item: &ItemId) {}
    fn deciding(&self, _decided: &[Decided]) {}
    fn saved(&self, _decided: &[Decided]) {}
}

/// Prints decisions on stdout from a thread of its own, so that a slow terminal does not delay the sale.
#[derive(Debug)]
pub struct Terminal {
    lines: SyncSender<String>,
    second: Arc<Mutex<Second>>,
}

/// Counts of the current second.
#[derive(Debug)]
struct Second {
    since: Instant,
    lines: u32,
    /// Decisions that were not printed.
    omitted_sold: u64,
    omitted_rejected: u64,
}

impl Terminal {
    /// Starts the thread.
    pub fn start() -> Self {
        let (lines, waiting) = sync_channel(LINES_WAITING);
        let second = Arc::new(Mutex::new(Second::new()));
        let counted = second.clone();
        std::thread::spawn(move || print(&waiting, &counted));
        Self { lines, second }
    }

    /// Prints a line if the limits allow it; returns whether it does.
    fn try_print(&self, second: &mut Second, line: impl FnOnce() -> String) -> bool {
        second.lines += 1;
        second.lines <= LINES_PER_SECOND && self.lines.try_send(line()).is_ok()
    }

    fn second(&self) -> std::sync::MutexGuard<'_, Second> {
        self.second.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Second {
    fn new() -> Self {
        Self { since: Instant::now(), lines: 0, omitted_sold: 0, omitted_rejected: 0 }
    }

    /// Starts a new second once the current one is over; returns a summary of omitted decisions, if
    /// there are any.
    fn finish(&mut self) -> Option<String> {
        let seconds = self.since.elapsed();
        if seconds < SECOND {
            return None;
        }
        let Second { omitted_sold: sold, omitted_rejected: rejected, .. } =
            std::mem::replace(self, Second::new());
        let line = || format!("... and {sold} sold, {rejected} rejected in {seconds:.1?}");
        (sold + rejected > 0).then(line)
    }
}

impl Observer for Terminal {
    fn lock_acquired(&self, item: &ItemId) {
        let line = || format!("LOCK ACQUIRED: checking inventory for {item}");
        self.try_print(&mut self.second(), line);
    }

    fn deciding(&self, decided: &[Decided]) {
        let mut second = self.second();
        for Decided { order, decision, .. } in decided {
            let line = || format!("SELLING: item {} to {}", order.item, order.user);
            if *decision == Decision::Sold && !self.try_print(&mut second, line) {
                return;
            }
        }
    }

    fn saved(&self, decided: &[Decided]) {
        let mut second = self.second();
        for decided in decided {
            if !self.try_print(&mut second, || decision_line(decided)) {
                match decided.decision {
                    Decision::Sold => second.omitted_sold += 1,
                    Decision::Rejected(_) | Decision::Expired | Decision::Dropped => {
                        second.omitted_rejected += 1;
                    }
                }
            }
        }
    }
}

fn decision_line(decided: &Decided) -> String {
    let user = &decided.order.user;
    let item = &decided.order.item;
    let units = decided.order.quantity.units();
    match decided.decision {
        Decision::Sold => "SUCCESS: saved".to_owned(),
        Decision::Expired => format!("EXPIRED: {user} wanted {item} too long ago"),
        Decision::Dropped => format!("DROPPED: {user} wanted {item}"),
        Decision::Rejected(Reason::SoldOut) => {
            format!("REJECTED: {user} wants {item}, but it is ALREADY SOLD!")
        }
        Decision::Rejected(Reason::NotEnough) => {
            format!("REJECTED: {user} wants {units} of {item}, but fewer are left")
        }
        Decision::Rejected(Reason::UnknownItem) => {
            format!("REJECTED: {user} wants {item}, but there is no such item")
        }
        Decision::Rejected(Reason::Closed) => {
            format!("REJECTED: {user} wants {item}, but its sale is closed")
        }
    }
}

fn print(lines: &Receiver<String>, second: &Mutex<Second>) {
    loop {
        let line = match lines.recv_timeout(SECOND / 10) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let summary = second.lock().unwrap_or_else(PoisonError::into_inner).finish();
        let mut out = std::io::stdout().lock();
        for line in line.into_iter().chain(summary) {
            if writeln!(out, "{}", visible(&line)).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}
