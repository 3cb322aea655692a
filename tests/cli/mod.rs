//! The binary as a process: arguments, settings, errors, output, signals.

mod access;
mod api;
#[cfg(all(feature = "aws", feature = "redis"))]
mod aws;
mod backup;
mod board;
#[cfg(not(all(feature = "aws", feature = "redis", feature = "top")))]
mod features;
mod hangup;
mod items;
mod jwks;
mod letters;
mod logs;
mod pages;
mod proxy;
#[cfg(all(feature = "aws", feature = "redis"))]
mod redis;
mod refusals;
#[cfg(all(feature = "aws", feature = "redis"))]
mod shared_reads;
mod signals;
mod store;
mod story;
mod terminal;
#[cfg(feature = "otel")]
mod traces;
mod webhooks;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

#[cfg(all(feature = "aws", feature = "redis"))]
use crate::conformance::{address, fresh_name};
use crate::support::http::request;

/// Timeout of whatever must happen, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// The value of every secret; it must never be printed.
const SESAME: &str = "open-sesame-please";

/// A temporary working directory, and the whole environment of the processes that run in it.
struct Workdir {
    directory: TempDir,
    environment: Vec<(String, String)>,
}

impl Workdir {
    fn new() -> Workdir {
        let directory = tempfile::tempdir().unwrap();
        let environment = vec![("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())];
        Workdir { directory, environment }
    }

    /// Uses the stand-ins of AWS with unique names; nothing is provisioned.
    #[cfg(all(feature = "aws", feature = "redis"))]
    fn on_aws() -> Workdir {
        Workdir::new()
            .with("AWS_REGION", "eu-central-1")
            .with("AWS_ACCESS_KEY_ID", "local")
            .with("AWS_SECRET_ACCESS_KEY", SESAME)
            .with("AWS_ENDPOINT_URL_SQS", &address("FLUX_TEST_SQS"))
            .with("AWS_ENDPOINT_URL_DYNAMODB", &address("FLUX_TEST_DYNAMODB"))
            .with("DYNAMODB_TABLE", &fresh_name("sale"))
    }

    fn with(mut self, name: &str, value: &str) -> Workdir {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn with_file(self, name: &str, content: impl AsRef<[u8]>) -> Workdir {
        let file = self.path(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flux"));
        command.args(arguments.split_whitespace()).current_dir(&self.directory);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command that must succeed; returns its stdout.
    fn run(&self, arguments: &str) -> String {
        self.run_command(self.command(arguments))
    }

    fn run_command(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{command:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must be refused with exit code 2 and one line on stderr without a
    /// secret; returns the line. The warning of a process that waits for a service is ignored.
    fn refused(&self, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "flux {arguments}: {stderr}");
        let lines: Vec<&str> =
            stderr.lines().filter(|line| !line.contains("; retrying for 5s")).collect();
        assert_eq!(lines.len(), 1, "flux {arguments}: {stderr}");
        assert!(lines[0].starts_with("flux: ") && lines[0].len() < 250, "{stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains(SESAME), "{stderr}");
        lines[0].to_owned()
    }

    fn start(&self, arguments: &str) -> Process {
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Process::new(child)
    }

    /// Starts `flux serve` on a free port; returns the process and its address.
    fn serve(&self, arguments: &str) -> (Process, String) {
        let mut serve = self.start(&format!("serve --listen 127.0.0.1:0 {arguments}"));
        let line = serve.log_line("listening on http://");
        let address = line.split_once("http://").unwrap().1.to_owned();
        (serve, address)
    }
}

/// A running flux; killed when dropped.
struct Process {
    child: Child,
    stdout: Receiver<String>,
    log: Receiver<String>,
    /// Log lines read so far.
    logged: Vec<String>,
}

impl Process {
    fn new(mut child: Child) -> Process {
        let stdout = lines(child.stdout.take().unwrap());
        let log = lines(child.stderr.take().unwrap());
        Process { child, stdout, log, logged: Vec::new() }
    }

    /// Waits for a log line that contains `part`.
    fn log_line(&mut self, part: &str) -> String {
        loop {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                panic!("no {part:?} in the log: {:#?}", self.logged);
            };
            self.logged.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The next line on stdout.
    fn stdout_line(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).expect("a line on stdout")
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end; returns the status and how long the wait was.
    fn end(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let ended = wait_for(&mut self.child);
        let status = ended.unwrap_or_else(|| panic!("did not end: {:#?}", self.logged));
        (status, begun.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// Waits for the end of a process; kills it after [`PATIENCE`].
fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of a stream as they arrive.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

/// Sends one request; returns the status and the JSON body of the response.
fn http(address: &str, method_and_path: &str, body: &str) -> (u16, Value) {
    let response = request(address, method_and_path, &[], body);
    (response.status, response.json())
}

/// Sends an order that must be accepted; returns its id.
fn buy(address: &str, user: &str, item: &str) -> String {
    let body = json!({"user_id": user, "item_id": item}).to_string();
    let (status, answer) = http(address, "POST /buy", &body);
    assert_eq!(status, 202, "{answer}");
    answer["order_id"].as_str().unwrap().to_owned()
}

/// Waits for the decision of an order.
fn decided(address: &str, order: &str) -> Value {
    let (status, answer) = http(address, &format!("GET /orders/{order}?wait=20"), "");
    assert_eq!(status, 200, "{answer}");
    answer
}
