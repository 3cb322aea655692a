use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, UsageError};
use crate::config::{Key, Settings};
use crate::telemetry::say;

const MANUAL: &str = "flux";
const SOURCE: &str = concat!("flux ", env!("CARGO_PKG_VERSION"));

/// Print the manual page of flux, or write all manual pages to a directory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write flux.1, a page per subcommand and flux.toml.5 to; created if missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut flux = Cli::command().disable_help_subcommand(true);
    flux.build();
    match &args.out {
        None => say(String::from_utf8(page(flux)?)?.trim_end())?,
        Some(directory) => write_all(&flux, directory)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_all(flux: &clap::Command, directory: &Path) -> Result<()> {
    let error = |e| UsageError(format!("cannot write to --out {}: {e}", directory.display()));
    std::fs::create_dir_all(directory).map_err(error)?;
    let write = |name: &str, page: &[u8]| std::fs::write(directory.join(name), page).map_err(error);
    let mut commands = vec![flux.clone()];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|c| !c.is_hide_set()).cloned());
        write(&Man::new(command.clone()).get_filename(), &page(command)?)?;
    }
    write("flux.toml.5", &settings_page()?)?;
    Ok(())
}

/// A command's page. That of `flux` itself also has the exit status and the environment.
fn page(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let is_main_page = command.get_name() == "flux";
    Man::new(command).source(SOURCE).manual(MANUAL).render(&mut page)?;
    if is_main_page {
        let mut sections = Roff::new();
        sections.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in [
            ("0", "Success, also after SIGTERM or SIGINT."),
            ("1", "A promise was broken, or the work failed."),
            (
                "2",
                "A flag, a setting or the environment is wrong. One line on stderr describes what \
                 to change.",
            ),
        ] {
            sections.control("TP", []).text([bold(code)]).text([roman(meaning)]);
        }
        sections.control("SH", ["ENVIRONMENT"]);
        sections.text([
            roman(
                "Each setting can be given as a variable, for example FLUX_LISTEN for listen: see ",
            ),
            bold("flux.toml"),
            roman("(5)."),
        ]);
        sections.to_writer(&mut page)?;
    }
    Ok(page)
}

/// `flux.toml(5)`, generated from the settings.
fn settings_page() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut roff = Roff::new();
    roff.control("TH", ["flux.toml", "5", "", SOURCE, MANUAL]);
    roff.control("SH", ["NAME"]).text([roman("flux.toml - the settings of flux")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([
        roman("flux reads config/flux.toml in the working directory, or the file given with "),
        roman("--config. Variables in .env override the file, variables in the environment "),
        roman("override .env, and flags override both. An empty text means that the setting is "),
        roman("not set. Unknown settings are an error."),
    ]);
    let mut section = "";
    for key in Settings::keys() {
        if key.section != section {
            section = key.section;
            roff.control("SH", [section.to_uppercase().as_str()]);
        }
        describe(&mut roff, &key);
    }
    roff.control("SH", ["SEE ALSO"]).text([bold("flux"), roman("(1)")]);
    roff.to_writer(&mut page)?;
    page.flush()?;
    Ok(page)
}

fn describe(roff: &mut Roff, key: &Key) {
    let default = format!(" = {}", key.default);
    roff.control("TP", []).text([bold(key.name), roman(default)]);
    roff.text([roman(key.meaning().replace('`', ""))]);
    roff.control("br", []).text([roman(key.variables().join(", "))]);
}
