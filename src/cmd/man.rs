use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, Usage};
use crate::config::{Key, Settings};
use crate::telemetry::say;

const MANUAL: &str = "flux";
const SOURCE: &str = concat!("flux ", env!("CARGO_PKG_VERSION"));

/// Print the manual page, or write a page for each subcommand and for flux.toml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write the pages to, made if it is missing: flux.1, flux-serve.1, ..., flux.toml.5
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
    let wrong = |e| Usage(format!("cannot write to --out {}: {e}", directory.display()));
    std::fs::create_dir_all(directory).map_err(wrong)?;
    let write = |name: &str, page: &[u8]| std::fs::write(directory.join(name), page).map_err(wrong);
    let mut commands = vec![flux.clone()];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|c| !c.is_hide_set()).cloned());
        write(&Man::new(command.clone()).get_filename(), &page(command)?)?;
    }
    write("flux.toml.5", &settings_page()?)?;
    Ok(())
}

/// A command's page; the first one says more than clap knows.
fn page(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let first = command.get_name() == "flux";
    Man::new(command).source(SOURCE).manual(MANUAL).render(&mut page)?;
    if first {
        let mut more = Roff::new();
        more.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in [
            ("0", "Well; also after SIGTERM or SIGINT, when what was begun is finished."),
            ("1", "A promise was broken, or the work failed."),
            ("2", "A flag, a setting or a circumstance is wrong; one line says what to change."),
        ] {
            more.control("TP", []).text([bold(code)]).text([roman(meaning)]);
        }
        more.control("SH", ["ENVIRONMENT"]);
        more.text([
            roman("Every setting has a variable, FLUX_LISTEN for listen and so on: see "),
            bold("flux.toml"),
            roman("(5)."),
        ]);
        more.to_writer(&mut page)?;
    }
    Ok(page)
}

/// `flux.toml(5)`, made from the settings.
fn settings_page() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut roff = Roff::new();
    roff.control("TH", ["flux.toml", "5", "", SOURCE, MANUAL]);
    roff.control("SH", ["NAME"]).text([roman("flux.toml - the settings of flux")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([
        roman("Read from config/flux.toml in the working directory, or the file that --config "),
        roman(
            "names. Variables in .env, then in the environment, then flags win over it. An empty ",
        ),
        roman("text is the same as none; what is unknown is refused."),
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
