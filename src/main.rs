use std::process::ExitCode;

use clap::Parser;
use flux::cmd::{Cli, exit_code};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(e) => Err(e.into()),
    };
    result.unwrap_or_else(|e| {
        eprintln!("flux: {e:#}");
        exit_code(&e)
    })
}
