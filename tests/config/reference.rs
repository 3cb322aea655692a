//! The files that `scripts/docs` generates from the settings: `docs/configuration.md` and
//! `config/flux.toml`.

use std::fmt::Write;
use std::path::Path;

use flux::config::{Key, Settings};

const MARKDOWN_HEAD: &str = "\
# Settings

Generated from `src/config/keys.rs` by `scripts/docs`.

flux reads settings from these sources. A later source overrides an earlier one:

1. the built-in default
2. `config/flux.toml` in the working directory, or the file that `--config` names
3. `.env` in the working directory
4. the environment
5. flags (`--listen`, `--workers`, `--concurrency`, `--backend`, `--log-format`)

An unknown setting, or a value out of bounds, is refused. The error names the setting, its source and the
allowed values.

An empty text counts as not set. The exceptions are settings that guard access, or on which webhooks and
the lock depend (keys, `jwt_...`, `rate_...`, `trusted_proxies`, `cors_origins`, `webhook_...`,
`redis_password`). For these an empty text is refused, because a key that is empty by mistake would leave
the server open. In a compose file, `FLUX_ADMIN_KEY: ${FLUX_ADMIN_KEY}` passes an empty text if the
variable is not set. Write `FLUX_ADMIN_KEY:` without a value to pass the variable only if it is set, or
`${FLUX_ADMIN_KEY:?}` to require it.

`.env` has one `NAME=VALUE` per line, optionally with `export` before it. Comments need a line of their
own. Values are read literally: `$NAME`, backslashes and comments after a value are not interpreted. Spaces
around a value are removed, then one pair of quotes around it. A value that contains ` #` must be in
quotes, because other programs would end it there.

Names without `FLUX_` belong to other programs too, so they are read only if they are used: AWS and Redis
names on the `aws` backend, `REDIS_PORT` and `REDIS_PASSWORD` with a host or URL of Redis, OpenTelemetry
names with an endpoint. Within one source the name with `FLUX_` wins. Variables that Kubernetes sets for a
Service (`FLUX_SERVICE_HOST`, `FLUX_PORT=tcp://...`) are not settings; the log lists the skipped ones at
`debug`.
";

const TOML_HEAD: &str = "\
# All settings of flux with their defaults. Remove the # to change one.
# .env, the environment (FLUX_LISTEN for `listen`, and so on) and flags override this file.
# An empty text counts as not set; settings that guard access refuse it.
# Generated from src/config/keys.rs by scripts/docs.
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

/// Appends a comment of at most 100 columns.
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
fn generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, wanted) in [("docs/configuration.md", markdown()), ("config/flux.toml", toml())] {
        let file = root.join(name);
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&file, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == wanted, "{name} differs from src/config/keys.rs: run scripts/docs");
    }
}

#[test]
fn settings_are_described_and_bounded() {
    for key in Settings::keys() {
        let last = key.about.last().unwrap().trim();
        assert!(last.ends_with('.'), "{} has no description in sentences: {last}", key.name);
        assert!(!key.meaning().contains("[`"), "{}: a link has no meaning in a file", key.name);
        let Some((least, most)) = key.bounds.clone() else { continue };
        for beyond in [
            least.parse::<u64>().unwrap().checked_sub(1),
            most.parse::<u64>().unwrap().checked_add(1),
        ] {
            let Some(beyond) = beyond else { continue };
            let error = super::refusal(&[], &[(&key.variables()[0], &beyond.to_string())]);
            assert!(error.contains(&format!("from {least} to {most}")), "{}: {error}", key.name);
        }
        for bound in [&least, &most] {
            let loaded = super::load(&[], &[(&key.variables()[0], bound)]);
            let refused = loaded.err().filter(|error| error.contains("it must be from"));
            assert!(refused.is_none(), "{}: {refused:?}", key.name);
        }
    }
}
