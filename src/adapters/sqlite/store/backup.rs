//! Backups: a copy of the whole store at one instant, while a sale is running.
//!
//! `VACUUM INTO` reads one snapshot. Others can write during the copy, and unlike SQLite's online
//! backup, the copy does not restart when another process writes. Until the copy is complete, the
//! write-ahead log only grows.

use std::fmt;
use std::fs::{File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tempfile::{TempDir, TempPath};
use tokio_util::sync::CancellationToken;

use super::errors::{StoreError, refusal};
use super::files;
use super::files::{BESIDE, beside};
use super::schema::readable;
use super::wait_busy;

/// Instructions of SQLite's virtual machine between two checks for cancellation: a few milliseconds.
const CHECK_STOP_EVERY: i32 = 100_000;

/// Why the copy failed. No part of it is left on disk.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The caller has to change something first.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for CopyError {
    fn from(e: StoreError) -> Self {
        Self::Refused(e.to_string())
    }
}

/// The counts of a store's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Items that are listed or have orders.
    pub items: u64,
    pub orders: u64,
    /// Orders that wait for a decision.
    pub undecided: u64,
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "items {}, orders {}, undecided {}", self.items, self.orders, self.undecided)
    }
}

impl Contents {
    pub fn of(connection: &Connection) -> rusqlite::Result<Contents> {
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get(0));
        Ok(Contents {
            items: count("SELECT count(*) FROM items")?,
            orders: count("SELECT count(*) FROM orders")?,
            undecided: count("SELECT count(*) FROM orders WHERE state = 10")?,
        })
    }
}

/// Copies the store into the new file `to`, which only its owner can read. The file gets its name
/// after the copy is complete and on disk. Blocks until then; a cancelled copy leaves no files.
pub fn backup(store: &Path, to: &Path, stop: &CancellationToken) -> Result<Contents, CopyError> {
    let refused = |e: rusqlite::Error| refusal(store, &e);
    let folder = folder(to);
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(CopyError::Refused(format!("there is no directory {folder}: create it")));
    }
    is_free(to)?;
    is_no_part_of(store, to)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut source = Connection::open_with_flags(store, flags).map_err(refused)?;
    source.busy_handler(Some(wait_busy)).map_err(refused)?;
    readable(store, &source).map_err(refused)??;
    let staged = Staged::copy(&mut source, &folder, stop)?;
    drop(source);
    let contents = staged.contents().map_err(|e| failed(to, &e))?;
    staged.sync().map_err(|e| failed(to, &e))?;
    staged.keep_as(to)?;
    Ok(contents)
}

/// Refuses a name that is taken, or whose `-wal`, `-shm` or `-journal` is: SQLite would apply these
/// to the new file.
pub fn is_free(path: &Path) -> Result<(), CopyError> {
    let parts = BESIDE.iter().map(|suffix| beside(path, suffix));
    let taken = std::iter::once(path.to_owned()).chain(parts);
    match taken.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(taken) => {
            let taken = taken.display();
            Err(CopyError::Refused(format!(
                "{taken} is there already: move it, or choose another name"
            )))
        }
    }
}

/// Refuses the names of the store's own `-wal`, `-shm` and `-journal`.
fn is_no_part_of(store: &Path, path: &Path) -> Result<(), CopyError> {
    let store = store.canonicalize().unwrap_or(store.to_owned());
    let absolute = folder(path).canonicalize().unwrap_or_default();
    let absolute = absolute.join(path.file_name().unwrap_or_default());
    if BESIDE.iter().any(|suffix| beside(&store, suffix) == absolute) {
        let path = path.display();
        return Err(CopyError::Refused(format!(
            "{path} is a part of the store: choose another name"
        )));
    }
    Ok(())
}

/// The directory of the path.
pub fn folder(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

pub fn failed(path: &Path, why: &dyn fmt::Display) -> CopyError {
    CopyError::Failed(format!("cannot write {}: {why}", path.display()))
}

/// A copy in a temporary directory beside its final path. Dropping it removes both.
pub struct Staged {
    directory: TempDir,
    pub file: PathBuf,
}

impl Staged {
    /// Copies a snapshot of the source.
    pub fn copy(
        source: &mut Connection,
        folder: &Path,
        stop: &CancellationToken,
    ) -> Result<Staged, CopyError> {
        let failed = |e: &dyn fmt::Display| failed(folder, e);
        let directory = tempfile::Builder::new()
            .prefix(".flux-copy-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(folder)
            .map_err(|e| failed(&e))?;
        let file = files::create_if_missing(&directory.path().join("flux.db"));
        let stop = stop.clone();
        source
            .progress_handler(CHECK_STOP_EVERY, Some(move || stop.is_cancelled()))
            .map_err(|e| failed(&e))?;
        // As bytes, because a path need not be UTF-8.
        let name = ToSqlOutput::Borrowed(ValueRef::Text(file.as_os_str().as_bytes()));
        source.execute("VACUUM INTO ?", [name]).map_err(|e| copy_error(folder, &e))?;
        Ok(Staged { directory, file })
    }

    fn contents(&self) -> rusqlite::Result<Contents> {
        Contents::of(&Connection::open_with_flags(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
    }

    /// Syncs the copy to disk. SQLite must have no connection to it.
    pub fn sync(&self) -> std::io::Result<()> {
        File::open(&self.file)?.sync_all()
    }

    /// Moves the copy to its final path, which must be free, and syncs the directory.
    pub fn keep_as(self, to: &Path) -> Result<(), CopyError> {
        let staged = TempPath::try_from_path(&self.file).map_err(|e| failed(to, &e))?;
        let named = staged.persist_noclobber(to);
        named.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                let to = to.display();
                CopyError::Refused(format!("{to} is there already: choose another name"))
            }
            _ => failed(to, &e.error),
        })?;
        drop(self.directory);
        sync_folder(to).map_err(|e| {
            let _left = std::fs::remove_file(to);
            failed(to, &e)
        })
    }
}

/// Syncs the directory of the path to disk, and with it the names of its files.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn copy_error(folder: &Path, error: &rusqlite::Error) -> CopyError {
    let folder = folder.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => {
            CopyError::Failed("stopped before the end; no copy was written".to_owned())
        }
        Some(ErrorCode::DiskFull) => {
            CopyError::Failed(format!("the disk is full: free some space for a copy in {folder}"))
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            CopyError::Failed(format!("the source of the copy is damaged: {error}"))
        }
        _ => CopyError::Failed(format!("cannot write a copy in {folder}: {error}")),
    }
}
