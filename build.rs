//! Determines the commit of the sources, for `flux --version` and the reports of `flux stress`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src");
    let commit = commit();
    let version = env!("CARGO_PKG_VERSION");
    let version = match &commit {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    // The names do not begin with FLUX_: `cargo run` passes these variables to the program, which
    // reads variables with that prefix as settings.
    println!("cargo:rustc-env=VERSION_OF_FLUX={version}");
    println!("cargo:rustc-env=COMMIT_OF_FLUX={}", commit.as_deref().unwrap_or("unknown"));
}

/// `None` without git, or if the sources are not the root of a repository, as in an archive.
fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()? != root {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    // Cargo would rerun this script on every build if the file did not exist.
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["describe", "--always", "--dirty"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| printed.trim().to_owned())
}
