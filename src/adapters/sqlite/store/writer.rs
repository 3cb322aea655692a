//! The writer thread: commits what has gathered in one transaction, and answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoint::Checkpoints;
use super::errors::{StoreError, explain};
use super::files::Identity;
use super::{Changes, data_version};

/// The most jobs that one transaction takes.
const JOBS_PER_TRANSACTION: usize = 256;

pub trait Job: Send {
    fn run(&mut self, tx: &Connection) -> rusqlite::Result<()>;
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
        let not_run = || StoreError::RolledBack("not run".to_owned());
        let _nobody_waits = answer.send(written.and_then(|()| result.ok_or_else(not_run)));
    }
}

/// Until the other end of `received` is gone.
pub fn write_all(
    connection: &Connection,
    received: &Receiver<Box<dyn Job>>,
    changes: &Changes,
    files: &Identity,
    mut checkpoints: Checkpoints,
) {
    let mut last = None;
    while let Ok(first) = received.recv() {
        let mut jobs = vec![first];
        jobs.extend(received.try_iter().take(JOBS_PER_TRANSACTION - 1));
        if let Err(lost) = changes.usable() {
            jobs.into_iter().for_each(|job| job.finish(Err(lost.clone())));
            continue;
        }
        changes.transactions.fetch_add(1, Ordering::Relaxed);
        let written = transact(connection, &mut jobs, || {
            // Changed by other connections' writes alone (SQLite, "PRAGMA data_version").
            let version = data_version(connection);
            if std::mem::replace(&mut last, version) != version {
                changes.tick.send_modify(|tick| *tick += 1);
            }
        });
        changes.written.fetch_add(1, Ordering::Relaxed);
        // What was committed to a file that is gone is not to be answered as durable.
        changes.lose(files);
        let written = changes.usable().and(written);
        if let Err(e) = &written
            && changes.usable().is_ok()
        {
            tracing::error!("a transaction of {} jobs failed: {e}", jobs.len());
        }
        for job in jobs {
            job.finish(written.clone());
        }
        checkpoints.follow(connection);
    }
}

fn transact(
    connection: &Connection,
    jobs: &mut [Box<dyn Job>],
    begun: impl FnOnce(),
) -> Result<(), StoreError> {
    let run = |jobs: &mut [Box<dyn Job>]| {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        begun();
        jobs.iter_mut().try_for_each(|job| job.run(connection))
    };
    let undo = |e: rusqlite::Error| {
        if !connection.is_autocommit() {
            let _already = connection.execute_batch("ROLLBACK");
        }
        e
    };
    // A job that panics must not take the writer, and with it all later writes, along.
    let ran = catch_unwind(AssertUnwindSafe(|| run(jobs)));
    let ran = ran.unwrap_or(Err(rusqlite::Error::UnwindingPanic));
    ran.map_err(undo).map_err(|e| explain(&e, StoreError::RolledBack))?;
    let committed = connection.prepare_cached("COMMIT").and_then(|mut s| s.execute([]));
    committed.map_err(undo).map_err(|e| explain(&e, StoreError::Unknown))?;
    Ok(())
}
