//! Moves what is in the write-ahead log into the file, beside the writer. Where SQLite does so by
//! itself, inside of the COMMIT that fills the log, whoever waits for that transaction waits for
//! two syncs and a thousand pages more.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

/// Pages in the log at which a checkpoint begins, some 16 MB: a page that is written again and
/// again is moved once. SQLite itself begins at 1,000, which costs keyed orders a seventh.
const PAGES: i32 = 4_000;
/// Pages at which the writer waits for it after all, so that the log is bounded: some 66 MB.
const PAGES_MAX: i32 = 4 * PAGES;

thread_local!(static LOGGED: Cell<i32> = const { Cell::new(0) });

/// The writer's side. On the writer's connection SQLite itself begins no checkpoint any more.
pub struct Checkpoints {
    begin: Sender<()>,
    ended: Receiver<()>,
    under_way: bool,
}

impl Checkpoints {
    /// Together with what a thread of its own does on another connection, until the writer's side
    /// is gone.
    pub fn beside(
        writer: &mut Connection,
    ) -> rusqlite::Result<(Self, impl FnOnce(Connection) + Send + 'static)> {
        writer.wal_hook(Some(|_: &mut Wal, pages| {
            LOGGED.set(pages);
            Ok(())
        }))?;
        let ((begin, begun), (end, ended)) = (channel(), channel());
        let run = move |connection: Connection| {
            while begun.recv().is_ok() {
                checkpoint(&connection);
                let _gone = end.send(());
            }
        };
        Ok((Self { begin, ended, under_way: false }, run))
    }

    /// After each transaction, on the writer's thread.
    pub fn follow(&mut self, writer: &Connection) {
        let pages = LOGGED.take();
        if !self.under_way {
            self.under_way = pages >= PAGES && self.begin.send(()).is_ok();
            return;
        }
        let ended = if pages < PAGES_MAX {
            self.ended.try_recv().is_ok()
        } else {
            self.ended.recv().is_ok()
        };
        if ended {
            // What was written meanwhile: only when all is moved does the log begin anew.
            checkpoint(writer);
            self.under_way = false;
        }
    }
}

/// Moves as much as can be without waiting for anybody. A failure does no harm: the log keeps what
/// it holds, the next one takes it along, and a disk that is full fails transactions, which is told.
fn checkpoint(connection: &Connection) {
    if let Err(e) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::debug!("the write-ahead log stays as it is: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::sqlite::store::Store;

    #[tokio::test]
    async fn write_ahead_log_is_bounded() {
        const ONCE: i32 = 500;
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("flux.db")).unwrap();
        for _ in 0..2 * PAGES_MAX / ONCE {
            let write = |tx: &Connection| {
                let large = "INSERT OR REPLACE INTO meta VALUES ('large', randomblob(4096 * ?))";
                tx.execute(large, [ONCE])
            };
            store.write(write).await.unwrap();
        }
        let log = std::fs::metadata(directory.path().join("flux.db-wal")).unwrap().len();
        let bound = (PAGES_MAX + 2 * ONCE) as u64 * (4096 + 24);
        assert!(log < bound, "{log} bytes");
    }
}
