//! Redis with and without TLS.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{PATIENCE, SESAME, Workdir, buy, decided, http, story};
use crate::support::free_port;

/// A Redis server with a password; killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(directory: &Path, tls: bool) -> Server {
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--requirepass", SESAME, "--dir"]);
        command.arg(directory).stdout(Stdio::null());
        if tls {
            command.args(["--port", "0", "--tls-port", &port.to_string()]);
            command.args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]);
            command.args(["--tls-ca-cert-file", "cert.pem", "--tls-auth-clients", "no"]);
            command.current_dir(directory);
        } else {
            command.args(["--port", &port.to_string()]);
        }
        let child = command.spawn().expect("redis-server is installed: run scripts/test");
        Server { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

/// Waits until `/readyz` reports the lock as ok; false after [`PATIENCE`].
fn has_lock(address: &str) -> bool {
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        if http(address, "GET /readyz", "").1["lock"] == "ok" {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    false
}

#[test]
fn redis_over_tls_accepts_system_trusted_certificate() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let workdir = Workdir::on_aws()
        .with_file("cert.pem", pem("CERTIFICATE", made.cert.der()))
        .with_file("key.pem", pem("PRIVATE KEY", &made.signing_key.serialize_der()));
    let certificate = workdir.path("cert.pem");
    let redis = Server::start(workdir.directory.path(), true);
    let workdir = workdir
        .with("REDIS_HOST", "localhost")
        .with("REDIS_PORT", &redis.port.to_string())
        .with("REDIS_PASSWORD", SESAME)
        .with("FLUX_REDIS_TLS", "on");
    let (workdir, _) = story::provisioned(workdir, "");
    let workdir = workdir.with("SSL_CERT_FILE", certificate.to_str().unwrap());
    let (mut serve, address) = workdir.serve("--workers 5");
    assert!(has_lock(&address), "{:?}", serve.logged);
    let order = buy(&address, "ann", "ticket_001");
    assert_eq!(decided(&address, &order)["status"], "sold");
    serve.signal("TERM");
    serve.log_line("stopped");
    assert!(!serve.logged.concat().contains(SESAME));
}

#[test]
fn public_redis_without_tls_is_not_used() {
    let workdir = Workdir::on_aws();
    let redis = Server::start(workdir.directory.path(), false);
    let workdir = workdir
        // An address of this machine that does not look private.
        .with("REDIS_HOST", "127.1")
        .with("REDIS_PORT", &redis.port.to_string())
        .with("REDIS_PASSWORD", SESAME);
    let (workdir, _) = story::provisioned(workdir, "");
    let (mut serve, address) = workdir.serve("--workers 5");
    assert!(serve.logged.concat().contains("set redis_tls = off"), "{:?}", serve.logged);
    let order = buy(&address, "ann", "ticket_001");
    assert_eq!(decided(&address, &order)["status"], "sold");
    serve.signal("TERM");
    serve.log_line("stopped");
    drop(serve);

    let workdir = workdir.with("FLUX_REDIS_TLS", "off");
    let (mut serve, address) = workdir.serve("");
    assert!(has_lock(&address));
    let logged = serve.logged.concat();
    assert!(
        logged.contains("is sent unencrypted to 127.1") && !logged.contains(SESAME),
        "{logged}"
    );
    serve.signal("TERM");
    serve.log_line("stopped");
}
