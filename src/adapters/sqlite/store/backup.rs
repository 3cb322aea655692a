//! A copy of the whole store as it was at one instant, while a sale runs.
//!
//! `VACUUM INTO` reads one snapshot: others write on meanwhile, and the copy does not start again
//! as SQLite's online backup does at each write of another process. Until it is done the
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

/// Steps of SQLite's machine between two looks at whether to go on: some milliseconds.
const STEPS: i32 = 100_000;

/// Why there is no copy. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Something to change first.
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

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Items that are listed or were ordered.
    pub items: u64,
    pub orders: u64,
    /// Orders among them that wait for a decision.
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

/// Copies the store into a new file, readable by its owner alone, that has its name only when it
/// is whole and on disk. Blocks until then; cancelling it leaves nothing.
pub fn backup(store: &Path, to: &Path, stop: &CancellationToken) -> Result<Contents, CopyError> {
    let refused = |e: rusqlite::Error| refusal(store, &e);
    let folder = folder(to);
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(CopyError::Refused(format!("there is no directory {folder}: make it")));
    }
    is_free(to)?;
    is_none_of(store, to)?;
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

/// Nothing has this name, and nothing would be taken for a part of what gets it.
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

/// SQLite would take a copy of this name for a part of the store.
fn is_none_of(store: &Path, path: &Path) -> Result<(), CopyError> {
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

/// The directory in which a file of this name is.
pub fn folder(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

pub fn failed(path: &Path, why: &dyn fmt::Display) -> CopyError {
    CopyError::Failed(format!("cannot write {}: {why}", path.display()))
}

/// A copy in a directory of its own, beside the place where it will be; dropping it removes both.
pub struct Staged {
    directory: TempDir,
    pub file: PathBuf,
}

impl Staged {
    /// Copies the snapshot that the source has now.
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
        let file = files::make(&directory.path().join("flux.db"));
        let stop = stop.clone();
        source
            .progress_handler(STEPS, Some(move || stop.is_cancelled()))
            .map_err(|e| failed(&e))?;
        // As it is: a path need not be UTF-8.
        let name = ToSqlOutput::Borrowed(ValueRef::Text(file.as_os_str().as_bytes()));
        source.execute("VACUUM INTO ?", [name]).map_err(|e| copy_error(folder, &e))?;
        Ok(Staged { directory, file })
    }

    fn contents(&self) -> rusqlite::Result<Contents> {
        Contents::of(&Connection::open_with_flags(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
    }

    /// Brings it to the disk. SQLite must have no connection to it.
    pub fn sync(&self) -> std::io::Result<()> {
        File::open(&self.file)?.sync_all()
    }

    /// Gives it a name that nothing has.
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

/// Brings the names in the file's directory to the disk.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn copy_error(folder: &Path, error: &rusqlite::Error) -> CopyError {
    let folder = folder.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => {
            CopyError::Failed("stopped before the end: nothing was written".to_owned())
        }
        Some(ErrorCode::DiskFull) => {
            CopyError::Failed(format!("no room for a copy in {folder}: free some space"))
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            CopyError::Failed(format!("what is to be copied is damaged: {error}"))
        }
        _ => CopyError::Failed(format!("cannot write a copy in {folder}: {error}")),
    }
}
