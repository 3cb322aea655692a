//! The threads that have connections to the file, and closing them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::Instant;

use super::files::{LOG, beside};
use super::{Changes, StoreError, open_existing};
use crate::core::model::{IdSource, SystemIdSource};

/// How long closing waits for the threads: a transaction may wait for another process's
/// ([`super::BUSY_WAIT`]), and the log is then copied into the file.
const CLOSE_WITHIN: Duration = Duration::from_secs(6);
/// Longest pause before each further attempt to copy the log into the file.
const CLOSE_RETRIES: [Duration; 4] = [
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
    Duration::from_millis(64),
];

pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// A clone for each thread, dropped when the thread ends.
    running: Option<Sender<()>>,
    /// Disconnected when all threads have ended.
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

    /// Waits until all threads have ended. Returns `false` if that takes longer.
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

/// Number of stores of this process that are open or being closed.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Counts a store as open until dropped. It is the last part of the store to be dropped.
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

/// Blocks until every store of this process is closed, for [`CLOSE_WITHIN`] at most.
pub fn wait_until_closed() {
    let begun = Instant::now();
    while OPEN.load(Ordering::Acquire) > 0 && begun.elapsed() < CLOSE_WITHIN {
        std::thread::sleep(CLOSE_RETRIES[0]);
    }
}

/// The last field of a store. Dropping it waits until the store's connections are closed. With the
/// last connection of all processes, SQLite copies the log into the file and removes it.
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
                "{path} was not closed in time; the last orders are in {path}-wal: keep both files"
            );
        } else if self.changes.lost.get().is_none() {
            copy_remaining_log(&self.path);
        }
    }
}

/// Copies the pages that are left in the log into the file. If two processes close the file at the
/// same instant, each finds the other's connection and leaves the log to the other. If another
/// process keeps the file open, the log stays, and that process copies it when it closes.
fn copy_remaining_log(path: &Path) {
    let log = beside(path, LOG);
    let is_left = || std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    for longest in CLOSE_RETRIES {
        if !is_left() {
            return;
        }
        // A random pause, so that two closing processes do not collide again.
        let part = f64::from(SystemIdSource.next_id() as u32) / f64::from(u32::MAX);
        std::thread::sleep(longest.mul_f64(part));
        if let Err(e) = open_existing(path).and_then(open_and_close) {
            tracing::debug!("closing checkpoint failed; the write-ahead log keeps its pages: {e}");
        }
    }
}

/// Closing a connection that has read the file copies the log.
fn open_and_close(connection: Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    connection.close().map_err(|(_, e)| e)
}
