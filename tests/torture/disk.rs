//! A disk that is full, and files that may not grow.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::place::Process;

/// A small file system of the test's own. Making one needs root.
pub struct Disk(tempfile::TempDir);

impl Disk {
    pub fn mount() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=48m", "flux-torture"])
            .arg(disk.path())
            .status();
        assert!(mounted.unwrap().success(), "a small disk can only be made by root");
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left, until it is dropped.
    pub fn fill(&self) -> Ballast {
        let file = tempfile::NamedTempFile::new_in(self.path()).unwrap();
        let mut ballast = Ballast(file);
        for size in [1 << 20, 4_096] {
            while ballast.0.write_all(&vec![7; size]).is_ok() {}
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: its processes may be on their way out.
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// What fills a disk.
pub struct Ballast(tempfile::NamedTempFile<File>);

/// From now on these processes can write no file beyond so many bytes, where `None` is no limit; they
/// are told so by the failing write, as on a full disk, and not by a signal.
pub fn limit_files(processes: &[Process], bytes: Option<u64>) {
    for process in processes {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(Pid::from_child(&process.child)), Resource::Fsize, limit).unwrap();
    }
}
