use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use super::Usage;
use crate::config::{Flags, needs_feature};

/// Not in this build: watch a running sale in the terminal
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whatever flux top is given where it is built in
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _given: Vec<OsString>,
}

pub async fn run(_args: Args, _flags: &Flags) -> Result<ExitCode> {
    Err(Usage(needs_feature("flux top", "top")).into())
}
