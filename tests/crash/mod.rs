//! Does it keep its promises when processes die? The real executable under load, its processes
//! killed, stopped and started again at random instants.

mod aws;
mod buyers;
mod embedded;
mod sale;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flux::config::Settings;
use flux::core::Ports;
use flux::core::ledger::{OrderRecord, OrderState};
use flux::core::order::OrderId;
use flux::wiring;

/// How long anything that must come to its end may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// A process's default grace period.
const GRACE: Duration = Duration::from_secs(9);
/// Items with their stock: the first is never sold out, the second after a while.
const ITEMS: [(&str, u64); 4] =
    [("hall_A", 10_000_000), ("hall_B", 500), ("hall_C", 7), ("unique", 1)];

/// A place where `flux` runs: a directory and an environment of the test's own.
struct Place {
    directory: tempfile::TempDir,
    environment: HashMap<String, String>,
}

impl Place {
    fn new(environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Self { directory: tempfile::tempdir().unwrap(), environment: environment.collect() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flux"));
        command.args(arguments).current_dir(self.path()).env_clear().envs(&self.environment);
        command
    }

    /// Starts a process that runs on; its log is appended to `NAME.log`.
    fn start(&self, name: &str, arguments: &[&str]) -> Process {
        let log = self.path().join(format!("{name}.log"));
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        Process { child: child.unwrap(), log }
    }

    /// Runs to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs to its end, which must be a good one; what it printed.
    fn run_well(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}\n{said}\n{printed}", output.status);
        printed
    }

    /// Lists the items; what the last run printed.
    fn provision(&self, more: &[&str]) -> String {
        let list = |(item, stock): (&str, u64)| {
            let stock = stock.to_string();
            let arguments = ["provision", "--item", item, "--stock", &stock];
            self.run_well(&[&arguments, more].concat())
        };
        ITEMS.map(list).into_iter().next_back().unwrap()
    }

    /// The same backend, for the test to look at.
    async fn ports(&self) -> Ports {
        let environment = self.environment.clone().into_iter().collect();
        let mut settings =
            Settings::load_from(self.path(), environment, &Default::default()).unwrap();
        settings.data = self.path().join(&settings.data);
        wiring::connect(&settings).await.unwrap()
    }

    /// The audit's verdict and figures, on all items; nothing may be wrong or undecided.
    fn audit(&self) -> serde_json::Value {
        let report = serde_json::from_str(&self.run_well(&["audit", "--json"])).unwrap();
        let report: serde_json::Value = report;
        assert_eq!(report["verdict"], "pass", "{report}");
        for figure in ["oversold_units", "stranded_units", "undecided", "dead_lettered"] {
            assert_eq!(report[figure], 0, "{report}");
        }
        report
    }
}

/// A running `flux`; it ends with the test.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child is ours and not waited for yet, so the number is
        // still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells it to stop; it must end well within the grace period.
    async fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Told before it listens for it, it ends by the signal itself.
                let told_early = status.signal() == Some(libc::SIGTERM);
                assert!(status.success() || told_early, "{status}: {}", self.said());
                return;
            }
            assert!(begun.elapsed() < GRACE, "still runs: {}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A number below `n`.
fn chance(n: u64) -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64 % n
}

async fn pause_ms(from: u64, to: u64) {
    tokio::time::sleep(Duration::from_millis(from + chance(to - from))).await;
}

/// What became of each order, once all are decided.
async fn decisions(ports: &Ports, orders: &[OrderId]) -> Vec<OrderRecord> {
    let begun = Instant::now();
    loop {
        let found = ports.ledger.find(orders).await.unwrap();
        let decided = |record: &OrderRecord| matches!(record.state, OrderState::Decided { .. });
        let decided: Vec<_> = found.iter().flatten().filter(|r| decided(r)).cloned().collect();
        if decided.len() == orders.len() {
            return decided;
        }
        let (left, all) = (orders.len() - decided.len(), orders.len());
        assert!(begun.elapsed() < PATIENCE, "{left} of {all} accepted orders are not decided");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing waits in the queue, taken orders of which nobody knows included.
async fn queue_is_empty(ports: &Ports) {
    let begun = Instant::now();
    loop {
        let backlog = ports.queue.backlog().await.unwrap();
        assert_eq!(backlog.dead_letters, 0);
        if backlog.waiting == 0 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{} still wait", backlog.waiting);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
