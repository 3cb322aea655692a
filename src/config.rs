//! The settings: built-in defaults, then a TOML file, then `.env`, then the environment, then
//! flags; each later source wins. What is not known is refused, never ignored.

mod check;
mod keys;
mod values;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::de::{DeTable, DeValue};

pub use keys::{Key, Settings};
pub use values::{Backend, LogFormat};

/// What is wrong with the configuration and what to change, in one line, without any secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

#[derive(Debug, Clone)]
pub struct AwsCredentials {
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
}

/// Settings given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Read in place of `config/flux.toml`; must be there.
    pub config: Option<PathBuf>,
    pub backend: Option<Backend>,
    pub log_format: Option<LogFormat>,
    pub listen: Option<String>,
    pub workers: Option<usize>,
    pub concurrency: Option<usize>,
}

/// Names that other tools use too, taken as they are, each with the key that it sets.
const SHARED_NAMES: [(&str, &str); 13] = [
    ("AWS_REGION", "aws_region"),
    ("AWS_ENDPOINT_URL", "aws_endpoint_url"),
    ("AWS_ENDPOINT_URL_SQS", "aws_endpoint_url_sqs"),
    ("AWS_ENDPOINT_URL_DYNAMODB", "aws_endpoint_url_dynamodb"),
    ("SQS_QUEUE_URL", "sqs_queue_url"),
    ("DYNAMODB_TABLE", "dynamodb_table"),
    ("REDIS_URL", "redis_url"),
    ("REDIS_HOST", "redis_host"),
    ("REDIS_PORT", "redis_port"),
    ("REDIS_PASSWORD", "redis_password"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "otlp_headers"),
    ("OTEL_SERVICE_NAME", "service_name"),
];

const UNKNOWN: &str = "remove it, or see the names in docs/configuration.md";

impl Settings {
    /// Reads every source of this process. Blocking; changes nothing in the environment.
    pub fn load(flags: &Flags) -> Result<Settings, ConfigError> {
        // A name or value that is not UTF-8 cannot be one of ours.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::load_from(Path::new("."), std::env::vars_os().filter_map(text).collect(), flags)
    }

    /// [`Settings::load`] with the working directory and the environment as given.
    pub fn load_from(
        directory: &Path,
        environment: Vec<(String, String)>,
        flags: &Flags,
    ) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        let (file, named) = match &flags.config {
            Some(file) => (file.clone(), true),
            None => (directory.join("config/flux.toml"), false),
        };
        match std::fs::read_to_string(&file) {
            Ok(text) => settings.read_toml(&text, &file.display())?,
            Err(e) if !named && e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(ConfigError(format!(
                    "cannot read {}: {e}; check --config",
                    file.display()
                )));
            }
        }
        let dotenv = read_dotenv(&directory.join(".env"))?;
        settings.read_environment(&dotenv, ".env")?;
        settings.read_environment(&environment, "the environment")?;
        if lookup(&environment, "AWS_ACCESS_KEY_ID").is_none() {
            settings.aws_credentials = AwsCredentials::read(&dotenv)?;
        }
        settings.read_flags(flags);
        settings.check()?;
        Ok(settings)
    }

    /// As told, else `aws` when a queue is named, else `embedded`.
    pub fn backend(&self) -> Backend {
        match (self.backend, &self.sqs_queue_url) {
            (Some(backend), _) => backend,
            (None, Some(_)) => Backend::Aws,
            (None, None) => Backend::Embedded,
        }
    }

    fn read_toml(&mut self, text: &str, file: &dyn Display) -> Result<(), ConfigError> {
        let at = |offset: usize| {
            let line = 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
            format!("{file}, line {line}")
        };
        let table = DeTable::parse(text).map_err(|e| {
            let place = e.span().map_or_else(|| file.to_string(), |span| at(span.start));
            ConfigError(format!("{place}: {}", e.message().replace('\n', ", ")))
        })?;
        for (key, value) in table.get_ref() {
            let (place, key) = (at(key.span().start), key.get_ref());
            if !Self::KEYS.contains(&key.as_ref()) {
                return Err(ConfigError(format!("{place}: `{key}` is not a key: {UNKNOWN}")));
            }
            let read = match value.get_ref() {
                DeValue::String(text) => self.set(key, text),
                DeValue::Integer(n) if n.radix() == 10 => self.set(key, n.as_str()),
                // In its plainest form: `1e3` is a text like any other to a key that takes texts.
                DeValue::Float(n) => match n.as_str().parse() {
                    Ok(n) => self.set(key, &toml::Value::Float(n).to_string()),
                    Err(_) => Err("must be a number".to_owned()),
                },
                _ => Err("must be a text in quotes or a number".to_owned()),
            };
            read.map_err(|e| ConfigError(format!("{place}: `{key}` {e}")))?;
        }
        Ok(())
    }

    /// Takes what is ours; a shared name first, so that `FLUX_` wins over it.
    fn read_environment(
        &mut self,
        variables: &[(String, String)],
        source: &str,
    ) -> Result<(), ConfigError> {
        let mut set = |name: &str, key: &str, value: &str| {
            self.set(key, value).map_err(|e| ConfigError(format!("{source}: {name} {e}")))
        };
        for (name, key) in SHARED_NAMES {
            if let Some(value) = lookup(variables, name) {
                set(name, key, value)?;
            }
        }
        for (name, value) in variables {
            let Some(key) = name.strip_prefix("FLUX_") else { continue };
            let key = key.to_ascii_lowercase();
            if !Self::KEYS.contains(&key.as_str()) || *name != name.to_ascii_uppercase() {
                let what = format!("{name} is not a setting of flux: {UNKNOWN}");
                return Err(ConfigError(format!("{source}: {what}")));
            }
            if !value.is_empty() {
                set(name, &key, value)?;
            }
        }
        Ok(())
    }

    fn read_flags(&mut self, flags: &Flags) {
        self.backend = flags.backend.or(self.backend);
        self.log_format = flags.log_format.unwrap_or(self.log_format);
        self.workers = flags.workers.unwrap_or(self.workers);
        self.concurrency = flags.concurrency.unwrap_or(self.concurrency);
        if let Some(listen) = &flags.listen {
            self.listen.clone_from(listen);
        }
    }
}

impl AwsCredentials {
    fn read(dotenv: &[(String, String)]) -> Result<Option<Self>, ConfigError> {
        let Some(id) = lookup(dotenv, "AWS_ACCESS_KEY_ID") else { return Ok(None) };
        let Some(secret) = lookup(dotenv, "AWS_SECRET_ACCESS_KEY") else {
            let what = "add AWS_SECRET_ACCESS_KEY or remove AWS_ACCESS_KEY_ID";
            return Err(ConfigError(format!(".env: half a pair of AWS credentials: {what}")));
        };
        Ok(Some(Self {
            access_key_id: id.to_owned(),
            secret_access_key: secret.into(),
            session_token: lookup(dotenv, "AWS_SESSION_TOKEN").map(SecretString::from),
        }))
    }
}

/// The variables of a `.env` file; none without a file.
fn read_dotenv(file: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    // dotenvy's own message for a bad line quotes it, secrets and all.
    let message = |e: dotenvy::Error| match e {
        dotenvy::Error::Io(e) => ConfigError(format!("cannot read .env: {e}; mend or remove it")),
        _ => ConfigError(".env: a line is not NAME=VALUE (quote values with spaces)".to_owned()),
    };
    match dotenvy::from_path_iter(file) {
        Ok(lines) => lines.collect::<Result<_, _>>().map_err(message),
        Err(e) if e.not_found() => Ok(Vec::new()),
        Err(e) => Err(message(e)),
    }
}

/// A variable's last value; an empty one counts as absent, as container tools pass them.
fn lookup<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let last = variables.iter().rev().find(|(n, _)| n == name);
    last.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}
