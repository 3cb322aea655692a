//! Checkpoints: copies the write-ahead log into the file, on a thread of its own. By default SQLite
//! does this inside the COMMIT that fills the log, so the callers of that transaction would wait for
//! two more syncs and a thousand pages.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

/// Pages in the log at which a checkpoint begins, about 16 MB. A page that was written many times is
/// copied once. With SQLite's default of 1,000, keyed orders are a seventh slower.
const PAGES: i32 = 4_000;
/// Pages in the log at which the writer waits for the checkpoint, about 66 MB. It bounds the log.
const PAGES_MAX: i32 = 4 * PAGES;

// Set by SQLite's hook on the writer's thread.
thread_local!(static LOGGED: Cell<i32> = const { Cell::new(0) });

/// The writer's side of the checkpoint thread.
pub struct Checkpoints {
    start: Sender<()>,
    done: Receiver<()>,
    running: bool,
}

impl Checkpoints {
    /// Returns the writer's side, and the body of the checkpoint thread, which runs until the
    /// writer's side is dropped. The hook on `writer` replaces SQLite's automatic checkpoints.
    pub fn new(
        writer: &mut Connection,
    ) -> rusqlite::Result<(Self, impl FnOnce(Connection) + Send + 'static)> {
        writer.wal_hook(Some(|_: &mut Wal, pages| {
            LOGGED.set(pages);
            Ok(())
        }))?;
        let (start, started) = channel();
        let (finish, done) = channel();
        let run = move |connection: Connection| {
            while started.recv().is_ok() {
                checkpoint(&connection);
                let _writer_ended = finish.send(());
            }
        };
        Ok((Self { start, done, running: false }, run))
    }

    /// Called on the writer's thread after each transaction.
    ///
    /// SQLite writes the log from its start only after every page in it was copied. The checkpoint
    /// thread alone never gets there under load, because the writer appends pages while it copies.
    /// So when the thread has finished, the writer copies the few pages that were appended in the
    /// meantime; this process appends none during that. Another process can, and then the next
    /// round copies them. If the process is killed at any point, the log keeps its pages, and
    /// SQLite reads them from there when the file is next opened.
    pub fn after_transaction(&mut self, writer: &Connection) {
        let pages = LOGGED.take();
        if !self.running {
            self.running = pages >= PAGES && self.start.send(()).is_ok();
            return;
        }
        let is_done =
            if pages < PAGES_MAX { self.done.try_recv().is_ok() } else { self.done.recv().is_ok() };
        if is_done {
            checkpoint(writer);
            self.running = false;
        }
    }
}

/// Copies what can be copied without waiting for readers or writers. A failure does no harm: the log
/// keeps its pages, and the next checkpoint copies them. A full disk is reported by the transactions
/// that it fails.
fn checkpoint(connection: &Connection) {
    if let Err(e) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::debug!("checkpoint failed; the write-ahead log keeps its pages: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::sqlite::store::Store;

    #[tokio::test]
    async fn write_ahead_log_is_bounded() {
        const PAGES_PER_WRITE: i32 = 500;
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("flux.db")).unwrap();
        for _ in 0..2 * PAGES_MAX / PAGES_PER_WRITE {
            let write = |tx: &Connection| {
                let large = "INSERT OR REPLACE INTO meta VALUES ('large', randomblob(4096 * ?))";
                tx.execute(large, [PAGES_PER_WRITE])
            };
            store.write(write).await.unwrap();
        }
        let log = std::fs::metadata(directory.path().join("flux.db-wal")).unwrap().len();
        let bound = (PAGES_MAX + 2 * PAGES_PER_WRITE) as u64 * (4096 + 24);
        assert!(log < bound, "{log} bytes");
    }
}
