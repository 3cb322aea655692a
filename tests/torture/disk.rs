//! A disk that is full, and files that may not grow.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

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

/// From now on these processes can write no file beyond so many bytes; they are told so by the
/// failing write, as on a full disk, and not by a signal.
pub fn limit_files(processes: &[Process], bytes: u64) {
    for process in processes {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        let pid = process.child.id() as libc::pid_t;
        // SAFETY: a plain system call on a child of ours; the old limit is not asked for.
        let set = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}
