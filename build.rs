//! Names the commit that flux is built from, for the reports of `flux stress`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src");
    if Path::new(".git/logs/HEAD").exists() {
        println!("cargo:rerun-if-changed=.git/logs/HEAD");
    }
    let describe = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = describe
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    // `cargo run` hands this on to the program, which takes what begins with FLUX_ for a setting.
    println!("cargo:rustc-env=COMMIT_OF_FLUX={}", commit.as_deref().unwrap_or("unknown").trim());
}
