//! Replaces the store by a copy, and deletes a store.
//!
//! The danger is a write-ahead log that outlives its file: SQLite would apply it to whatever file
//! has the name next. Therefore the present store is first switched out of WAL mode. SQLite then
//! copies the log into the file and removes it, and refuses this while anybody else has the store
//! open. After that the file alone is the store, and one `rename` replaces it: if the process is
//! killed at any point, the path names either the whole former store or the whole new one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio_util::sync::CancellationToken;

use super::backup::{Contents, CopyError, Staged, failed, folder, is_free, sync_folder};
use super::errors::refusal;
use super::files;
use super::files::{BESIDE, beside};
use super::open_existing;
use super::schema::readable;

/// How long to wait until other processes have closed the store.
const EXCLUSIVE_WITHIN: Duration = Duration::from_secs(1);

/// The result of a restore.
#[derive(Debug)]
pub struct Restored {
    pub contents: Contents,
    /// The path of the former store, if there was one.
    pub former: Option<PathBuf>,
}

/// Replaces the store by a copy of `from`. A store with orders or dead letters is replaced only if
/// `replace` is set; it is kept under a name that contains `now`. Blocks until the new store is on
/// disk. If the restore is cancelled or killed, the path names either the former store or the new
/// one, whole. `from` is not changed.
pub fn restore(
    from: &Path,
    store: &Path,
    replace: bool,
    now: &str,
    stop: &CancellationToken,
) -> Result<Restored, CopyError> {
    let target = files::resolve(store);
    if !folder(&target).is_dir() {
        let folder = folder(&target);
        let what = format!("there is no directory {}: create it", folder.display());
        return Err(CopyError::Refused(what));
    }
    if from.canonicalize().ok() == target.canonicalize().ok() {
        let from = from.display();
        return Err(CopyError::Refused(format!("{from} is the store itself: give a backup of it")));
    }
    let mut source = open_intact(from, stop)?;
    let contents = Contents::of(&source).map_err(|e| not_intact(from, &e.to_string()))?;
    if target.symlink_metadata().is_err() {
        is_free(&target)?;
        let staged = Staged::copy(&mut source, &folder(&target), stop)?;
        staged.sync().map_err(|e| failed(&target, &e))?;
        staged.keep_as(&target)?;
        return Ok(Restored { contents, former: None });
    }
    let exclusive = Exclusive::take(&target)?;
    if !replace && exclusive.holds_orders().map_err(|e| refusal(store, &e))? {
        let store = store.display();
        return Err(CopyError::Refused(format!(
            "{store} holds a sale: add --replace to put the backup in its place (the former store \
             is kept under another name)"
        )));
    }
    let staged = Staged::copy(&mut source, &folder(&target), stop)?;
    let former = exclusive.replace_by(staged, now)?;
    Ok(Restored { contents, former: Some(former) })
}

/// Deletes the store with the files that belong to it. Unless `force` is set, no process may have it
/// open. A process that still has it open detects the loss and stops using it.
pub fn delete(store: &Path, force: bool) -> Result<(), CopyError> {
    let target = files::resolve(store);
    let exclusive = if force { None } else { Some(Exclusive::take(&target)?) };
    let removed = files::remove(store);
    drop(exclusive);
    removed.map_err(|e| CopyError::Refused(format!("cannot delete {e}")))
}

/// Opens a store of a readable schema that passes SQLite's integrity check. Writes nothing.
fn open_intact(from: &Path, stop: &CancellationToken) -> Result<Connection, CopyError> {
    if !from.is_file() {
        let from = from.display();
        return Err(CopyError::Refused(format!("there is no file {from}: name a backup")));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let refused = |e: rusqlite::Error| not_intact(from, &e.to_string());
    let mut source = Connection::open_with_flags(from, flags).map_err(refused)?;
    readable(from, &source)
        .map_err(refused)?
        .map_err(|_| not_intact(from, "not a store of flux, or of another version"))?;
    let stopping = stop.clone();
    source.progress_handler(1_000, Some(move || stopping.is_cancelled())).map_err(refused)?;
    let found: String = source
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| not_intact(from, &e.to_string()))?;
    if found != "ok" {
        return Err(not_intact(from, &found.replace('\n', " ")));
    }
    Ok(source)
}

fn not_intact(from: &Path, why: &str) -> CopyError {
    CopyError::Refused(format!("{} cannot be restored: {why}", from.display()))
}

/// A store that nobody else has open, or can open, until this is dropped. It has no `-wal` or
/// `-shm`: the file is the whole store.
struct Exclusive {
    target: PathBuf,
    connection: Connection,
}

impl Exclusive {
    fn take(target: &Path) -> Result<Exclusive, CopyError> {
        let refused = |e: rusqlite::Error| {
            let shown = target.display();
            CopyError::Refused(match e.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    format!("another program has {shown} open: stop that program first")
                }
                _ => format!(
                    "{shown} cannot be opened ({e}): move it away, together with {shown}-wal and -shm"
                ),
            })
        };
        let connection = open_existing(target).map_err(refused)?;
        connection.busy_timeout(EXCLUSIVE_WITHIN).map_err(refused)?;
        readable(target, &connection).map_err(refused)??;
        let left: String = connection
            .pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))
            .map_err(refused)?;
        if left != "delete" {
            let shown = target.display();
            return Err(CopyError::Refused(format!(
                "{shown} cannot be switched out of {left} mode"
            )));
        }
        connection.execute_batch("BEGIN EXCLUSIVE").map_err(refused)?;
        let left = BESIDE.iter().map(|suffix| beside(target, suffix));
        match left.into_iter().find(|part| part.symlink_metadata().is_ok()) {
            None => Ok(Exclusive { target: target.to_owned(), connection }),
            Some(part) => {
                let part = part.display();
                Err(CopyError::Refused(format!(
                    "{part} does not belong to the store: move it away"
                )))
            }
        }
    }

    fn holds_orders(&self) -> rusqlite::Result<bool> {
        let any = "SELECT EXISTS (SELECT 1 FROM orders) OR EXISTS (SELECT 1 FROM dead_letters)";
        self.connection.query_row(any, [], |row| row.get(0))
    }

    /// Replaces the store by the copy, which gets the store's owner and mode. Returns the path under
    /// which the former store is kept.
    fn replace_by(self, staged: Staged, now: &str) -> Result<PathBuf, CopyError> {
        let target = &self.target;
        let failed = |e: std::io::Error| failed(target, &e);
        let was = fs::metadata(target).map_err(failed)?;
        let is = fs::metadata(&staged.file).map_err(failed)?;
        if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
            chown(&staged.file, Some(was.uid()), Some(was.gid())).map_err(failed)?;
        }
        fs::set_permissions(&staged.file, PermissionsExt::from_mode(was.mode() & 0o777))
            .map_err(failed)?;
        staged.sync().map_err(failed)?;
        let former = beside(target, &format!(".before-restore-{now}"));
        fs::hard_link(target, &former).map_err(|e| {
            let former = former.display();
            CopyError::Failed(format!("cannot keep the former store as {former}: {e}"))
        })?;
        fs::rename(&staged.file, target).map_err(|e| {
            let _left = fs::remove_file(&former);
            failed(e)
        })?;
        sync_folder(target).map_err(failed)?;
        Ok(former)
    }
}
