//! What a person sees: the log on stderr, and on stdout the story of each order.

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

/// Lines a second that a person could read along; above that, one summary a second.
const LINES_PER_SECOND: u32 = 20;
/// Lines that wait for a slow terminal; more are only counted.
const LINES_WAITING: usize = 256;
const SECOND: Duration = Duration::from_secs(1);

/// Starts the log. The filter has been checked with the settings.
pub fn start_log(settings: &Settings) {
    let filter = filter(&settings.log);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        // A line that a full disk does not take is lost. Complaining of that on the same disk
        // would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => {
            let log = log.with_target(false).with_filter_reloading();
            reload_with(log.reload_handle());
            log.init();
        }
        // Fields beside the message: `order_id` is where everybody looks for it.
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            reload_with(log.reload_handle());
            log.init();
        }
    }
}

/// The AWS SDK logs access key ids at `info`, and signed requests below that. Its lines are shown
/// from `warn` on, unless the filter names a target of it that is longer, like `aws_config=debug`.
const SDK: &str = "aws=warn";

fn filter(log: &str) -> EnvFilter {
    let wanted = EnvFilter::builder().parse_lossy(log);
    match wanted.max_level_hint() {
        Some(most) if most <= LevelFilter::WARN => wanted,
        _ => EnvFilter::builder().parse_lossy(format!("{SDK},{log}")),
    }
}

/// Writes one line for each record, whatever text from outside is in it.
struct LogWriter;

impl Write for LogWriter {
    /// Takes a whole record, as `tracing_subscriber` formats it.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        // The formatter colours its lines, and has escaped this character in what it formats.
        let line = visible_but(line, &['\u{1b}']);
        writeln!(io::stderr(), "{line}")?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Changes what is logged.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

fn reload_with<S: 'static>(handle: reload::Handle<EnvFilter, S>) {
    // An error would mean that there is no log any more.
    let set = move |filter| handle.reload(filter).unwrap_or_default();
    let _before = SET_FILTER.set(Box::new(set));
}

/// Logs by another filter from now on. The filter has been checked with the settings.
pub fn set_log_filter(filter: &str) {
    if let Some(set) = SET_FILTER.get() {
        set(self::filter(filter));
    }
}

/// Says something on stderr that must not be overlooked, whatever is logged.
pub fn banner(text: &str) {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if line.len() + word.len() > 72 {
            lines += &format!("!!! {line}\n");
            line.clear();
        }
        line = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
    }
    let bar = "!".repeat(76);
    // With nobody to read it, there is nobody to warn.
    let _unread = write!(std::io::stderr(), "{bar}\n{lines}!!! {line}\n{bar}\n");
}

/// Prints what a command was asked for on stdout; an error when nobody reads it any more. No
/// character but those that a person sees reaches the terminal, whoever wrote them.
pub fn say(text: impl Display) -> io::Result<()> {
    let text = text.to_string();
    writeln!(io::stdout(), "{}", visible_but(&text, &['\n', '\t']))
}

/// Prints a remark about an answer on stderr, so that the answer alone is on stdout.
pub fn remark(what: impl Display) {
    // With nobody to read it, there is nobody to tell.
    let _unread = writeln!(io::stderr(), "{}", visible(&what.to_string()));
}

/// Prints why a command failed, on one line of stderr.
pub fn complain(why: impl Display) {
    // With nobody to read it, there is nobody to tell.
    let _unread = writeln!(io::stderr(), "flux: {}", visible(&why.to_string()));
}

/// Tells nothing: for servers and workers that nobody watches.
#[derive(Debug)]
pub struct Silent;

impl Observer for Silent {
    fn lock_acquired(&self, _item: &ItemId) {}
    fn deciding(&self, _decided: &[Decided]) {}
    fn saved(&self, _decided: &[Decided]) {}
}

/// Tells the story on stdout, from a thread of its own: a terminal that does not keep up never
/// slows the sale.
#[derive(Debug)]
pub struct Terminal {
    told: SyncSender<String>,
    tally: Arc<Mutex<Tally>>,
}

/// One second of the story.
#[derive(Debug)]
struct Tally {
    since: Instant,
    lines: u32,
    untold_sold: u64,
    untold_rejected: u64,
}

impl Terminal {
    pub fn start() -> Self {
        let (told, lines) = sync_channel(LINES_WAITING);
        let tally = Arc::new(Mutex::new(Tally::new()));
        let counted = tally.clone();
        std::thread::spawn(move || print(&lines, &counted));
        Self { told, tally }
    }

    /// Sends a line if this second has room for one.
    fn tell(&self, tally: &mut Tally, line: impl FnOnce() -> String) -> bool {
        tally.lines += 1;
        tally.lines <= LINES_PER_SECOND && self.told.try_send(line()).is_ok()
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn new() -> Self {
        Self { since: Instant::now(), lines: 0, untold_sold: 0, untold_rejected: 0 }
    }

    /// What was not told since the last second began, once that is over.
    fn sum_up(&mut self) -> Option<String> {
        let seconds = self.since.elapsed();
        if seconds < SECOND {
            return None;
        }
        let Tally { untold_sold: sold, untold_rejected: rejected, .. } =
            std::mem::replace(self, Tally::new());
        let line = || format!("... and {sold} sold, {rejected} rejected in {seconds:.1?}");
        (sold + rejected > 0).then(line)
    }
}

impl Observer for Terminal {
    fn lock_acquired(&self, item: &ItemId) {
        let line = || format!("LOCK ACQUIRED: checking inventory for {item}");
        self.tell(&mut self.tally(), line);
    }

    fn deciding(&self, decided: &[Decided]) {
        let mut tally = self.tally();
        for Decided { order, decision, .. } in decided {
            let line = || format!("SELLING: item {} to {}", order.item, order.user);
            if *decision == Decision::Sold && !self.tell(&mut tally, line) {
                return;
            }
        }
    }

    fn saved(&self, decided: &[Decided]) {
        let mut tally = self.tally();
        for decided in decided {
            if !self.tell(&mut tally, || ending(decided)) {
                match decided.decision {
                    Decision::Sold => tally.untold_sold += 1,
                    Decision::Rejected(_) | Decision::Expired | Decision::Dropped => {
                        tally.untold_rejected += 1;
                    }
                }
            }
        }
    }
}

fn ending(decided: &Decided) -> String {
    let order = &decided.order;
    let (user, item, units) = (&order.user, &order.item, order.quantity.units());
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

fn print(lines: &Receiver<String>, tally: &Mutex<Tally>) {
    loop {
        let line = match lines.recv_timeout(SECOND / 10) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let summary = tally.lock().unwrap_or_else(PoisonError::into_inner).sum_up();
        let mut out = std::io::stdout().lock();
        for line in line.into_iter().chain(summary) {
            if writeln!(out, "{}", visible(&line)).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}
