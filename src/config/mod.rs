//! The settings: built-in defaults, a TOML file, `.env`, the environment and flags. A later source
//! overrides an earlier one. Unknown settings are refused, never ignored.

mod check;
mod dotenv;
mod environment;
mod keys;
mod secrets;
mod values;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::de::{DeTable, DeValue};

use environment::{AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN};
use environment::{Shared, Variable, lookup};
pub use keys::{Key, Settings};
pub use values::{Backend, LogFormat};

/// An invalid configuration. The text is one line that says where, what is wrong and what to change, and
/// contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// AWS credentials from `.env`.
#[derive(Debug, Clone)]
pub struct AwsCredentials {
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
}

/// The error for a setting or command that needs a cargo feature of which this build has none.
pub fn needs_feature(what: &str, feature: &str) -> String {
    format!(
        "{what} needs a flux with the feature {feature}: build it with `cargo build --release \
         --features {feature}`"
    )
}

/// Settings given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// File to read instead of `config/flux.toml`; it must exist.
    pub config: Option<PathBuf>,
    pub backend: Option<Backend>,
    pub log_format: Option<LogFormat>,
    pub listen: Option<String>,
    pub workers: Option<usize>,
    pub concurrency: Option<usize>,
}

const UNKNOWN: &str = "remove it, or see the names in docs/configuration.md";

impl Settings {
    /// Reads all sources of this process. Blocking. Does not change the environment.
    pub fn load(flags: &Flags) -> Result<Settings, ConfigError> {
        let environment = environment::of_this_process()?;
        let settings = Self::load_variables(Path::new("."), environment, flags)?;
        settings.check_features()?;
        Ok(settings)
    }

    /// [`Settings::load`] with the given working directory and environment, and without the check of
    /// cargo features.
    pub fn load_from(
        directory: &Path,
        environment: Vec<(String, String)>,
        flags: &Flags,
    ) -> Result<Settings, ConfigError> {
        let variables = environment.into_iter().map(|(name, value)| (name, Some(value)));
        Self::load_variables(directory, variables.collect(), flags)
    }

    fn load_variables(
        directory: &Path,
        environment: Vec<Variable>,
        flags: &Flags,
    ) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        settings.read_file(directory, flags)?;
        let dotenv = dotenv::read(&directory.join(".env"))?;
        let environment = settings.without_service_links(environment);
        let mut shared = Shared::default();
        settings.read_variables(&dotenv, ".env", &mut shared)?;
        settings.read_variables(&environment, "the environment", &mut shared)?;
        settings.read_flags(flags);
        settings.read_shared(&shared)?;
        if settings.backend() == Backend::Aws && lookup(&environment, AWS_ACCESS_KEY_ID).is_none() {
            settings.aws_credentials = AwsCredentials::read(&dotenv)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// The backend that is set; otherwise `aws` if a queue is set, and `embedded` if not.
    pub fn backend(&self) -> Backend {
        match (self.backend, &self.sqs_queue_url) {
            (Some(backend), _) => backend,
            (None, Some(_)) => Backend::Aws,
            (None, None) => Backend::Embedded,
        }
    }

    fn read_file(&mut self, directory: &Path, flags: &Flags) -> Result<(), ConfigError> {
        let default = directory.join("config/flux.toml");
        let file = flags.config.as_ref().unwrap_or(&default);
        let wrong = |why: &dyn Display| {
            ConfigError(format!("cannot read {}: {why}; check --config", file.display()))
        };
        let bytes = match dotenv::read_if_there(file).map_err(|e| wrong(&e))? {
            Some(bytes) => bytes,
            None if flags.config.is_none() => return Ok(()),
            None => return Err(wrong(&std::io::Error::from(std::io::ErrorKind::NotFound))),
        };
        let text = String::from_utf8(bytes).map_err(|_| wrong(&"it is not UTF-8"))?;
        self.read_toml(&text, &file.display())
    }

    fn read_toml(&mut self, text: &str, file: &dyn Display) -> Result<(), ConfigError> {
        let at = |offset: usize| {
            let line = 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
            format!("{file}, line {line}")
        };
        let table = DeTable::parse(text).map_err(|e| {
            let position = e.span().map_or_else(|| file.to_string(), |span| at(span.start));
            ConfigError(format!("{position}: {}", e.message().replace('\n', ", ")))
        })?;
        for (key, value) in table.get_ref() {
            let position = at(key.span().start);
            let key = key.get_ref();
            if !Self::KEYS.contains(&key.as_ref()) {
                return Err(ConfigError(format!("{position}: `{key}` is not a key: {UNKNOWN}")));
            }
            let read = match value.get_ref() {
                DeValue::String(text) => self.set(key, text),
                // As numbers, `1_0` and `1.10` would be read as other texts than those written.
                DeValue::Integer(_) | DeValue::Float(_) if keys::ACCESS_TEXTS.contains(&&**key) => {
                    Err("must be a text in quotes".to_owned())
                }
                DeValue::Integer(n) if n.radix() == 10 => self.set(key, n.as_str()),
                // Normalized, because `1e3` is also a valid text for a key that accepts texts.
                DeValue::Float(n) => match n.as_str().parse() {
                    Ok(n) => self.set(key, &toml::Value::Float(n).to_string()),
                    Err(_) => Err("must be a number".to_owned()),
                },
                _ => Err("must be a text in quotes or a number".to_owned()),
            };
            read.map_err(|e| ConfigError(format!("{position}: `{key}` {e}")))?;
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
    fn read(dotenv: &[Variable]) -> Result<Option<Self>, ConfigError> {
        let id = lookup(dotenv, AWS_ACCESS_KEY_ID);
        let secret = lookup(dotenv, AWS_SECRET_ACCESS_KEY);
        let half = |has: &str, lacks: &str| {
            let why = format!("half a pair of AWS credentials: add {lacks} or remove {has}");
            Err(ConfigError(format!(".env: {why}")))
        };
        match (id, secret) {
            (None, None) => Ok(None),
            (Some(_), None) => half(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY),
            (None, Some(_)) => half(AWS_SECRET_ACCESS_KEY, AWS_ACCESS_KEY_ID),
            (Some(id), Some(secret)) => Ok(Some(Self {
                access_key_id: id.to_owned(),
                secret_access_key: secret.into(),
                session_token: lookup(dotenv, AWS_SESSION_TOKEN).map(SecretString::from),
            })),
        }
    }
}
