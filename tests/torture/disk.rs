//! Full disks, and files that cannot grow.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::place::Process;

/// A small file system for one test. Mounting it needs root.
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

    /// Fills the disk until the returned value is dropped.
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
        // A lazy unmount, because its processes may still be ending.
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// The file that fills the disk.
pub struct Ballast(tempfile::NamedTempFile<File>);

/// Limits the size of the files that these processes can write; `None` is no limit. A write beyond
/// the limit fails as on a full disk, without a signal.
pub fn limit_files(processes: &[Process], bytes: Option<u64>) {
    for process in processes {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(Pid::from_child(&process.child)), Resource::Fsize, limit).unwrap();
    }
}
