//! nginx in front of a server: Debian's nginx-light, which scripts/test installs.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::free_port;

const PATIENCE: Duration = Duration::from_secs(30);
/// Another process may take the free port before nginx listens on it.
const ATTEMPTS: usize = 5;

/// A running nginx; killed when dropped.
pub struct Nginx {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    _directory: TempDir,
}

impl Nginx {
    /// `server` is the content of the one `server` block; all else has nginx's defaults.
    pub fn start(server: &str) -> Nginx {
        for _ in 0..ATTEMPTS {
            if let Some(nginx) = Self::try_start(server) {
                return nginx;
            }
        }
        panic!("nginx does not start: is nginx-light installed?");
    }

    fn try_start(server: &str) -> Option<Nginx> {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let at = directory.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .concat();
        let file = directory.path().join("nginx.conf");
        let text = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\n{server}\n}}\n}}\n"
        );
        std::fs::write(&file, text).unwrap();
        // On Debian it is in a directory that is not in every user's PATH.
        let sbin = Path::new("/usr/sbin/nginx");
        let mut command = Command::new(if sbin.exists() { sbin } else { Path::new("nginx") });
        command.arg("-c").arg(&file).arg("-p").arg(directory.path());
        let child = command.stdin(Stdio::null()).spawn().expect("nginx: install nginx-light");
        let address = format!("127.0.0.1:{port}");
        let mut nginx = Nginx { child, address, _directory: directory };
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if nginx.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(&nginx.address).is_ok() {
                return Some(nginx);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
