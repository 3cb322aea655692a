//! Puts a copy in the place of the store, and takes a store away.
//!
//! The trap is a write-ahead log that outlives its file: SQLite would apply it to whatever file has
//! the name. So the store that is there is first taken out of WAL mode, which moves its log into it
//! and removes it, and for which nobody else may have it open. After that the file alone is the
//! store, and one `rename` replaces it: whatever is killed at whatever instant, the name stands for
//! the whole former store or the whole new one.

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
use super::plain;
use super::schema::readable;

/// How long to wait for somebody who has the store open for a moment.
const SEIZE_WITHIN: Duration = Duration::from_secs(1);

/// What was put in the place of the store.
#[derive(Debug)]
pub struct Restored {
    pub contents: Contents,
    /// Where the former store is, if there was one.
    pub former: Option<PathBuf>,
}

/// Puts a copy of `from`, which is left as it is, in the place of the store. One that holds orders
/// or dead letters is replaced only if `replace`. Blocks until all is on disk; cancelling it, or a
/// kill, leaves either the former store or the new one. `now` names the former one.
pub fn restore(
    from: &Path,
    store: &Path,
    replace: bool,
    now: &str,
    stop: &CancellationToken,
) -> Result<Restored, CopyError> {
    let place = files::resolve(store);
    if !folder(&place).is_dir() {
        let folder = folder(&place);
        let what = format!("there is no directory {}: make it", folder.display());
        return Err(CopyError::Refused(what));
    }
    if from.canonicalize().ok() == place.canonicalize().ok() {
        let from = from.display();
        return Err(CopyError::Refused(format!("{from} is the store itself: give a backup of it")));
    }
    let mut source = open_intact(from, stop)?;
    let contents = Contents::of(&source).map_err(|e| not_intact(from, &e.to_string()))?;
    if place.symlink_metadata().is_err() {
        is_free(&place)?;
        let staged = Staged::copy(&mut source, &folder(&place), stop)?;
        staged.sync().map_err(|e| failed(&place, &e))?;
        staged.keep_as(&place)?;
        return Ok(Restored { contents, former: None });
    }
    let seized = Seized::take(&place)?;
    if !replace && seized.holds_orders().map_err(|e| refusal(store, &e))? {
        let store = store.display();
        return Err(CopyError::Refused(format!(
            "{store} holds a sale: add --replace to put the backup in its place (the former store \
             is kept under another name)"
        )));
    }
    let staged = Staged::copy(&mut source, &folder(&place), stop)?;
    let former = seized.replace_by(staged, now)?;
    Ok(Restored { contents, former: Some(former) })
}

/// Deletes the store and all that belongs to it. No process may have it open, unless `force`; a
/// process that has it open then notices, see [`super::Store`].
pub fn delete(store: &Path, force: bool) -> Result<(), CopyError> {
    let place = files::resolve(store);
    let seized = if force { None } else { Some(Seized::take(&place)?) };
    let removed = files::remove(store);
    drop(seized);
    removed.map_err(|e| CopyError::Refused(format!("cannot delete {e}")))
}

/// A connection to a store that can be read, and that SQLite finds nothing wrong with. Writes
/// nothing into it.
fn open_intact(from: &Path, stop: &CancellationToken) -> Result<Connection, CopyError> {
    if !from.is_file() {
        let from = from.display();
        return Err(CopyError::Refused(format!("there is no file {from}: give a backup")));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let refused = |e: rusqlite::Error| not_intact(from, &e.to_string());
    let mut source = Connection::open_with_flags(from, flags).map_err(refused)?;
    readable(from, &source)
        .map_err(refused)?
        .map_err(|_| not_intact(from, "not a store of flux, or one of another version"))?;
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

/// A store that nobody else has open, or can open, until this is dropped; its file is all of it.
struct Seized {
    place: PathBuf,
    connection: Connection,
}

impl Seized {
    fn take(place: &Path) -> Result<Seized, CopyError> {
        let refused = |e: rusqlite::Error| {
            let shown = place.display();
            CopyError::Refused(match e.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    format!("another program has {shown} open: stop it first")
                }
                _ => format!(
                    "{shown} cannot be opened ({e}): move it away, with {shown}-wal and -shm"
                ),
            })
        };
        let connection = plain(place).map_err(refused)?;
        connection.busy_timeout(SEIZE_WITHIN).map_err(refused)?;
        readable(place, &connection).map_err(refused)??;
        let left: String = connection
            .pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))
            .map_err(refused)?;
        if left != "delete" {
            let shown = place.display();
            return Err(CopyError::Refused(format!("{shown} cannot be taken out of {left} mode")));
        }
        connection.execute_batch("BEGIN EXCLUSIVE").map_err(refused)?;
        let left = BESIDE.iter().map(|suffix| beside(place, suffix));
        match left.into_iter().find(|part| part.symlink_metadata().is_ok()) {
            None => Ok(Seized { place: place.to_owned(), connection }),
            Some(part) => {
                let part = part.display();
                Err(CopyError::Refused(format!("{part} is in the way: move it away")))
            }
        }
    }

    fn holds_orders(&self) -> rusqlite::Result<bool> {
        let any = "SELECT EXISTS (SELECT 1 FROM orders) OR EXISTS (SELECT 1 FROM dead_letters)";
        self.connection.query_row(any, [], |row| row.get(0))
    }

    /// Gives the store's name to the copy, with the owner and mode that the store has. Returns the
    /// name under which the former store is kept.
    fn replace_by(self, staged: Staged, now: &str) -> Result<PathBuf, CopyError> {
        let place = &self.place;
        let failed = |e: std::io::Error| failed(place, &e);
        let was = fs::metadata(place).map_err(failed)?;
        let is = fs::metadata(&staged.file).map_err(failed)?;
        if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
            chown(&staged.file, Some(was.uid()), Some(was.gid())).map_err(failed)?;
        }
        fs::set_permissions(&staged.file, PermissionsExt::from_mode(was.mode() & 0o777))
            .map_err(failed)?;
        staged.sync().map_err(failed)?;
        let former = beside(place, &format!(".before-restore-{now}"));
        fs::hard_link(place, &former).map_err(|e| {
            let former = former.display();
            CopyError::Failed(format!("cannot keep the former store as {former}: {e}"))
        })?;
        fs::rename(&staged.file, place).map_err(|e| {
            let _left = fs::remove_file(&former);
            failed(e)
        })?;
        sync_folder(place).map_err(failed)?;
        Ok(former)
    }
}
