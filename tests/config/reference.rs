//! The files that are made from the settings: `docs/configuration.md` and `config/flux.toml`.
//! `scripts/docs` writes them anew.

use std::fmt::Write;
use std::path::Path;

use flux::config::{Key, Settings};

const MARKDOWN_HEAD: &str = "\
# Settings

Made from `src/config/keys.rs` by `scripts/docs`.

Each is looked up in this sequence, and the last one found wins: the built-in default,
`config/flux.toml` in the working directory (or the file that `--config` names), `.env` in the
working directory, the environment, a flag (`--listen`, `--workers`, `--concurrency`, `--backend`,
`--log-format`). What is unknown or out of bounds is refused with one line that names it, its place,
and what it must be.

An empty text is the same as none, except for settings that guard access or that events and the lock
depend on (keys, `jwt_...`, `rate_...`, `trusted_proxies`, `cors_origins`, `webhook_...`,
`redis_password`): there it is refused, because one that was meant to be set would leave the server
open. In a compose file `FLUX_ADMIN_KEY: ${FLUX_ADMIN_KEY}` passes an empty text when the variable is
not set; write `FLUX_ADMIN_KEY:` without a value to pass the variable only if it is set, or
`${FLUX_ADMIN_KEY:?}` to require it.

`.env` has one `NAME=VALUE` a line, with or without `export` before it, and comments on lines of their
own. Values are taken literally: no `$NAME`, no backslash and no comment behind a value is
interpreted; the spaces around a value, then one pair of quotes around it, are removed. A value that
another program would end at a ` #` is refused until it is in quotes.

Names without `FLUX_` belong to other programs too, so they are read only where they are used: those
of AWS and Redis on the `aws` backend, `REDIS_PORT` and `REDIS_PASSWORD` with a host or URL of Redis,
those of OpenTelemetry with an endpoint. In one source the name with `FLUX_` wins. Variables that
Kubernetes sets for a Service (`FLUX_SERVICE_HOST`, `FLUX_PORT=tcp://...`) are no settings; the log
shows at `debug` which were skipped.
";

const TOML_HEAD: &str = "\
# Every setting of flux with its default. Take the # away to change one.
# .env, then the environment (FLUX_LISTEN for `listen`, and so on), then flags win over this file.
# An empty text is the same as none, but refused for keys and whatever else guards access.
# Made from src/config/keys.rs by scripts/docs.
";

fn sections() -> Vec<(&'static str, Vec<Key>)> {
    let mut sections: Vec<(&str, Vec<Key>)> = Vec::new();
    for key in Settings::keys() {
        match sections.last_mut().filter(|(name, _)| *name == key.section) {
            Some((_, keys)) => keys.push(key),
            None => sections.push((key.section, vec![key])),
        }
    }
    sections
}

fn markdown() -> String {
    let mut page = MARKDOWN_HEAD.to_owned();
    for (section, keys) in sections() {
        write!(page, "\n## {section}\n\n").unwrap();
        page += "| key | in the environment | type | default | meaning |\n";
        page += "|---|---|---|---|---|\n";
        for key in keys {
            let variables =
                key.variables().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
            let default = if key.default == "\"\"" {
                "none".to_owned()
            } else {
                format!("`{}`", key.default)
            };
            writeln!(
                page,
                "| `{}` | {} | {} | {default} | {} |",
                key.name,
                variables.join(", "),
                key.kind,
                key.meaning().replace('|', "\\|"),
            )
            .unwrap();
        }
    }
    page
}

fn toml() -> String {
    let mut file = TOML_HEAD.to_owned();
    for (section, keys) in sections() {
        write!(file, "\n## {section}\n").unwrap();
        for key in keys {
            file += "\n";
            wrapped(&mut file, &key.meaning());
            writeln!(file, "# {} = {}", key.name, key.default).unwrap();
        }
    }
    file
}

/// As a comment of at most 100 columns.
fn wrapped(file: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > 100 {
            writeln!(file, "{line}").unwrap();
            line = "#".to_owned();
        }
        line += " ";
        line += word;
    }
    writeln!(file, "{line}").unwrap();
}

#[test]
fn the_reference_and_the_example_say_what_the_settings_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, wanted) in [("docs/configuration.md", markdown()), ("config/flux.toml", toml())] {
        let file = root.join(name);
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&file, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == wanted, "{name} is not what src/config/keys.rs says: run scripts/docs");
    }
}

#[test]
fn every_setting_is_described_and_says_so_when_it_is_out_of_bounds() {
    for key in Settings::keys() {
        let last = key.about.last().unwrap().trim();
        assert!(last.ends_with('.'), "{} has no description in sentences: {last}", key.name);
        assert!(!key.meaning().contains("[`"), "{}: a link means nothing in a file", key.name);
        let Some((least, most)) = key.bounds.clone() else { continue };
        for beyond in [
            least.parse::<u64>().unwrap().checked_sub(1),
            most.parse::<u64>().unwrap().checked_add(1),
        ] {
            let Some(beyond) = beyond else { continue };
            let said = super::error(&[], &[(&key.variables()[0], &beyond.to_string())]);
            assert!(said.contains(&format!("from {least} to {most}")), "{}: {said}", key.name);
        }
        for bound in [&least, &most] {
            let said = super::load(&[], &[(&key.variables()[0], bound)]);
            let refused = said.err().filter(|said| said.contains("it must be from"));
            assert!(refused.is_none(), "{}: {refused:?}", key.name);
        }
    }
}
