//! All settings in one list. `docs/configuration.md`, `config/flux.toml` (`scripts/docs`) and the man
//! page are generated from it, and so are the checks of bounds.

use std::path::PathBuf;

use secrecy::SecretString;

use super::check::within;
use super::values::{Backend, LogFormat, Number, Setting};
use super::{AwsCredentials, ConfigError};
use crate::clear_text::Tls;
use crate::core::engine::message::MAX_ORDERS;
use crate::core::model::MAX_STOCK;

/// Names that other programs use too, each with the key that it sets. The URL and the host of Redis come
/// before its port and password, which are read only if one of them is set.
pub(super) const SHARED_NAMES: [(&str, &str); 13] = [
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

/// Text settings that guard access, or on which webhooks and the lock depend. They must not be set to an
/// empty text: a variable that is empty by mistake would remove the protection.
pub(super) const ACCESS_TEXTS: &[&str] = &[
    "admin_key",
    "buy_key",
    "jwt_secret",
    "jwt_jwks",
    "jwt_issuer",
    "jwt_audience",
    "trusted_proxies",
    "cors_origins",
    "order_key",
    "webhook_url",
    "webhook_secret",
    "redis_password",
];

/// Number settings that guard access.
const ACCESS_NUMBERS: &[&str] = &["rate_per_user", "rate_per_address", "rate_burst"];

/// True if an empty text is refused for this key, instead of counting as not set.
pub(super) fn guards_access(key: &str) -> bool {
    ACCESS_TEXTS.contains(&key) || ACCESS_NUMBERS.contains(&key)
}

/// A setting, as the reference describes it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Heading in the reference.
    pub section: &'static str,
    pub name: &'static str,
    /// Type in words.
    pub kind: &'static str,
    /// Default as in a TOML file; `""` is none.
    pub default: String,
    /// Least and largest value of a number that has bounds.
    pub bounds: Option<(String, String)>,
    /// True for a secret, which is never shown and belongs into `.env` or the environment.
    pub secret: bool,
    /// True if an empty value is refused.
    pub guards_access: bool,
    /// Description, in lines whose only markup is backticks.
    pub about: &'static [&'static str],
}

impl Key {
    /// Names of the environment variables; the first one wins.
    pub fn variables(&self) -> Vec<String> {
        let name = self.name.to_ascii_uppercase();
        let shared = SHARED_NAMES.iter().filter(|(_, key)| *key == self.name);
        let shared = shared.map(|(name, _)| (*name).to_owned());
        [format!("FLUX_{name}")].into_iter().chain(shared).collect()
    }

    /// The description with type and bounds, on one line.
    pub fn meaning(&self) -> String {
        let about = self.about.iter().map(|line| line.trim());
        let bounds = self.bounds.as_ref().map(|(least, most)| format!("From {least} to {most}."));
        let words = self.kind.contains('`').then(|| format!("It is {}.", self.kind));
        let secret = self.secret.then_some("Secret.");
        let mut sentences: Vec<&str> = secret.into_iter().chain(about).collect();
        sentences.extend(bounds.as_deref().or(words.as_deref()));
        sentences.join(" ")
    }
}

/// Generates [`Settings`]: defaults, keys, setting a key from text, and the check of bounds. An entry is
/// `key: type = default;` or `key: type = default, least..=most;` with a doc comment for the reference.
macro_rules! settings {
    ($($section:literal {
        $($(#[doc = $about:literal])+ $key:ident: $type:ty = $default:expr $(, $bounds:expr)?;)+
    })+) => {
        /// The values of all settings. `Debug` shows no secret.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($($(#[doc = $about])+ pub $key: $type,)+)+
            /// AWS credentials from `.env`; `None` if the SDK's own chain finds them.
            pub aws_credentials: Option<AwsCredentials>,
            /// Names of environment variables that look like settings but are not read, or that this
            /// backend does not use.
            pub ignored: Vec<String>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($key: $default,)+)+ aws_credentials: None, ignored: Vec::new() }
            }
        }

        impl Settings {
            /// The names of all settings.
            pub const KEYS: &[&str] = &[$($(stringify!($key)),+),+];

            /// The descriptions of all settings.
            pub fn keys() -> Vec<Key> {
                let Self { $($($key,)+)+ aws_credentials: _, ignored: _ } = Self::default();
                vec![$($(Key {
                    section: $section,
                    name: stringify!($key),
                    kind: <$type as Setting>::KIND,
                    default: $key.toml(),
                    bounds: [$(bounds::<<$type as Number>::Value>($bounds))?].into_iter().next(),
                    secret: <$type as Setting>::SECRET,
                    guards_access: guards_access(stringify!($key)),
                    about: &[$($about),+],
                }),+),+]
            }

            /// Settings that differ from their defaults, as in a TOML file, without secrets.
            pub fn changed(&self) -> Vec<(&'static str, String)> {
                let default = Self::default();
                let mut changed = Vec::new();
                $($(if !<$type as Setting>::SECRET && self.$key.toml() != default.$key.toml() {
                    changed.push((stringify!($key), self.$key.toml()));
                })+)+
                changed
            }

            /// Sets a key of [`Settings::KEYS`]. The error completes "`key` ...".
            pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                if guards_access(key) && text.trim().is_empty() {
                    return Err("is empty: give it a value, or remove it".to_owned());
                }
                match key {
                    $($(stringify!($key) => self.$key = <$type as Setting>::read(text)?,)+)+
                    _ => return Err("is not a setting".to_owned()),
                }
                Ok(())
            }

            /// The names of settings whose values differ.
            pub fn differing(&self, other: &Self) -> Vec<&'static str> {
                let mut differing = Vec::new();
                $($(if !self.$key.same(&other.$key) {
                    differing.push(stringify!($key));
                })+)+
                differing
            }

            /// Checks that each number is within its bounds.
            pub(super) fn check_bounds(&self) -> Result<(), ConfigError> {
                $($($(within(stringify!($key), self.$key.value(), $bounds)?;)?)+)+
                Ok(())
            }
        }
    };
}

fn bounds<T: ToString>(range: std::ops::RangeInclusive<T>) -> (String, String) {
    let (least, most) = range.into_inner();
    (least.to_string(), most.to_string())
}

// A secret is an `Option<SecretString>`. Names end with their unit.
settings! {
    "Where orders are kept" {
        /// The backend. By default `aws` if `sqs_queue_url` is set, otherwise `embedded`.
        backend: Option<Backend> = None;
        /// File of the embedded backend.
        data: PathBuf = "./flux.db".into();
        /// Maximum number of orders in the embedded queue. Further orders are rejected with 503 and
        /// Retry-After.
        backlog_max: u64 = 2_000_000, 1..=1_000_000_000;
    }
    "The API" {
        /// `HOST:PORT` where `flux serve` listens. Port 0 selects a free port.
        listen: String = "127.0.0.1:5000".to_owned();
        /// Key for the admin API (`Authorization: Bearer ...`), such as `PUT /items/ID`. Without it the
        /// admin API is disabled. Several keys are separated by commas; each must have at least 16 bytes.
        admin_key: Option<SecretString> = None;
        /// Key for buying, for a shop's own server: its holder can buy for any user and see any order.
        /// With it, buying requires a key or token, and only the admin sees owners. Several keys are
        /// separated by commas; each must have at least 16 bytes.
        buy_key: Option<SecretString> = None;
        /// `HOST:PORT` where `flux work` serves `/metrics` and `/healthz`. By default it does not
        /// listen.
        metrics_listen: Option<String> = None;
        /// Secret of users' tokens (JWT, HS256). With it, buying requires a key or a token whose subject
        /// is the `user_id` of the order. At least 32 bytes.
        jwt_secret: Option<SecretString> = None;
        /// File with the public keys (JWKS) of users' tokens (RS256, ES256, EdDSA), or its URL:
        /// `https://...`, or `http://...` on this machine. It is read again when a token has an unknown
        /// key, at most every 30 seconds.
        jwt_jwks: Option<String> = None;
        /// Required `iss` of a token. By default it is not checked.
        jwt_issuer: Option<String> = None;
        /// Required entry in a token's `aud`. Without it, tokens that the same issuer made for other
        /// services are accepted too.
        jwt_audience: Option<String> = None;
        /// Maximum orders per second of one user, including repeats; 0 is no limit. Further orders are
        /// rejected with 429 and Retry-After.
        rate_per_user: u64 = 0, 0..=1_000_000;
        /// Maximum orders per second from one address (for IPv6, one /64 network); 0 is no limit. It does
        /// not apply to holders of `buy_key` or `admin_key`.
        rate_per_address: u64 = 0, 0..=1_000_000;
        /// Orders that these limits allow at once after a pause; 0 is the number per second.
        rate_burst: u64 = 0, 0..=1_000_000;
        /// Proxies whose `X-Forwarded-For` or `Forwarded` is trusted: addresses and networks, like
        /// `10.0.0.0/8`, separated by commas.
        trusted_proxies: Option<String> = None;
        /// Origins whose pages may call the API, like `https://shop.example`, separated by commas, or
        /// `*`.
        cors_origins: Option<String> = None;
        /// URL of the API for browsers and clients behind a proxy, like `https://shop.example` or
        /// `https://shop.example/flux`. The proxy may keep or remove the path. Pages of this origin may
        /// buy without keys.
        public_url: Option<String> = None;
        /// Maximum number of open connections; fewer if the limit of open files is lower.
        connections_max: usize = 10_000, 1..=1_000_000;
        /// Maximum number of orders in memory that wait to be sent to the queue. Further orders are
        /// rejected with 503 and Retry-After.
        intake_max: usize = 10_000, 1..=1_000_000;
        /// Time limit for a client to send a request's head, to send its body, and to continue reading a
        /// response.
        read_timeout_ms: u64 = 10_000, 100..=600_000;
        /// Time after which an idle connection is closed. A load balancer in front must close its
        /// connections earlier. While fewer than a tenth of `connections_max` are free, the longest idle
        /// connections are closed, down to 5 seconds.
        idle_timeout_ms: u64 = 75_000, 1_000..=3_600_000;
    }
    "Deciding" {
        /// Items that `flux serve` decides at once in its own process. With 0, only `flux work` decides.
        workers: usize = 0, 0..=10_000;
        /// Items that `flux work` decides at once.
        concurrency: usize = 50, 1..=10_000;
        /// Stock of an item that nobody listed; with 0, orders for it are rejected with 404. By default 1,
        /// but 0 in `flux serve` if keys are required (`buy_key`, `jwt_secret`, `jwt_jwks`) or `listen` is
        /// not on loopback. At most 1,000 items are created this way.
        unlisted_stock: Option<u64> = None, 0..=MAX_STOCK;
        /// Key of order ids and of the MACs of decisions: the same in every process, unchanged during a
        /// sale. By default it is random and stored in the file (embedded) or in `TABLE_meta` (aws). At
        /// least 16 bytes.
        order_key: Option<SecretString> = None;
        /// Time after which a lock expires unless it is renewed; it is renewed after a third of this time.
        /// Must be below `visibility_timeout_ms`.
        lease_ms: u64 = 5_000, 100..=600_000;
        // Amazon SQS API Reference, SetQueueAttributes: VisibilityTimeout, 0 to 43,200 seconds;
        // ReceiveMessageWaitTimeSeconds, 0 to 20; MessageRetentionPeriod, up to 1,209,600.
        /// Time that a delivery stays invisible to other workers unless it is extended.
        visibility_timeout_ms: u64 = 30_000, 1_000..=43_200_000;
        /// Time that a worker's receive waits for the first order. Must be below `grace_ms`.
        receive_wait_ms: u64 = 5_000, 1..=20_000;
    }
    "Webhooks" {
        /// URL to which decisions are sent (docs/webhooks.md): `https://...`, or `http://...` on this
        /// machine. Set it in every process that decides.
        webhook_url: Option<SecretString> = None;
        /// Secret that signs the events: `whsec_` and 24 to 64 bytes in base64. During a rotation set
        /// several, separated by spaces.
        webhook_secret: Option<SecretString> = None;
        /// Decisions that are sent: sold, rejected, expired, dropped.
        webhook_events: String = "sold,rejected,expired,dropped".to_owned();
        /// Time limit for a response of `webhook_url`.
        webhook_timeout_ms: u64 = 15_000, 100..=60_000;
    }
    "Stopping and the log" {
        /// Time limit for a stop. It must be below the container's own limit (10 s by default).
        grace_ms: u64 = 9_000, 1_000..=3_600_000;
        /// Lowest level to log on stderr: error, warn, info, debug or trace, or a filter in the syntax of
        /// tracing's `EnvFilter`.
        log: String = "info".to_owned();
        /// Format of log lines.
        log_format: LogFormat = LogFormat::Text;
    }
    "Traces" {
        /// Base URL of a collector that accepts OTLP over HTTP, like `http://127.0.0.1:4318`. Without it
        /// no spans are recorded, but a caller's trace context is still propagated. Requires a build with
        /// the cargo feature `otel`, like the container image.
        otlp_endpoint: Option<String> = None;
        /// Headers for the collector, like `NAME=VALUE,NAME=VALUE`. They are sent over `https`, or to a
        /// private host.
        otlp_headers: Option<SecretString> = None;
        /// Share of requests without a trace context that start a trace. A caller's trace is continued if
        /// it is sampled.
        trace_ratio: f64 = 0.001, 0.0..=1.0;
        /// Name of this process in traces.
        service_name: String = "flux".to_owned();
    }
    "AWS" {
        /// URL of the queue of orders; `flux provision` prints it.
        sqs_queue_url: Option<String> = None;
        /// Table of orders. The other tables are `TABLE_items` and `TABLE_meta`.
        dynamodb_table: String = "flux".to_owned();
        /// Region. By default the AWS SDK finds it. The SDK also finds the credentials, which may be in
        /// `.env`.
        aws_region: Option<String> = None;
        /// URL of all AWS services, for stand-ins and private endpoints.
        aws_endpoint_url: Option<String> = None;
        /// URL of SQS; overrides `aws_endpoint_url`.
        aws_endpoint_url_sqs: Option<String> = None;
        /// URL of DynamoDB; overrides `aws_endpoint_url`.
        aws_endpoint_url_dynamodb: Option<String> = None;
        /// Days that SQS keeps messages; at most `dlq_retention_days`.
        retention_days: u64 = 4, 1..=14;
        /// Days that SQS keeps dead letters.
        dlq_retention_days: u64 = 14, 1..=14;
        /// Maximum number of orders in one message of `flux serve`. Above 1, orders that arrive together
        /// are sent as an array. That is cheaper, but other consumers must be able to read arrays.
        orders_per_message: usize = MAX_ORDERS, 1..=MAX_ORDERS;
        // Amazon SQS Developer Guide, "Using dead-letter queues": maxReceiveCount, 1 to 1,000.
        /// Number of receives after which SQS moves a message to the dead-letter queue.
        max_receive_count: u64 = 100, 1..=1_000;
    }
    "Redis or Valkey, for the lock on AWS" {
        /// URL: `redis://...`, or `rediss://...` to require TLS. Overrides host and port. Without a URL or
        /// a host the aws backend sells without a lock.
        redis_url: Option<SecretString> = None;
        /// Host, as an alternative to a URL.
        redis_host: Option<String> = None;
        /// Port of `redis_host`.
        redis_port: u16 = 6379;
        /// Password; overrides one in the URL.
        redis_password: Option<SecretString> = None;
        /// Use of TLS. `auto` uses TLS unless the host is this machine, a private, link-local or shared
        /// address (RFC 1918, 3927, 4193, 6598), or a name without dots; names are not resolved for this,
        /// and `redis://` in a URL makes no difference. `off` never uses TLS, so the password is sent
        /// unencrypted.
        redis_tls: Tls = Tls::Auto;
    }
}
