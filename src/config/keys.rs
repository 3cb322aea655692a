//! Every setting, in one list: `docs/configuration.md`, `config/flux.toml` and the man page are
//! made from it (`scripts/docs`), and so are the checks of its bounds.

use std::path::PathBuf;

use secrecy::SecretString;

use super::check::within;
use super::values::{Backend, LogFormat, Number, Setting};
use super::{AwsCredentials, ConfigError};
use crate::clear_text::Tls;
use crate::core::engine::message::MAX_ORDERS;
use crate::core::model::MAX_STOCK;

/// Names that other tools use too, taken as they are, each with the key that it sets. The URL and
/// host of Redis come before its port and password, which are read only with them.
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

/// Texts that decide who may do what, or that events and locks depend on. Written, they must say
/// something: one that comes out empty would let everybody in.
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

/// The same, as numbers.
const ACCESS_NUMBERS: &[&str] = &["rate_per_user", "rate_per_address", "rate_burst"];

/// Whether an empty text is refused for this key instead of being none.
pub(super) fn guards_access(key: &str) -> bool {
    ACCESS_TEXTS.contains(&key) || ACCESS_NUMBERS.contains(&key)
}

/// A setting as the reference describes it.
#[derive(Debug, Clone)]
pub struct Key {
    /// The heading that it stands under.
    pub section: &'static str,
    pub name: &'static str,
    /// What its text must be, in words.
    pub kind: &'static str,
    /// As in a TOML file; `""` is none.
    pub default: String,
    /// The least and the most, if it is a number that has them.
    pub bounds: Option<(String, String)>,
    /// Never shown, and better in `.env` or the environment than in a file that is kept.
    pub secret: bool,
    /// Refused when it is written and empty.
    pub guards_access: bool,
    /// What it means, in lines without markup but backticks.
    pub about: &'static [&'static str],
}

impl Key {
    /// The environment's names for it; the first wins.
    pub fn variables(&self) -> Vec<String> {
        let name = self.name.to_ascii_uppercase();
        let shared = SHARED_NAMES.iter().filter(|(_, key)| *key == self.name);
        let shared = shared.map(|(name, _)| (*name).to_owned());
        [format!("FLUX_{name}")].into_iter().chain(shared).collect()
    }

    /// All that is to be said of it in a sentence or a few, on one line.
    pub fn meaning(&self) -> String {
        let about = self.about.iter().map(|line| line.trim());
        let bounds = self.bounds.as_ref().map(|(least, most)| format!("From {least} to {most}."));
        let words = self.kind.contains('`').then(|| format!("It is {}.", self.kind));
        let secret = self.secret.then_some("Secret.");
        let mut said: Vec<&str> = secret.into_iter().chain(about).collect();
        said.extend(bounds.as_deref().or(words.as_deref()));
        said.join(" ")
    }
}

/// Writes [`Settings`]: its defaults, its keys, the one way to set a key from text, and the check
/// of its bounds. A line is `key: type = default;` or `key: type = default, least..=most;` under a
/// doc comment for the reference.
macro_rules! settings {
    ($($section:literal {
        $($(#[doc = $about:literal])+ $key:ident: $type:ty = $default:expr $(, $bounds:expr)?;)+
    })+) => {
        /// Every key of `config/flux.toml`, as it is in force. Its `Debug` shows no secret.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($($(#[doc = $about])+ pub $key: $type,)+)+
            /// From `.env`, for the SDK; `None` where the SDK's own chain is to find them.
            pub aws_credentials: Option<AwsCredentials>,
            /// Variables of the environment that have the name of a setting and are none, or are
            /// not used here. Only their names.
            pub ignored: Vec<String>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($key: $default,)+)+ aws_credentials: None, ignored: Vec::new() }
            }
        }

        impl Settings {
            pub const KEYS: &[&str] = &[$($(stringify!($key)),+),+];

            /// All of them, described.
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

            /// Those that are not as by default, but no secret, as they stand in a TOML file.
            pub fn changed(&self) -> Vec<(&'static str, String)> {
                let default = Self::default();
                let mut changed = Vec::new();
                $($(if !<$type as Setting>::SECRET && self.$key.toml() != default.$key.toml() {
                    changed.push((stringify!($key), self.$key.toml()));
                })+)+
                changed
            }

            /// Sets a key that is one of [`Settings::KEYS`]; the error says what it must be.
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

            /// The keys whose values differ.
            pub fn differing(&self, other: &Self) -> Vec<&'static str> {
                let mut differing = Vec::new();
                $($(if !self.$key.same(&other.$key) {
                    differing.push(stringify!($key));
                })+)+
                differing
            }

            /// Whether each number is within its bounds.
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

// A secret is an `Option<SecretString>`; units stand in the names.
settings! {
    "Where orders are kept" {
        /// By default `aws` when `sqs_queue_url` is set, else `embedded`.
        backend: Option<Backend> = None;
        /// The embedded backend's file.
        data: PathBuf = "./flux.db".into();
        /// Orders that the embedded queue holds at most. Beyond them a buyer gets 503 with
        /// Retry-After.
        backlog_max: u64 = 2_000_000, 1..=1_000_000_000;
    }
    "The API" {
        /// `HOST:PORT` where `flux serve` listens; port 0 takes a free one.
        listen: String = "127.0.0.1:5000".to_owned();
        /// Lets the admin in, to `PUT /items/ID` for one (`Authorization: Bearer ...`); without one
        /// that is closed. Several, separated by commas, are all as good. At least 16 bytes each.
        admin_key: Option<SecretString> = None;
        /// With it, buying takes a key: its holder, a shop's own server, buys for any user and sees
        /// any order, and owners are shown to the admin only. Several, and as long, as above.
        buy_key: Option<SecretString> = None;
        /// `HOST:PORT` where `flux work`, which has no API, serves `/metrics` and `/healthz`;
        /// by default nowhere.
        metrics_listen: Option<String> = None;
        /// With it, buying takes a key or a token (JWT) signed with this secret (HS256), whose
        /// subject is the `user_id` that it may buy for. At least 32 bytes.
        jwt_secret: Option<SecretString> = None;
        /// A file with the public keys (JWKS) of who signs the users' tokens (RS256, ES256, EdDSA), or
        /// its URL: `https://...`, or `http://...` on this machine. Read again for an unknown key, but not more often than every 30 seconds.
        jwt_jwks: Option<String> = None;
        /// What a token's `iss` must be, if it is to be checked.
        jwt_issuer: Option<String> = None;
        /// What must be among a token's `aud`. Without it, tokens that the same issuer made for other
        /// services are accepted too.
        jwt_audience: Option<String> = None;
        /// Orders a second that one user may send, repeats too; 0 is no limit. Beyond it 429 with
        /// Retry-After.
        rate_per_user: u64 = 0, 0..=1_000_000;
        /// Orders a second that may come from one address (of IPv6, one network of 64 bits); 0 is
        /// no limit. Not for holders of `buy_key` or `admin_key`.
        rate_per_address: u64 = 0, 0..=1_000_000;
        /// Orders that may come at once after a pause, within these limits; 0 is those of a second.
        rate_burst: u64 = 0, 0..=1_000_000;
        /// Proxies whose `X-Forwarded-For` or `Forwarded` is believed: addresses and networks, like
        /// `10.0.0.0/8`, separated by commas.
        trusted_proxies: Option<String> = None;
        /// Sites whose pages may ask the API: origins like `https://shop.example`, separated by
        /// commas, or `*`.
        cors_origins: Option<String> = None;
        /// Where browsers and clients find the API if that is not where it listens, like
        /// `https://shop.example` or `https://shop.example/flux`: behind a proxy, maybe below a path,
        /// which the proxy may take away or leave. Pages of this origin may buy without keys.
        public_url: Option<String> = None;
        /// Open connections, at most; fewer where the limit of open files is lower.
        connections_max: usize = 10_000, 1..=1_000_000;
        /// Orders that wait in memory to be sent to the queue, at most. Beyond them a buyer gets
        /// 503 with Retry-After.
        intake_max: usize = 10_000, 1..=1_000_000;
        /// Time a client has to send a request's head, again for its body, and to read on in an
        /// answer.
        read_timeout_ms: u64 = 10_000, 100..=600_000;
        /// How long a connection is kept while no request is on it; a balancer in front must close
        /// its own sooner. While fewer than a tenth of `connections_max` are free, those idle
        /// longest are closed first, down to 5 seconds.
        idle_timeout_ms: u64 = 75_000, 1_000..=3_600_000;
    }
    "Deciding" {
        /// Items that `flux serve` decides at once in its own process; 0 leaves it to `flux work`.
        workers: usize = 0, 0..=10_000;
        /// Items that `flux work` decides at once.
        concurrency: usize = 50, 1..=10_000;
        /// Units of an item that nobody listed; 0 refuses orders for it with 404. By default 1;
        /// in `flux serve` 0 where keys are on (`buy_key`, `jwt_secret`, `jwt_jwks`) or `listen` is
        /// not on loopback. At most 1,000 items are made so.
        unlisted_stock: Option<u64> = None, 0..=MAX_STOCK;
        /// Names orders and seals decisions: the same for every process, unchanged during a sale.
        /// By default drawn once and kept in the store: in the file (embedded), or in `TABLE_meta`
        /// (aws). At least 16 bytes.
        order_key: Option<SecretString> = None;
        /// How long a lock is held without being renewed; it is renewed at a third of that. Below
        /// `visibility_timeout_ms`.
        lease_ms: u64 = 5_000, 100..=600_000;
        // Amazon SQS API Reference, SetQueueAttributes: VisibilityTimeout, 0 to 43,200 seconds;
        // ReceiveMessageWaitTimeSeconds, 0 to 20; MessageRetentionPeriod, up to 1,209,600.
        /// How long a delivery stays invisible to other workers without being extended.
        visibility_timeout_ms: u64 = 30_000, 1_000..=43_200_000;
        /// How long a worker's receive waits for the first order. Below `grace_ms`.
        receive_wait_ms: u64 = 5_000, 1..=20_000;
    }
    "Webhooks" {
        /// Where the shop wants to be told of decisions (docs/webhooks.md): `https://...`, or
        /// `http://...` on this machine. For every process that decides.
        webhook_url: Option<SecretString> = None;
        /// What its events are signed with: `whsec_` and 24 to 64 bytes in base64; several with
        /// spaces while it is being changed.
        webhook_secret: Option<SecretString> = None;
        /// The decisions that it wants to know of: sold, rejected, expired, dropped.
        webhook_events: String = "sold,rejected,expired,dropped".to_owned();
        /// How long the shop may take to answer.
        webhook_timeout_ms: u64 = 15_000, 100..=60_000;
    }
    "Stopping and the log" {
        /// How long a stop may take; below what the container grants (mostly 10 s).
        grace_ms: u64 = 9_000, 1_000..=3_600_000;
        /// What to log on stderr: error, warn, info, debug or trace, or as tracing's `EnvFilter`
        /// has it.
        log: String = "info".to_owned();
        /// How log lines are written.
        log_format: LogFormat = LogFormat::Text;
    }
    "Traces" {
        /// Base URL of a collector that takes OTLP over HTTP, like `http://127.0.0.1:4318`. Without
        /// one nothing is recorded; a caller's trace is passed on all the same. It needs a flux
        /// built with the cargo feature `otel`, as the container image is.
        otlp_endpoint: Option<String> = None;
        /// Headers for the collector, like `NAME=VALUE,NAME=VALUE`: over `https`, or to a private host.
        otlp_headers: Option<SecretString> = None;
        /// The share of requests without a trace that begin one. A caller's trace is followed if it
        /// is sampled.
        trace_ratio: f64 = 0.001, 0.0..=1.0;
        /// As what this process shows in traces.
        service_name: String = "flux".to_owned();
    }
    "AWS" {
        /// The queue of orders; `flux provision` prints it.
        sqs_queue_url: Option<String> = None;
        /// The table of orders; the others are `TABLE_items` and `TABLE_meta`.
        dynamodb_table: String = "flux".to_owned();
        /// The region; by default as the AWS SDK finds it. So are credentials, which may also
        /// stand in `.env`.
        aws_region: Option<String> = None;
        /// Where all AWS services are, for stand-ins and private endpoints.
        aws_endpoint_url: Option<String> = None;
        /// Where SQS is; wins over `aws_endpoint_url`.
        aws_endpoint_url_sqs: Option<String> = None;
        /// Where DynamoDB is; wins over `aws_endpoint_url`.
        aws_endpoint_url_dynamodb: Option<String> = None;
        /// How long SQS keeps messages; at most `dlq_retention_days`.
        retention_days: u64 = 4, 1..=14;
        /// How long SQS keeps dead letters.
        dlq_retention_days: u64 = 14, 1..=14;
        /// Orders that one message of `flux serve` carries at most. Beyond 1 it is an array of them
        /// when several orders arrive together: cheaper, and nothing for other consumers that read
        /// one order per message.
        orders_per_message: usize = MAX_ORDERS, 1..=MAX_ORDERS;
        // Amazon SQS Developer Guide, "Using dead-letter queues": maxReceiveCount, 1 to 1,000.
        /// Receives after which SQS itself moves a message to the dead-letter queue.
        max_receive_count: u64 = 100, 1..=1_000;
    }
    "Redis or Valkey, for the lock on AWS" {
        /// `redis://...`, or `rediss://...` for TLS in any case. Wins over host and port. Without a
        /// URL or a host the AWS backend sells without a lock.
        redis_url: Option<SecretString> = None;
        /// Its host, in place of a URL.
        redis_host: Option<String> = None;
        /// Its port.
        redis_port: u16 = 6379;
        /// Its password, if it wants one; wins over one in the URL.
        redis_password: Option<SecretString> = None;
        /// Whether Redis is spoken to over TLS. `auto`: yes, unless its host is this machine, a
        /// private, link-local or shared address (RFC 1918, 3927, 4193, 6598), or a name without
        /// dots; names are not looked up for that, and `redis://` changes nothing about it. `off`:
        /// never; then the password goes over the network unencrypted.
        redis_tls: Tls = Tls::Auto;
    }
}
