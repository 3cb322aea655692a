use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use super::UsageError;
use crate::config::{Flags, needs_feature};

/// Watch a running sale in the terminal (not in this build)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The arguments of `flux top`, whatever they are
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _given: Vec<OsString>,
}

pub async fn run(_args: Args, _flags: &Flags) -> Result<ExitCode> {
    Err(UsageError(needs_feature("flux top", "top")).into())
}
