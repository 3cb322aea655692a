//! The one SQLite file: its schema, its single writer thread, its readers.
//!
//! Every write of the process goes through one thread, which commits whatever has gathered in one
//! transaction (WAL, synchronous FULL): a write that was answered is on disk. Processes share the
//! file; SQLite's own lock lets one transaction write at a time.

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

/// How long a transaction waits for another process's; then its jobs fail as `RolledBack`. Only a
/// process that was stopped in the middle of one takes so long.
const BUSY_WAIT: Duration = Duration::from_secs(3);
/// How often the file is looked at for other processes' writes.
const WATCH_EVERY: Duration = Duration::from_millis(4);
/// How often the paths are compared with the files that were opened.
const COMPARE_EVERY: Duration = Duration::from_millis(200);
/// Readers at once.
const READERS: usize = 4;

/// The process's hold on the file. Dropping the last clone finishes what was begun, ends the
/// threads and closes the file; it blocks for some milliseconds, and at most for some seconds.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

/// Fields are dropped in this sequence: the threads end when the other ends of their channels are
/// gone, and `closing` waits for them.
struct Inner {
    /// As it was given, for messages.
    path: PathBuf,
    jobs: Sender<Box<dyn Job>>,
    /// The watcher ends with it.
    _watch: Sender<()>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    changes: Arc<Changes>,
    closing: Closing,
}

/// How this process learns of other processes' writes: its writer looks with each transaction,
/// its watcher while the writer rests.
#[derive(Default)]
struct Changes {
    tick: watch::Sender<u64>,
    /// Begun by this process.
    transactions: AtomicU64,
    /// Ended by this process, one way or the other.
    written: AtomicU64,
    /// Why the file is not used any more: its path names another one, or none.
    lost: OnceLock<StoreError>,
}

impl Changes {
    /// The files are not the ones that were opened. Said once, and for good: somebody else may
    /// have written to them in between.
    fn lose(&self, files: &Identity) {
        let Some(gone) = files.gone() else { return };
        let error = lost(gone);
        if self.lost.set(error.clone()).is_ok() {
            tracing::error!("{error}");
        }
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
    /// Opens the file, making it and its tables if they are missing. A new one is for its owner
    /// alone.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let refused = |e: rusqlite::Error| refusal(path, &e);
        let file = files::make(path);
        let before = Identity::of_file(&file).ok();
        let mut writer = connect(&file).map_err(refused)?;
        create(path, &writer).map_err(refused)??;
        let watcher = connect(&file).map_err(refused)?;
        let version = data_version(&watcher);
        let checkpointer = connect(&file).map_err(refused)?;
        let identity = before.filter(|before| !before.is_file_gone());
        let identity = identity.and_then(|file| file.with_log().ok());
        let files = Arc::new(identity.ok_or_else(|| replaced(path))?);

        let (jobs, received) = channel();
        let (watch, watched) = channel();
        let changes = Arc::new(Changes::default());
        let (checkpoints, beside) = Checkpoints::beside(&mut writer).map_err(refused)?;
        let mut threads = Threads::new();
        threads.spawn("flux-checkpoint", move || beside(checkpointer))?;
        let (told, same) = (changes.clone(), files.clone());
        threads.spawn("flux-writer", move || {
            write_all(&writer, &received, &told, &same, checkpoints);
        })?;
        let told = changes.clone();
        threads.spawn("flux-watcher", move || {
            watch_file(&watcher, version, &told, &files, &watched);
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

    /// Does `work` inside the next transaction; answers once that is on disk.
    ///
    /// An error of one job rolls back the whole transaction, its neighbours' work too, and all of
    /// them get `RolledBack`; so a "no" must be a value of `T`, not an error. Cancelling does not
    /// stop the work.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = WriteJob { work: Some(work), result: None, answer };
        let gone = || StoreError::Unknown("the writer thread is gone".to_owned());
        self.0.jobs.send(Box::new(job)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Reads a snapshot that holds every write answered before. Keep it short: the write-ahead
    /// log cannot shrink below the oldest snapshot.
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

    /// Ticks within two [`WATCH_EVERY`] of another process's transaction, and now and then after
    /// one of this; ticks may be merged.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.tick.subscribe()
    }

    /// How often [`Store::changes`] has ticked.
    pub fn change_counter(&self) -> u64 {
        *self.0.changes.tick.borrow()
    }

    /// Another number after each transaction of this process.
    pub fn written(&self) -> u64 {
        self.0.changes.written.load(Ordering::Relaxed)
    }

    /// The key under which this file's orders are named: the one given, or one drawn at random
    /// when the file was made.
    pub async fn order_key(&self, given: Option<OrderKey>) -> Result<OrderKey, StoreError> {
        if let Some(key) = given {
            return Ok(key);
        }
        const KEY: &str = "SELECT value FROM meta WHERE key = 'order_key'";
        let read = |c: &Connection| c.query_row(KEY, [], |row| row.get(0)).optional();
        if let Some(key) = self.read(read).await? {
            return Ok(OrderKey(key));
        }
        let drawn = SystemIdSource.key();
        self.write(move |tx| {
            tx.execute("INSERT OR IGNORE INTO meta VALUES ('order_key', ?)", params![drawn])?;
            tx.query_row(KEY, [], |row| row.get(0))
        })
        .await
        .map(OrderKey)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = plain(path)?;
    connection.busy_handler(Some(wait_busy))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -4_000)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// A connection to a file that is there. Waits for nobody.
fn plain(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Waits a moment for another process's transaction; `false` when it has taken too long.
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

/// Another number after every write of another connection; `None` when it cannot be read.
fn data_version(connection: &Connection) -> Option<i64> {
    let mut statement = connection.prepare_cached("PRAGMA data_version").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}

/// Until the other end of `watched` is gone.
fn watch_file(
    connection: &Connection,
    mut last: Option<i64>,
    changes: &Changes,
    files: &Identity,
    watched: &Receiver<()>,
) {
    let mut before = 0;
    let mut compared = Instant::now();
    while watched.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
        if compared.elapsed() >= COMPARE_EVERY {
            changes.lose(files);
            compared = Instant::now();
        }
        let transactions = changes.transactions.load(Ordering::Relaxed);
        if std::mem::replace(&mut before, transactions) != transactions {
            continue;
        }
        let now = data_version(connection);
        if std::mem::replace(&mut last, now) != now {
            changes.tick.send_modify(|tick| *tick += 1);
        }
    }
}

/// What `orders.state` says. Two digits each, so that all have the same width.
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

/// `items.listing`.
pub mod listing {
    use rusqlite::types::FromSqlError;

    use crate::core::model::Listing;

    /// 0 is what items of files from before the column have: they count as listed.
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
    /// Versions 3.7.0 to 3.51.2 can corrupt a file when two connections write and checkpoint at the
    /// same time (SQLite, "Write-Ahead Logging", "The WAL-Reset Bug").
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
