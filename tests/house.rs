//! Who may import whom: the rules of ARCHITECTURE.md, held against the sources.

use std::path::{Path, PathBuf};

struct Source {
    /// Below `src/`, like `core/queue/sqs.rs`.
    path: String,
    text: String,
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Source { path, text: std::fs::read_to_string(&file).unwrap() }
    };
    let sources: Vec<Source> = walk(&root).into_iter().map(read).collect();
    assert!(sources.len() > 30, "the sources were not found");
    sources
}

impl Source {
    /// Code lines that hold any of these.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let code = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let hits = code.filter(|line| words.iter().any(|word| line.contains(word)));
        hits.map(|line| format!("{}: {}", self.path, line.trim())).collect()
    }

    fn port(&self) -> Option<&str> {
        let port = self.path.strip_prefix("core/")?.split('/').next()?;
        ["queue", "lock", "ledger", "outcomes", "marks", "pulses", "webhooks", "trace"]
            .contains(&port)
            .then_some(port)
    }

    fn is_adapter(&self) -> bool {
        self.port().is_some() && !self.path.ends_with("/mod.rs")
    }
}

fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_adapters_and_their_vendor_connections_name_a_vendor() {
    let vendors = ["aws_", "fred::", "opentelemetry", "rusqlite"];
    let sources = sources();
    let others =
        sources.iter().filter(|s| !s.is_adapter() && !s.path.starts_with("core/connection/"));
    assert_none(
        others
            .flat_map(|s| s.lines_with(&vendors))
            .filter(|line| {
                // Settings keep the SDK's own names for their keys.
                !line.starts_with("config/keys.rs:")
                    && !line.starts_with("config.rs:")
                    && !line.contains("settings.aws_")
            })
            .collect(),
    );
}

#[test]
fn the_core_knows_nothing_of_what_is_around_it() {
    let around = ["config", "wiring", "http", "load", "cmd", "telemetry", "stop", "provision"];
    let words = around.map(|module| format!("crate::{module}"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let sources = sources();
    let core = sources.iter().filter(|s| s.path.starts_with("core/"));
    assert_none(core.flat_map(|s| s.lines_with(&words)).collect());
}

#[test]
fn an_adapter_imports_no_adapter_of_another_port() {
    let sources = sources();
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| s.is_adapter()) {
        for adapter in ["sqlite", "sqs", "dynamodb", "redis", "otlp"] {
            for port in
                ["queue", "lock", "ledger", "outcomes", "marks", "pulses", "webhooks", "trace"]
            {
                found.extend(source.lines_with(&[&format!("{port}::{adapter}")]));
            }
        }
    }
    assert_none(found);
}

#[test]
fn the_orders_road_knows_ports_and_no_adapter() {
    let adapters = ["::sqlite", "::sqs", "::dynamodb", "::redis", "::otlp", "core::connection"];
    let sources = sources();
    let road = sources.iter().filter(|s| s.path.starts_with("core/order/"));
    assert_none(road.flat_map(|s| s.lines_with(&adapters)).collect());
}

#[test]
fn only_the_wiring_names_adapters() {
    let adapters = ["::sqlite", "::sqs", "::dynamodb::", "::redis", "::otlp", "core::connection"];
    let sources = sources();
    let outside =
        sources.iter().filter(|s| !s.path.starts_with("core/") && !s.path.starts_with("wiring"));
    assert_none(outside.flat_map(|s| s.lines_with(&adapters)).collect());
}

#[test]
fn http_load_and_top_are_handed_what_they_need() {
    let wiring = ["crate::wiring", "crate::config", "crate::cmd"];
    let sources = sources();
    let handed = |s: &&Source| ["http/", "load/", "top/"].iter().any(|f| s.path.starts_with(f));
    assert_none(sources.iter().filter(handed).flat_map(|s| s.lines_with(&wiring)).collect());
}

/// Clippy bans the clock itself; `SystemClock` is the way around it.
#[test]
fn only_those_who_start_a_process_read_the_system_clock() {
    let sources = sources();
    let started =
        |s: &&Source| !["wiring", "cmd/", "load/"].iter().any(|place| s.path.starts_with(place));
    let others = sources.iter().filter(started).filter(|s| s.path != "core/order/mod.rs");
    assert_none(others.flat_map(|s| s.lines_with(&["SystemClock"])).collect());
}

#[test]
fn decide_is_pure() {
    let impure =
        ["async", "await", "tokio", "std::time", "Instant", "SystemTime", "tracing", "rand"];
    let sources = sources();
    let decide = sources.iter().find(|s| s.path == "core/order/decide.rs").unwrap();
    let code = decide.text.split("#[cfg(test)]").next().unwrap().to_owned();
    let decide = Source { path: decide.path.clone(), text: code };
    assert_none(decide.lines_with(&impure));
}

#[test]
fn each_test_that_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code: String = sources().into_iter().map(|s| s.text).collect();
    for entry in walk(&root.join("tests")) {
        code += &std::fs::read_to_string(entry).unwrap();
    }
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let names = quoted.filter_map(|q| q.rsplit("::").next()).filter(|n| n.matches('_').count() > 2);
    let names: Vec<&str> =
        names.filter(|n| n.chars().all(|c| c == '_' || c.is_lowercase())).collect();
    assert!(names.len() > 10, "{names:?}");
    let missing = names.iter().filter(|name| !code.contains(&format!("fn {name}(")));
    assert_none(missing.map(|name| format!("there is no test {name}")).collect());
}

#[test]
fn a_file_fits_in_a_head() {
    let long = |s: &Source| (s.text.lines().count() > 450).then(|| s.path.clone());
    assert_none(sources().iter().filter_map(long).collect());
}
