//! A directory in which `flux` runs, and its processes.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flux::config::Settings;
use flux::core::engine::Ports;
use flux::wiring;
use rustix::process::{Pid, Signal, kill_process};

use super::{GRACE, ITEMS, PATIENCE};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// A temporary directory and an environment for the processes of a test.
pub struct Place {
    directory: tempfile::TempDir,
    pub environment: HashMap<String, String>,
    /// Limit of open files and connections per process. `None`: the limit of the test process.
    pub descriptors: Option<u64>,
}

impl Place {
    pub fn new(environment: &[(&str, &str)]) -> Self {
        Self::new_in(&std::env::temp_dir(), environment)
    }

    pub fn new_in(folder: &Path, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let directory = tempfile::tempdir_in(folder).unwrap();
        Self { directory, environment: environment.collect(), descriptors: None }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(FLUX);
        command.args(arguments);
        command
    }

    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).env_clear().envs(&self.environment);
        command
    }

    /// Starts a process in the background. Its log is appended to `NAME.log`.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Process {
        let log = self.path().join(format!("{name}.log"));
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        // A write beyond a file's limit fails, as on a full disk, instead of killing the process.
        let limits = match self.descriptors {
            Some(most) => format!("trap '' XFSZ; ulimit -n {most}; exec \"$0\" \"$@\""),
            None => "trap '' XFSZ; exec \"$0\" \"$@\"".to_owned(),
        };
        let mut command = self.program("/bin/sh");
        command.args(["-c", &limits, FLUX]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn();
        Process { child: child.unwrap(), log }
    }

    /// Runs a command until it ends. Other tasks, such as the proxies, continue.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::block_in_place(|| command.stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a command, which must succeed. Returns its output.
    pub fn run_well(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}\n{said}\n{printed}", output.status);
        printed
    }

    /// Lists the items. Returns the output of the last command.
    pub fn provision(&self, more: &[&str]) -> String {
        let list = |(item, stock): (&str, u64)| {
            let stock = stock.to_string();
            let arguments = ["provision", "--item", item, "--stock", &stock];
            self.run_well(&[&arguments, more].concat())
        };
        ITEMS.map(list).into_iter().next_back().unwrap()
    }

    /// The ports of the same backend, for the test.
    pub async fn ports(&self) -> Ports {
        let environment = self.environment.clone().into_iter().collect();
        let mut settings =
            Settings::load_from(self.path(), environment, &Default::default()).unwrap();
        settings.data = self.path().join(&settings.data);
        wiring::connect(&settings).await.unwrap()
    }

    /// The report of the audit on all items.
    pub fn audit(&self) -> serde_json::Value {
        let output = self.run(&["audit", "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    /// The lines of all processes' logs that contain these words.
    pub fn logged(&self, words: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|file| file.extension().is_some_and(|e| e == "log"));
        let text: String = logs.map(|log| std::fs::read_to_string(log).unwrap()).collect();
        text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    /// Waits until this number of log lines contains these words.
    pub async fn logs(&self, words: &str, lines: usize) {
        let begun = Instant::now();
        while self.logged(words).len() < lines {
            assert!(begun.elapsed() < PATIENCE, "{words}: {:?}", self.logged(""));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Number of redeliveries that workers received.
    pub fn redelivered(&self) -> usize {
        let count = |line: &String| line.split("count=").nth(1)?.parse::<usize>().ok();
        self.logged("redeliveries received").iter().filter_map(count).sum()
    }
}

/// A running `flux` process. Dropping it kills the process.
pub struct Process {
    pub child: Child,
    log: PathBuf,
}

impl Process {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM. The process must exit with success within the grace period.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // A process that does not handle the signal yet is killed by it.
                let killed_early = status.signal() == Some(Signal::TERM.as_raw());
                assert!(status.success() || killed_early, "{status}: {}", self.said());
                return;
            }
            assert!(begun.elapsed() < GRACE, "still runs: {}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of its log.
    pub fn said(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
