//! Errors of the store, and their texts: what is wrong, where, and what to do.

use std::path::Path;

use rusqlite::ErrorCode;

/// Why a read or write of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The transaction was rolled back, and can be repeated.
    #[error("{0}")]
    RolledBack(String),
    /// COMMIT failed: the transaction may or may not be on disk.
    #[error("{0}")]
    Unknown(String),
    /// The file cannot be used; a retry does not help.
    #[error("{0}")]
    Broken(String),
}

const ELSEWHERE: &str = "set FLUX_DATA to another file";

pub fn not_a_store(path: &Path) -> StoreError {
    let what = "is not a store of flux: it belongs to another program";
    StoreError::Broken(format!("{} {what}; move it away, or {ELSEWHERE}", path.display()))
}

pub fn other_schema(path: &Path, found: i32, wanted: i32) -> StoreError {
    StoreError::Broken(format!(
        "{} was created by another version of flux (schema {found}; this version has {wanted}): use \
         that version, or {ELSEWHERE}",
        path.display()
    ))
}

/// The file, its log or the log's index was removed or replaced while the store was open.
pub fn lost(replaced: &Path) -> StoreError {
    StoreError::Broken(format!(
        "{} was removed or replaced while this process used it: this process has stopped using the \
         store; stop all processes, move the remaining files of the store (with -wal and -shm) \
         away, restore a backup with `flux restore`, and start again",
        replaced.display()
    ))
}

/// The file was removed or replaced while the store was being opened.
pub fn replaced(path: &Path) -> StoreError {
    let what = "was removed or replaced while it was opened: try again";
    StoreError::Broken(format!("{} {what}", path.display()))
}

/// The error of opening the file, with its cause and remedy.
pub fn refusal(path: &Path, error: &rusqlite::Error) -> StoreError {
    let shown = path.display();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let no_folder = folder.filter(|folder| !folder.exists());
    StoreError::Broken(match (error.sqlite_error_code(), no_folder) {
        (_, Some(folder)) => {
            format!("there is no directory {}: create it, or {ELSEWHERE}", folder.display())
        }
        _ if path.is_dir() => format!("{shown} is a directory: {ELSEWHERE}"),
        (Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly), _) => {
            format!(
                "{shown} cannot be written: check the permissions of the file and its directory"
            )
        }
        (Some(ErrorCode::NotADatabase), _) => return not_a_store(path),
        (Some(ErrorCode::DatabaseCorrupt), _) => {
            format!("{shown} is damaged ({error}): restore a backup, or {ELSEWHERE}")
        }
        _ => format!("{shown} cannot be used as a store: {error}"),
    })
}

/// The error of a failed transaction or read. `kind` is its kind if repeating it can succeed.
pub fn explain(error: &rusqlite::Error, kind: fn(String) -> StoreError) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => kind("the disk is full: free some space".to_owned()),
        Some(ErrorCode::ReadOnly) => {
            StoreError::Broken("the store is read-only: check its permissions".to_owned())
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Broken(format!(
            "the store is damaged ({error}): restore a backup, or {ELSEWHERE}"
        )),
        _ => kind(error.to_string()),
    }
}

/// The error of a failed read. A row with values that flux never writes is `Broken`, because
/// reading it again gives the same.
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
            StoreError::Broken(format!("a row of the store is damaged ({error}): restore a backup"))
        }
        _ => explain(error, StoreError::RolledBack),
    }
}
