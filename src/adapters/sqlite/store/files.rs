//! The store on disk: the file, its write-ahead log (`-wal`) and the log's index (`-shm`). Their
//! paths and permissions, and whether they are still the files that this process opened.
//!
//! Nothing here opens an existing file: closing any descriptor of a file releases all POSIX locks
//! that the process holds on it, SQLite's included.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Maximum length of a chain of symbolic links, as in Linux.
const LINKS_MAX: usize = 40;

/// Suffixes of the files that SQLite keeps beside the store in WAL mode.
pub const LOG: &str = "-wal";
pub const LOG_INDEX: &str = "-shm";

/// Suffixes of all files that belong to a store: these, and the journal of the other modes.
pub const BESIDE: [&str; 3] = [LOG, LOG_INDEX, "-journal"];

/// The path of the file with this suffix beside the store.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The path with symbolic links resolved, whether or not it exists. SQLite puts `-wal` and `-shm`
/// beside this path, not beside the link.
pub fn resolve(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    target
}

/// Creates an empty file that only its owner can read and write, if there is none. SQLite gives
/// `-wal` and `-shm` the mode of the file. Returns the absolute path, without symbolic links.
pub fn create_if_missing(path: &Path) -> PathBuf {
    let target = resolve(path);
    // If it cannot be created, SQLite cannot open it either, and its error says why.
    let _exists = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
    fs::canonicalize(path).unwrap_or(target)
}

/// Removes the file, the files that belong to it, and the link to it. A missing file is no error.
/// The store itself is removed first, because SQLite discards a log without a file, but would apply
/// a log to whatever file has the name next.
pub fn remove(path: &Path) -> io::Result<()> {
    let target = resolve(path);
    let parts = BESIDE.map(|suffix| beside(&target, suffix));
    for file in [target].into_iter().chain(parts).chain([path.to_owned()]) {
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io::Error::new(e.kind(), format!("{}: {e}", file.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether users other than the owner and the group can read the file. `false` if it has no
/// metadata that this process can read.
pub fn is_readable_by_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0)
}

/// Device and inode of a file.
type FileId = (u64, u64);

fn id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Device and inode of each file of the store at the time it was opened.
///
/// Processes share the store by its path. If somebody removes or replaces the file, this process
/// still has the old one open: its commits would succeed, and be lost, while other processes open
/// the new file. Comparing the identity detects this. The same is true for `-wal` and `-shm`:
/// without the log that it writes to, a process's commits are lost, and without the index that it
/// locks, two processes write at the same time.
#[derive(Debug)]
pub struct Identity(Vec<(PathBuf, FileId)>);

impl Identity {
    /// The identity of the file alone.
    pub fn of_file(path: &Path) -> io::Result<Identity> {
        Ok(Identity(vec![(path.to_owned(), id(path)?)]))
    }

    /// Adds the log and its index. SQLite removes them only when the last connection is closed, so
    /// they stay the same while this process has one.
    pub fn with_log(mut self) -> io::Result<Identity> {
        for suffix in [LOG, LOG_INDEX] {
            let path = beside(&self.0[0].0, suffix);
            let id = id(&path)?;
            self.0.push((path, id));
        }
        Ok(self)
    }

    /// Whether the path of the store itself names another file, or none.
    pub fn is_file_replaced(&self) -> bool {
        is_replaced(&self.0[0])
    }

    /// The first path that names another file, or none. Other errors, such as a failing disk, do
    /// not count: the file may still be there.
    pub fn first_replaced(&self) -> Option<&Path> {
        self.0.iter().find(|file| is_replaced(file)).map(|(path, _)| path.as_path())
    }
}

fn is_replaced((path, opened): &(PathBuf, FileId)) -> bool {
    match id(path) {
        Ok(now) => now != *opened,
        Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
