//! The store on disk: the file, its write-ahead log (`-wal`) and the index of that (`-shm`). Who may
//! read them, and whether they are still the ones that this process opened.
//!
//! Nothing here opens a file that exists: closing any descriptor of a file drops all POSIX locks
//! that the process has on it, SQLite's included.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most symbolic links in a row, as in Linux.
const LINKS_MAX: usize = 40;

/// What SQLite keeps beside a file in WAL mode.
pub const LOG: &str = "-wal";
pub const LOG_INDEX: &str = "-shm";

/// All that belongs to a file: these, and what SQLite keeps while it writes in another mode.
pub const BESIDE: [&str; 3] = [LOG, LOG_INDEX, "-journal"];

/// The name of a file that SQLite keeps beside this one.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The path behind symbolic links, whether or not there is a file. That is where SQLite puts what
/// it keeps beside the file.
pub fn resolve(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    target
}

/// Makes the file if there is none, empty and for its owner alone: SQLite gives `-wal` and `-shm`
/// the same mode. Returns its absolute path, without symbolic links.
pub fn make(path: &Path) -> PathBuf {
    let target = resolve(path);
    // Whatever keeps it from being made keeps SQLite from opening it, which says why.
    let _there = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
    fs::canonicalize(path).unwrap_or(target)
}

/// Removes the file with all that belongs to it, and a link to it; what is not there is no error.
/// The file goes first: SQLite removes a log that it finds beside none.
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

/// Whether users other than its owner and group may read the file. `false` if it cannot be seen.
pub fn is_readable_by_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0)
}

/// Which file a path names: device and inode.
type FileId = (u64, u64);

fn id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// The files as they were opened.
#[derive(Debug)]
pub struct Identity(Vec<(PathBuf, FileId)>);

impl Identity {
    /// Of the file alone.
    pub fn of_file(path: &Path) -> io::Result<Identity> {
        Ok(Identity(vec![(path.to_owned(), id(path)?)]))
    }

    /// With its log and the log's index. SQLite removes these only as the last connection is
    /// closed, so they stay the same while there is one.
    pub fn with_log(mut self) -> io::Result<Identity> {
        for suffix in [LOG, LOG_INDEX] {
            let path = beside(&self.0[0].0, suffix);
            let id = id(&path)?;
            self.0.push((path, id));
        }
        Ok(self)
    }

    /// Whether the path of the file itself names another one, or none.
    pub fn is_file_gone(&self) -> bool {
        is_gone(&self.0[0])
    }

    /// The first of the files whose path names another one, or none. An error that says neither is
    /// no answer: the file may be there.
    pub fn gone(&self) -> Option<&Path> {
        self.0.iter().find(|file| is_gone(file)).map(|(path, _)| path.as_path())
    }
}

fn is_gone((path, opened): &(PathBuf, FileId)) -> bool {
    match id(path) {
        Ok(now) => now != *opened,
        Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
