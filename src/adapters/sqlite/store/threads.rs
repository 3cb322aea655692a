//! The threads that have connections to the file, and how they end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::Instant;

use super::files::{LOG, beside};
use super::{Changes, StoreError, plain};
use crate::core::model::{IdSource, SystemIdSource};

/// How long the threads may take to finish: a transaction that waits for another process's
/// ([`super::BUSY_WAIT`]), and moving the log into the file.
const CLOSE_WITHIN: Duration = Duration::from_secs(6);
/// How long to wait before each further attempt to move the log into the file, at most.
const CLOSE_AGAIN: [Duration; 4] = [
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
    Duration::from_millis(64),
];

pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Each thread has a clone, and drops it at its end.
    running: Option<Sender<()>>,
    ended: Mutex<Receiver<()>>,
}

impl Threads {
    pub fn new() -> Self {
        let (running, ended) = channel();
        Self { handles: Vec::new(), running: Some(running), ended: Mutex::new(ended) }
    }

    pub fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let running = self.running.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            body();
            drop(running);
        });
        let thread = thread.map_err(|e| StoreError::Broken(format!("cannot start {name}: {e}")))?;
        self.handles.push(thread);
        Ok(())
    }

    /// Waits until all have ended; `false` if some have not in time.
    fn join(&mut self, within: Duration) -> bool {
        self.running = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        self.handles.drain(..).for_each(|thread| drop(thread.join()));
        true
    }
}

/// Stores of this process that are open or being closed.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Counts a store as open until it is dropped, after all else of the store.
pub struct Open(());

impl Open {
    pub fn counted() -> Self {
        OPEN.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until every store of this process is closed, at most for as long as closing one may take.
/// Blocks.
pub fn wait_until_closed() {
    let begun = Instant::now();
    while OPEN.load(Ordering::Acquire) > 0 && begun.elapsed() < CLOSE_WITHIN {
        std::thread::sleep(CLOSE_AGAIN[0]);
    }
}

/// Dropped as the last of a store, waits until its connections are closed. SQLite then moves the
/// log into the file, and removes it, if no other process has the file open.
pub struct Closing {
    pub path: PathBuf,
    pub threads: Threads,
    pub changes: Arc<Changes>,
    pub _open: Open,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if !self.threads.join(CLOSE_WITHIN) {
            let path = self.path.display();
            tracing::warn!(
                "{path} was not closed in time: its last orders are in {path}-wal; keep both"
            );
        } else if self.changes.lost.get().is_none() {
            close_again(&self.path);
        }
    }
}

/// Moves into the file what is left in its log. Of two processes that close the file at the same
/// instant, each finds the other's connection and leaves the log to it. A connection of another
/// process that goes on has the same effect; it moves the log when that process closes.
fn close_again(path: &Path) {
    let log = beside(path, LOG);
    let is_left = || std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    for longest in CLOSE_AGAIN {
        if !is_left() {
            return;
        }
        // Drawn, so that the two do not meet again.
        let part = f64::from(SystemIdSource.next_id() as u32) / f64::from(u32::MAX);
        std::thread::sleep(longest.mul_f64(part));
        if let Err(e) = plain(path).and_then(open_and_close) {
            tracing::debug!("the write-ahead log stays as it is: {e}");
        }
    }
}

/// A connection that has read the log moves it as it is closed.
fn open_and_close(connection: Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    connection.close().map_err(|(_, e)| e)
}
