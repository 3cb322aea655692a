//! The settings. The input is split at the lines `--- .env` and `--- environment` into a file, a
//! `.env` and an environment.

use std::path::Path;
use std::sync::LazyLock;

use flux::config::{Flags, Settings};

/// A word in the seeds that is the value of secret settings.
const SESAME: &str = "sesame";
const SECRET: [&str; 8] = [
    "order_key",
    "admin_key",
    "buy_key",
    "jwt_secret",
    "redis_url",
    "redis_password",
    "aws_secret_access_key",
    "aws_session_token",
];

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("config")).expect("a folder");
    directory
});

/// An error is one line that names its place and contains no secret. Valid settings are within
/// their bounds, and are the same from each source.
pub fn any(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (rest, environment) = text.split_once("--- environment\n").unwrap_or((&text, ""));
    let (toml, dotenv) = rest.split_once("--- .env\n").unwrap_or((rest, ""));
    let environment: Vec<(String, String)> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    match load(toml, dotenv, environment.clone()) {
        Err(error) => {
            names_the_place(&error);
            assert!(!error.contains(SESAME) || !is_only_in_secrets(&text), "{error}");
        }
        Ok(settings) => {
            assert!(!format!("{settings:?}").contains(SESAME) || !is_only_in_secrets(&text));
            is_consistent(&settings);
        }
    }
    means_the_same_as_variables(toml);
}

fn load(toml: &str, dotenv: &str, environment: Vec<(String, String)>) -> Result<Settings, String> {
    // The tests of one run call this from several threads.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let write = |name: &str, text: &str| {
        std::fs::write(DIRECTORY.path().join(name), text).expect("written");
    };
    write("config/flux.toml", toml);
    write(".env", dotenv);
    let flags = Flags::default();
    Settings::load_from(DIRECTORY.path(), environment, &flags).map_err(|e| e.to_string())
}

fn names_the_place(error: &str) {
    assert!(!error.contains('\n'), "{error}");
    let in_a_file = error.contains("flux.toml, line ") || error.contains(".env");
    let in_a_variable = error.starts_with("the environment: ");
    let by_its_key = Settings::KEYS.iter().any(|key| error.starts_with(key));
    assert!(
        in_a_file || in_a_variable || by_its_key || error.starts_with("cannot read"),
        "{error}"
    );
}

fn is_only_in_secrets(text: &str) -> bool {
    text.lines().filter(|line| line.contains(SESAME)).all(|line| {
        let (name, _) = line.split_once('=').unwrap_or((line, ""));
        let name = name.trim().to_ascii_lowercase();
        SECRET.contains(&name.strip_prefix("flux_").unwrap_or(&name))
    })
}

fn is_consistent(settings: &Settings) {
    assert!(settings.lease_ms < settings.visibility_timeout_ms);
    assert!(settings.receive_wait_ms < settings.grace_ms);
    assert!(settings.retention_days <= settings.dlq_retention_days);
    assert!(settings.concurrency > 0 && settings.connections_max > 0 && settings.intake_max > 0);
    assert!(!settings.listen.is_empty() && settings.data != Path::new(""));
}

fn means_the_same_as_variables(toml: &str) {
    let (Ok(settings), Ok(table)) = (load(toml, "", vec![]), toml.parse::<toml::Table>()) else {
        return;
    };
    let variables = table.iter().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (format!("FLUX_{}", key.to_ascii_uppercase()), text)
    });
    let from_variables = load("", "", variables.collect()).expect("valid in a file");
    assert_eq!(format!("{settings:?}"), format!("{from_variables:?}"));
}
