//! Names the commit that flux is built from, for `flux --version` and the reports of `flux stress`.

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
    // `cargo run` hands these on to the program, which takes what begins with FLUX_ for a setting.
    println!("cargo:rustc-env=VERSION_OF_FLUX={version}");
    println!("cargo:rustc-env=COMMIT_OF_FLUX={}", commit.as_deref().unwrap_or("unknown"));
}

/// `None` without git, and where the sources are no repository of their own, as in an archive or a
/// container.
fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()? != root {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    // Cargo takes a file that is not there for one that changes all the time.
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
