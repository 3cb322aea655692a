//! What can be wrong with the file, in words that say what to do.

use std::path::Path;

use rusqlite::ErrorCode;

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Rolled back whole; the same may be done again.
    #[error("{0}")]
    RolledBack(String),
    /// The commit itself failed: it may or may not be on disk.
    #[error("{0}")]
    Unknown(String),
    /// Not a file flux can work with.
    #[error("{0}")]
    Broken(String),
}

const ELSEWHERE: &str = "set FLUX_DATA to another file";

pub fn not_a_store(path: &Path) -> StoreError {
    let what = "is not a store of flux but another program's file";
    StoreError::Broken(format!("{} {what}: move it away, or {ELSEWHERE}", path.display()))
}

pub fn other_schema(path: &Path, found: i32, wanted: i32) -> StoreError {
    StoreError::Broken(format!(
        "{} was made by another version of flux (schema {found}, here {wanted}): use that one, or \
         {ELSEWHERE}",
        path.display()
    ))
}

/// The file, or what belongs to it, was taken away from under this process.
pub fn lost(gone: &Path) -> StoreError {
    StoreError::Broken(format!(
        "{} was removed or replaced while this process used it: nothing is read or written any \
         more; stop all processes, move what is left of the store and its -wal and -shm away, put a \
         backup there with `flux restore`, and start again",
        gone.display()
    ))
}

/// The same, in the moment of opening.
pub fn replaced(path: &Path) -> StoreError {
    let what = "was removed or replaced while it was opened: try again";
    StoreError::Broken(format!("{} {what}", path.display()))
}

/// Why the file cannot be opened, and what to do.
pub fn refusal(path: &Path, error: &rusqlite::Error) -> StoreError {
    let shown = path.display();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let no_folder = folder.filter(|folder| !folder.exists());
    StoreError::Broken(match (error.sqlite_error_code(), no_folder) {
        (_, Some(folder)) => {
            format!("there is no directory {}: make it, or {ELSEWHERE}", folder.display())
        }
        _ if path.is_dir() => format!("{shown} is a directory: {ELSEWHERE}"),
        (Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly), _) => {
            format!("{shown} cannot be written: check its and its directory's permissions")
        }
        (Some(ErrorCode::NotADatabase), _) => return not_a_store(path),
        (Some(ErrorCode::DatabaseCorrupt), _) => {
            format!("{shown} is damaged ({error}): restore a copy of it, or {ELSEWHERE}")
        }
        _ => format!("{shown} cannot be used as a store: {error}"),
    })
}

/// What a failed transaction or read means for what it was to do.
pub fn explain(error: &rusqlite::Error, kind: fn(String) -> StoreError) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => kind("the disk is full: free some space".to_owned()),
        Some(ErrorCode::ReadOnly) => {
            StoreError::Broken("the store is read-only: check its permissions".to_owned())
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Broken(format!(
            "the store is damaged ({error}): restore a copy of it, or {ELSEWHERE}"
        )),
        _ => kind(error.to_string()),
    }
}

/// What a failed read means. A row that says what flux never writes will say it again.
pub fn unreadable(error: &rusqlite::Error) -> StoreError {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows,
    };
    match error {
        QueryReturnedNoRows => {
            let what = "a row that every store has is missing: restore a backup";
            StoreError::Broken(what.to_owned())
        }
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) => {
            StoreError::Broken(format!("a row of the store is damaged: {error}"))
        }
        _ => explain(error, StoreError::RolledBack),
    }
}
