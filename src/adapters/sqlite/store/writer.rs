//! The writer thread: commits the writes that have gathered in one transaction, then answers them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoint::Checkpoints;
use super::errors::{StoreError, explain};
use super::files::Identity;
use super::{Changes, data_version};

/// Maximum number of jobs in one transaction.
const JOBS_PER_TRANSACTION: usize = 256;

/// A write whose result type is erased, so that writes of all kinds share one channel.
pub trait Job: Send {
    fn run(&mut self, tx: &Connection) -> rusqlite::Result<()>;
    /// Answers the caller.
    fn finish(self: Box<Self>, written: Result<(), StoreError>);
}

pub struct WriteJob<F, T> {
    pub work: Option<F>,
    pub result: Option<T>,
    pub answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for WriteJob<F, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(tx)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, written: Result<(), StoreError>) {
        let WriteJob { result, answer, .. } = *self;
        let not_run = || StoreError::RolledBack("the write was not run".to_owned());
        let _caller_gone = answer.send(written.and_then(|()| result.ok_or_else(not_run)));
    }
}

/// Runs until the sender of `received` is dropped.
///
/// Jobs share a transaction because the sync at its end is the expensive part. A job is answered
/// after COMMIT: if the process is killed before COMMIT, SQLite rolls the transaction back and no
/// caller gets an answer; if it is killed between COMMIT and the answer, the write is on disk
/// and the caller does not know. Callers repeat such writes, so all writes are idempotent.
///
/// The files' identity is checked between COMMIT and the answers. A file that is
/// replaced just after the check takes this transaction with it. No check
/// can exclude that; this one bounds it to the transactions of one instant, because the next
/// transaction, or the watcher, stops the store.
pub fn write_all(
    connection: &Connection,
    received: &Receiver<Box<dyn Job>>,
    changes: &Changes,
    files: &Identity,
    mut checkpoints: Checkpoints,
) {
    let mut last_version = None;
    while let Ok(first) = received.recv() {
        let mut jobs = vec![first];
        jobs.extend(received.try_iter().take(JOBS_PER_TRANSACTION - 1));
        if let Err(lost) = changes.usable() {
            jobs.into_iter().for_each(|job| job.finish(Err(lost.clone())));
            continue;
        }
        changes.transactions.fetch_add(1, Ordering::Relaxed);
        let written = transact(connection, &mut jobs, || {
            // Writes of this connection do not change it (SQLite, "PRAGMA data_version").
            let version = data_version(connection);
            if std::mem::replace(&mut last_version, version) != version {
                changes.notify();
            }
        });
        changes.written.fetch_add(1, Ordering::Relaxed);
        // A commit to a file that was replaced is not durable.
        changes.check_identity(files);
        let written = changes.usable().and(written);
        if let Err(e) = &written
            && changes.usable().is_ok()
        {
            tracing::error!(jobs = jobs.len(), "write transaction failed: {e}");
        }
        for job in jobs {
            job.finish(written.clone());
        }
        checkpoints.after_transaction(connection);
    }
}

fn transact(
    connection: &Connection,
    jobs: &mut [Box<dyn Job>],
    after_begin: impl FnOnce(),
) -> Result<(), StoreError> {
    let run = |jobs: &mut [Box<dyn Job>]| {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        after_begin();
        jobs.iter_mut().try_for_each(|job| job.run(connection))
    };
    let roll_back = |e: rusqlite::Error| {
        if !connection.is_autocommit() {
            let _failed = connection.execute_batch("ROLLBACK");
        }
        e
    };
    // A panic would end the writer thread, and all later writes would fail.
    let ran = catch_unwind(AssertUnwindSafe(|| run(jobs)));
    let ran = ran.unwrap_or(Err(rusqlite::Error::UnwindingPanic));
    ran.map_err(roll_back).map_err(|e| explain(&e, StoreError::RolledBack))?;
    let committed = connection.prepare_cached("COMMIT").and_then(|mut s| s.execute([]));
    committed.map_err(roll_back).map_err(|e| explain(&e, StoreError::Unknown))?;
    Ok(())
}
