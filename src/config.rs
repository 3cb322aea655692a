//! The settings: built-in defaults, then a TOML file, then `.env`, then the environment, then
//! flags; each later source wins. What is not known is refused, never ignored.

mod check;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::de::{DeTable, DeValue};

/// What is wrong with the configuration and what to change, in one line, without any secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Embedded,
    Aws,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Writes [`Settings`], its defaults, its keys and the one way to set a key from text.
macro_rules! settings {
    ($($(#[$doc:meta])* $key:ident: $type:ty = $default:expr;)*) => {
        /// Every key of `config/flux.toml`, as it is in force. Its `Debug` shows no secret.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($(#[$doc])* pub $key: $type,)*
            /// From `.env`, for the SDK; `None` where the SDK's own chain is to find them.
            pub aws_credentials: Option<AwsCredentials>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($key: $default,)* aws_credentials: None }
            }
        }

        impl Settings {
            pub const KEYS: &[&str] = &[$(stringify!($key)),*];

            /// Sets a key that is one of [`Settings::KEYS`]; the error says what it must be.
            fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $(stringify!($key) => self.$key = <$type as Setting>::read(text)?,)*
                    _ => return Err("is not a setting".to_owned()),
                }
                Ok(())
            }
        }
    };
}

settings! {
    /// See [`Settings::backend`].
    backend: Option<Backend> = None;
    /// The embedded backend's file.
    data: PathBuf = "./flux.db".into();
    /// `HOST:PORT` of the API; port 0 takes a free one.
    listen: String = "127.0.0.1:5000".to_owned();
    /// Items that `flux serve` decides at once in its own process; 0 leaves it to `flux work`.
    workers: usize = 0;
    /// Items that `flux work` decides at once.
    concurrency: usize = 50;
    /// Units of an item that nobody listed; 0 refuses its orders.
    unlisted_stock: u64 = 1;
    /// Names orders and seals decisions; the same for every process of a sale.
    order_key: Option<SecretString> = None;
    /// Lets `PUT /items/ID` in.
    admin_key: Option<SecretString> = None;
    /// How long a lock is held without being renewed.
    lease_ms: u64 = 5_000;
    /// How long a delivery stays invisible without being extended.
    visibility_timeout_ms: u64 = 30_000;
    /// How long a receive waits for the first order.
    receive_wait_ms: u64 = 5_000;
    /// How long a stopping process may take.
    grace_ms: u64 = 9_000;
    retention_days: u64 = 4;
    dlq_retention_days: u64 = 14;
    /// Receives after which SQS itself moves a message to the dead-letter queue.
    max_receive_count: u64 = 100;
    /// Orders that the embedded queue holds at most.
    backlog_max: u64 = 2_000_000;
    /// Orders that wait in memory to be sent to the queue, at most.
    intake_max: usize = 10_000;
    /// Open connections of the API, at most.
    connections_max: usize = 10_000;
    /// Time a client has for a request's head, again for its body, and to read on in an answer.
    read_timeout_ms: u64 = 10_000;
    /// What to log, as tracing's `EnvFilter` has it.
    log: String = "info".to_owned();
    log_format: LogFormat = LogFormat::Text;
    sqs_queue_url: Option<String> = None;
    dynamodb_table: String = "flux".to_owned();
    aws_region: Option<String> = None;
    aws_endpoint_url: Option<String> = None;
    aws_endpoint_url_sqs: Option<String> = None;
    aws_endpoint_url_dynamodb: Option<String> = None;
    /// Wins over `redis_host`, `redis_port` and `redis_password`. A secret: it may hold a password.
    redis_url: Option<SecretString> = None;
    redis_host: Option<String> = None;
    redis_port: u16 = 6379;
    redis_password: Option<SecretString> = None;
}

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

/// Names that other tools use too, taken as they are.
const SHARED_NAMES: [&str; 10] = [
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "SQS_QUEUE_URL",
    "DYNAMODB_TABLE",
    "REDIS_URL",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_PASSWORD",
];

const UNKNOWN: &str = "remove it, or see the names in README.md, Settings";

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
                _ => Err("must be a text in quotes or a whole number".to_owned()),
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
        for name in SHARED_NAMES {
            if let Some(value) = lookup(variables, name) {
                set(name, &name.to_ascii_lowercase(), value)?;
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

/// What a setting can be read from text as; the error completes "`key` ...", without the text.
trait Setting: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

impl<T: Setting> Setting for Option<T> {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::read(text).map(Some) }
    }
}

impl Setting for String {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
    }
}

impl Setting for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        String::read(text).map(PathBuf::from)
    }
}

impl Setting for SecretString {
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

/// Types read by their `FromStr`, and what to say when that fails.
macro_rules! parsed {
    ($($type:ty, $what:literal;)*) => {
        $(impl Setting for $type {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| $what.to_owned())
            }
        })*
    };
}

parsed! {
    u64, "must be a whole number";
    usize, "must be a whole number";
    u16, "must be a port number from 0 to 65535";
}

impl Setting for Backend {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "aws" => Ok(Self::Aws),
            _ => Err("must be embedded or aws".to_owned()),
        }
    }
}

impl Setting for LogFormat {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json".to_owned()),
        }
    }
}
