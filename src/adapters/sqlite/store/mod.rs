//! The SQLite file: its schema, its writer thread and its readers.
//!
//! All writes of the process go through one thread, which commits the writes that have gathered in
//! one transaction (WAL, synchronous FULL). A write is answered after its transaction is on disk.
//! Several processes can share the file; SQLite's lock lets one of them write at a time.

mod backup;
mod checkpoint;
pub mod counts;
pub mod dead_letters;
mod errors;
mod files;
pub mod items;
pub mod objects;
pub mod orders;
mod restore;
pub mod schema;
pub mod seq;
mod threads;
mod writer;

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;

pub use backup::{Contents, CopyError, backup};
use checkpoint::Checkpoints;
pub use errors::StoreError;
use errors::{lost, refusal, replaced, unreadable};
use files::Identity;
pub use files::is_readable_by_all;
pub use restore::{Restored, delete, restore};
use schema::create;
pub use threads::wait_until_closed;
use threads::{Closing, Open, Threads};
use writer::{Job, WriteJob, write_all};

use crate::core::model::{OrderKey, SystemIdSource};

/// How long a transaction waits for another process's transaction before its jobs fail with
/// `RolledBack`. Only a process that is suspended inside a transaction makes others wait this long.
const BUSY_WAIT: Duration = Duration::from_secs(3);
/// Interval at which the watcher checks the file for writes of other processes.
const WATCH_EVERY: Duration = Duration::from_millis(4);
/// Interval at which the watcher checks that the paths still name the files that were opened.
const COMPARE_EVERY: Duration = Duration::from_millis(200);
/// Maximum number of concurrent reads.
const READERS: usize = 4;

/// A handle to the open file. Dropping the last clone finishes the queued writes, ends the threads
/// and closes the file. That blocks for some milliseconds, and for a few seconds at most.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

/// The order of the fields matters because they are dropped in this order: the threads end when
/// their channels are closed, and `closing`, the last field, waits for the threads.
struct Inner {
    /// The path as it was given, for messages.
    path: PathBuf,
    jobs: Sender<Box<dyn Job>>,
    /// Dropping it ends the watcher thread.
    _watch: Sender<()>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    changes: Arc<Changes>,
    closing: Closing,
}

/// What the threads know about the file. The writer checks for writes of other processes in each
/// transaction, the watcher while the writer is idle.
#[derive(Default)]
struct Changes {
    change_counter: watch::Sender<u64>,
    /// Number of transactions that this process has begun.
    transactions: AtomicU64,
    /// Number of transactions that this process has ended, rolled back ones included.
    written: AtomicU64,
    /// The error of all further reads and writes, once a path names another file, or none.
    lost: OnceLock<StoreError>,
}

impl Changes {
    /// Checks that the paths still name the files that were opened. If not, this process stops
    /// using the store for good, even if the files return: somebody else may have written to them
    /// in between.
    fn check_identity(&self, files: &Identity) {
        let Some(path) = files.first_replaced() else { return };
        let error = lost(path);
        if self.lost.set(error.clone()).is_ok() {
            tracing::error!("{error}");
        }
    }

    fn notify(&self) {
        self.change_counter.send_modify(|counter| *counter += 1);
    }

    fn usable(&self) -> Result<(), StoreError> {
        self.lost.get().map_or(Ok(()), |lost| Err(lost.clone()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.0.path.display())
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.path.display())
    }
}

impl Store {
    /// Opens the file, and creates it and its tables if they are missing. Only the owner can read
    /// and write a new file.
    ///
    /// The file's identity is read before SQLite opens the path, and compared after all threads
    /// have their connections. If the file was replaced in between, the connections may belong to
    /// different files, so the open fails and can be repeated. A file that is replaced later is
    /// detected by the writer and the watcher.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let refused = |e: rusqlite::Error| refusal(path, &e);
        let file = files::create_if_missing(path);
        let identity = Identity::of_file(&file).ok();
        let mut writer = connect(&file).map_err(refused)?;
        create(path, &writer).map_err(refused)??;
        let watcher = connect(&file).map_err(refused)?;
        let version = data_version(&watcher);
        let checkpointer = connect(&file).map_err(refused)?;
        let identity = identity.filter(|identity| !identity.is_file_replaced());
        let identity = identity.and_then(|identity| identity.with_log().ok());
        let files = Arc::new(identity.ok_or_else(|| replaced(path))?);

        let (jobs, received) = channel();
        let (watch, watched) = channel();
        let changes = Arc::new(Changes::default());
        let (checkpoints, run_checkpoints) = Checkpoints::new(&mut writer).map_err(refused)?;
        let mut threads = Threads::new();
        threads.spawn("flux-checkpoint", move || run_checkpoints(checkpointer))?;
        let writer_changes = changes.clone();
        let writer_files = files.clone();
        threads.spawn("flux-writer", move || {
            write_all(&writer, &received, &writer_changes, &writer_files, checkpoints);
        })?;
        let watcher_changes = changes.clone();
        threads.spawn("flux-watcher", move || {
            watch_file(&watcher, version, &watcher_changes, &files, &watched);
        })?;
        Ok(Store(Arc::new(Inner {
            path: path.to_owned(),
            jobs,
            _watch: watch,
            readers: Mutex::new(Vec::new()),
            reading: Semaphore::new(READERS),
            changes: changes.clone(),
            closing: Closing { path: file, threads, changes, _open: Open::counted() },
        })))
    }

    /// Runs `work` in the next transaction, and returns once that transaction is on disk.
    ///
    /// An error of one job rolls back the whole transaction, and all of its jobs fail with
    /// `RolledBack`. A refusal must therefore be a value of `T`, not an error. Dropping the future
    /// does not stop the work.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = WriteJob { work: Some(work), result: None, answer };
        let gone = || StoreError::Unknown("the writer thread has ended".to_owned());
        self.0.jobs.send(Box::new(job)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Reads a snapshot that contains every write answered before the call. `work` must be short:
    /// the write-ahead log cannot shrink while a snapshot is open.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |e: &dyn fmt::Display| StoreError::RolledBack(e.to_string());
        self.0.changes.usable()?;
        let _reading = self.0.reading.acquire().await.map_err(|e| failed(&e))?;
        let inner = self.0.clone();
        let read = move || {
            let idle = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => connect(&inner.closing.path)?,
            };
            let result = in_snapshot(&connection, work);
            if connection.is_autocommit() {
                inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            result
        };
        let result = tokio::task::spawn_blocking(read).await.map_err(|e| failed(&e))?;
        self.0.changes.usable()?;
        result.map_err(|e| unreadable(&e))
    }

    /// The counter of [`Store::change_counter`]. It changes within two [`WATCH_EVERY`] of another
    /// process's transaction, and sometimes after a transaction of this process. Several
    /// transactions may change it once.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.change_counter.subscribe()
    }

    /// Number of changes of the file that were detected since it was opened.
    pub fn change_counter(&self) -> u64 {
        *self.0.changes.change_counter.borrow()
    }

    /// Number of transactions that this process has ended.
    pub fn written(&self) -> u64 {
        self.0.changes.written.load(Ordering::Relaxed)
    }

    /// The key from which this file's order ids are derived: `given`, or else a random key that is
    /// generated once and kept in the file.
    pub async fn order_key(&self, given: Option<OrderKey>) -> Result<OrderKey, StoreError> {
        if let Some(key) = given {
            return Ok(key);
        }
        const KEY: &str = "SELECT value FROM meta WHERE key = 'order_key'";
        let read = |c: &Connection| c.query_row(KEY, [], |row| row.get(0)).optional();
        if let Some(key) = self.read(read).await? {
            return Ok(OrderKey(key));
        }
        let generated = SystemIdSource.key();
        self.write(move |tx| {
            tx.execute("INSERT OR IGNORE INTO meta VALUES ('order_key', ?)", params![generated])?;
            tx.query_row(KEY, [], |row| row.get(0))
        })
        .await
        .map(OrderKey)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = open_existing(path)?;
    connection.busy_handler(Some(wait_busy))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -4_000)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens a file that exists. The connection does not wait for locks.
fn open_existing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// SQLite's busy handler: sleeps for a moment. Returns `false` after [`BUSY_WAIT`], which fails the
/// statement.
fn wait_busy(attempts: i32) -> bool {
    thread_local!(static SINCE: Cell<Instant> = Cell::new(Instant::now()));
    if attempts == 0 {
        SINCE.set(Instant::now());
    }
    std::thread::sleep(Duration::from_micros(300));
    SINCE.get().elapsed() < BUSY_WAIT
}

fn in_snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    let result = work(connection);
    connection.prepare_cached("COMMIT")?.execute([])?;
    result
}

/// A number that differs after each write of another connection; `None` if it cannot be read.
fn data_version(connection: &Connection) -> Option<i64> {
    let mut statement = connection.prepare_cached("PRAGMA data_version").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}

/// Runs until the sender of `watched` is dropped. While the writer is busy, the writer itself checks
/// for writes of other processes.
fn watch_file(
    connection: &Connection,
    mut last_version: Option<i64>,
    changes: &Changes,
    files: &Identity,
    watched: &Receiver<()>,
) {
    let mut last_transactions = 0;
    let mut last_compared = Instant::now();
    while watched.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
        if last_compared.elapsed() >= COMPARE_EVERY {
            changes.check_identity(files);
            last_compared = Instant::now();
        }
        let transactions = changes.transactions.load(Ordering::Relaxed);
        if std::mem::replace(&mut last_transactions, transactions) != transactions {
            continue;
        }
        let version = data_version(connection);
        if std::mem::replace(&mut last_version, version) != version {
            changes.notify();
        }
    }
}

/// The codes of the column `orders.state`. All have two digits, so that a change of state does not
/// change the width of a row.
pub mod state {
    use crate::core::model::{Decision, Reason};

    pub const QUEUED: i64 = 10;
    pub const DEAD_LETTERED: i64 = 11;
    pub const DROPPED: i64 = 26;
    const DECISIONS: [(i64, Decision); 7] = [
        (20, Decision::Sold),
        (21, Decision::Rejected(Reason::SoldOut)),
        (22, Decision::Rejected(Reason::NotEnough)),
        (23, Decision::Rejected(Reason::UnknownItem)),
        (24, Decision::Expired),
        (25, Decision::Rejected(Reason::Closed)),
        (DROPPED, Decision::Dropped),
    ];

    pub fn of(decision: Decision) -> i64 {
        let found = DECISIONS.iter().find(|(_, d)| *d == decision);
        found.expect("a test holds that every decision has a state").0
    }

    pub fn decision(state: i64) -> Option<Decision> {
        DECISIONS.iter().find(|(s, _)| *s == state).map(|(_, d)| *d)
    }

    #[cfg(test)]
    #[test]
    fn every_decision_has_a_state_code() {
        for decided in Decision::all() {
            assert_eq!(decision(of(decided)), Some(decided));
        }
    }
}

/// The codes of the column `items.listing`.
pub mod listing {
    use rusqlite::types::FromSqlError;

    use crate::core::model::Listing;

    /// Items from before the column existed have 0, and count as listed.
    const LISTINGS: [Listing; 3] = [Listing::Listed, Listing::Unlisted, Listing::Removed];

    pub fn of(listing: Listing) -> i64 {
        listing as i64
    }

    pub fn read(code: i64) -> Result<Listing, FromSqlError> {
        let found = LISTINGS.into_iter().find(|listing| of(*listing) == code);
        found.ok_or(FromSqlError::OutOfRange(code))
    }
}

#[cfg(test)]
mod tests {
    /// SQLite 3.7.0 to 3.51.2 can corrupt a file when two connections write and checkpoint at the
    /// same time (SQLite documentation, "Write-Ahead Logging", section "The WAL-Reset Bug").
    #[test]
    fn bundled_sqlite_is_free_of_the_wal_reset_bug() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }

    #[test]
    fn reliability_page_names_the_bundled_sqlite() {
        let page = include_str!("../../../../docs/reliability.md");
        assert!(page.contains(&format!("SQLite {}", rusqlite::version())));
    }
}
