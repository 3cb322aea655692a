use std::process::ExitCode;

use anyhow::Result;

use crate::config::Flags;

/// Create or bring up to date tables, queues and items
#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, flags: &Flags) -> Result<ExitCode> {
    let _settings = super::settings(flags)?;
    Ok(ExitCode::SUCCESS)
}
