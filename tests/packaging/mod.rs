//! The packaging: container and compose files, systemd units, the Terraform module.

mod container;
mod systemd;
#[cfg(feature = "aws")]
mod terraform;

use std::path::{Path, PathBuf};

use clap::Parser;
use flux::cmd::Cli;
use flux::config::{Flags, Settings};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The default of a setting, as a number.
fn number(key: &str) -> u64 {
    let keys = Settings::keys();
    keys.iter().find(|k| k.name == key).unwrap().default.parse().unwrap()
}

/// Checks that `flux ARGUMENTS` is a valid command line.
fn assert_valid<'a>(arguments: impl IntoIterator<Item = &'a str>) {
    let line: Vec<&str> = std::iter::once("flux").chain(arguments).collect();
    if let Err(e) = Cli::try_parse_from(&line) {
        panic!("{line:?}: {e}");
    }
}

/// The settings from these variables, each of which flux or the AWS SDK must read.
fn settings(variables: &[(String, String)]) -> Settings {
    let keys = Settings::keys();
    let known: Vec<String> = keys.iter().flat_map(|key| key.variables()).collect();
    // Read by the AWS SDK.
    let sdk = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"];
    for (name, _) in variables {
        assert!(known.contains(name) || sdk.contains(&name.as_str()), "nobody reads {name}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    Settings::load_from(nowhere.path(), variables.to_vec(), &Flags::default()).unwrap()
}
