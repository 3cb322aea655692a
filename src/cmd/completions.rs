use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::Cli;
use crate::telemetry::say;

/// Print a shell completion script
///
/// bash: flux completions bash > ~/.local/share/bash-completion/completions/flux
///
/// zsh: flux completions zsh > DIR/_flux, with DIR in $fpath
///
/// fish: flux completions fish > ~/.config/fish/completions/flux.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Shell to print the script for
    shell: Shell,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "flux", &mut script);
    say(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
