//! Redis or Valkey: one connection per process and one more for subscriptions, both reconnecting
//! for ever in the background. What is stored there only saves work or time, so nothing waits
//! long for it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, KeysInterface};
use fred::types::config::{
    Config, CredentialProvider, ReconnectPolicy, Server, ServerConfig, TlsConfig, TlsConnector,
};
use fred::types::{Builder, Expiration};
use tokio::time::Instant;

use crate::adapters::http_client::client_tls;
use crate::clear_text::{Tls, is_private};
use crate::core::ports::usage::{Calls, Service, Usage};

/// After this a command has failed.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to wait for the first connection when a process starts.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect again, in milliseconds: from, to, factor.
const RECONNECT: (u32, u32, u32) = (50, 2_000, 2);

/// By these a node refuses writes until it is master again, which may be never: it was demoted, or
/// has lost its replicas to the new master.
const DEMOTED: [&str; 3] = ["READONLY", "MASTERDOWN", "NOREPLICAS"];
/// The least time between two new connections for that reason.
const DEMOTED_PAUSE: Duration = Duration::from_secs(1);
/// How long the trace of a readiness check stays, in milliseconds.
const CHECK_MS: i64 = 1_000;

/// Where it is. `url` as fred reads it: `redis://`, `rediss://` for TLS, `redis-cluster://` and
/// `rediss-cluster://` for a cluster.
#[derive(Clone)]
pub struct RedisSettings {
    pub url: String,
    /// Takes the place of a password in the URL.
    pub password: Option<String>,
    /// Under `Auto` no password is sent unencrypted to a host that is not private, whatever the
    /// URL's scheme. `rediss://` is TLS in any case.
    pub tls: Tls,
    /// Begins the name of every key and channel: sales with different ones do not meet.
    pub prefix: String,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The connection that the Redis adapters share. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    builder: Builder,
    prefix: Arc<str>,
    address: Arc<str>,
    calls: Arc<Calls>,
    failover: Arc<Mutex<Failover>>,
}

/// What follows the address to another node after a failover.
#[derive(Default)]
struct Failover {
    subscribers: Vec<SubscriberClient>,
    last: Option<Instant>,
}

impl Redis {
    /// Starts connecting and waits at most [`START_TIMEOUT`] for it. An absent Redis is a warning
    /// in the log, not an error; the error is an address that nobody could connect to.
    pub async fn connect(settings: RedisSettings, calls: Arc<Calls>) -> Result<Self, String> {
        let secured = Secured::config(&settings)?;
        let config = secured.config;
        let address = address(&config.server);
        let mut builder = Builder::from_config(config);
        let (from, to, factor) = RECONNECT;
        builder
            .set_policy(ReconnectPolicy::new_exponential(0, from, to, factor))
            .with_performance_config(|c| c.default_command_timeout = COMMAND_TIMEOUT)
            .with_connection_config(|c| {
                c.connection_timeout = CONNECT_TIMEOUT;
                c.internal_command_timeout = CONNECT_TIMEOUT;
                c.max_command_attempts = 1;
                c.reconnect_on_auth_error = true;
                c.unresponsive.max_timeout = Some(CONNECT_TIMEOUT);
                c.unresponsive.interval = COMMAND_TIMEOUT;
            });
        let client = builder.build().map_err(|e| e.to_string())?;
        let (prefix, address) = (settings.prefix.into(), Arc::<str>::from(address));
        let mut errors = client.error_rx();
        client.connect();
        let connected = tokio::time::timeout(START_TIMEOUT, client.wait_for_connect()).await;
        if !matches!(connected, Ok(Ok(()))) {
            let cause = errors.try_recv().map_or("no answer".to_owned(), |(e, _)| e.to_string());
            let hint = secured.hint;
            tracing::warn!(
                "no Redis at {address} ({cause}): the sale goes on without it, slower; still \
                 trying. Check REDIS_HOST, REDIS_PORT, REDIS_PASSWORD or REDIS_URL{hint}"
            );
        }
        let failover = Arc::default();
        Ok(Self { client, builder, prefix, address, calls, failover })
    }

    /// The connection for so many commands in one round trip, which is counted; an error at once
    /// while there is none.
    pub fn round_trip(&self, operation: &str, commands: usize) -> Result<&Client, String> {
        if !self.client.is_connected() {
            return Err(format!("not connected to Redis at {}", self.address));
        }
        let usage = Usage { round_trips: 1, requests: commands as u64, ..Usage::default() };
        self.calls.count(Service::Redis, operation, usage);
        Ok(&self.client)
    }

    /// Counts a round trip that came to nothing; returns why it did, in words. If the node refuses
    /// writes, connects again in the background: the address may name another node by now.
    pub fn failed(&self, operation: &str, error: &fred::error::Error) -> String {
        self.calls.failed(Service::Redis, operation);
        if DEMOTED.iter().any(|code| error.details().starts_with(code)) {
            self.connect_again();
        }
        error.to_string()
    }

    fn connect_again(&self) {
        let subscribers = {
            let mut failover = self.failover.lock().unwrap_or_else(PoisonError::into_inner);
            if failover.last.is_some_and(|last| last.elapsed() < DEMOTED_PAUSE) {
                return;
            }
            failover.last = Some(Instant::now());
            failover.subscribers.clone()
        };
        tracing::warn!("Redis at {} refuses writes; connecting again", self.address);
        let client = self.client.clone();
        tokio::spawn(async move {
            let _reconnects = client.force_reconnection().await;
            for subscriber in subscribers {
                let _reconnects = subscriber.force_reconnection().await;
            }
        });
    }

    /// Whether a write is taken: a demoted node answers reads as before.
    pub async fn check(&self) -> Result<(), String> {
        let client = self.round_trip("SET", 1)?;
        let ends = Some(Expiration::PX(CHECK_MS));
        let set = client.set::<(), _, _>(self.name("check"), 1, ends, None, false).await;
        set.map_err(|e| self.failed("SET", &e))
    }

    /// A new connection for subscriptions, not connected yet.
    pub fn subscriber(&self) -> Result<SubscriberClient, String> {
        let subscriber = self.builder.build_subscriber_client().map_err(|e| e.to_string())?;
        let mut failover = self.failover.lock().unwrap_or_else(PoisonError::into_inner);
        failover.subscribers.push(subscriber.clone());
        Ok(subscriber)
    }

    /// The name of a key or channel.
    pub fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.prefix)
    }
}

/// fred's configuration with the decision whether to use TLS made.
struct Secured {
    config: Config,
    /// What to change if Redis does not answer, when TLS may be the reason.
    hint: String,
}

impl Secured {
    fn config(settings: &RedisSettings) -> Result<Secured, String> {
        let (url, named_tls) = match settings.url.strip_prefix("rediss") {
            Some(rest) => (format!("redis{rest}"), true),
            None => (settings.url.clone(), false),
        };
        let mut config = Config::from_url(&url)
            .map_err(|e| format!("the address of Redis is not a redis:// URL: {}", e.details()))?;
        // Otherwise the first failure to connect would be the last attempt.
        config.fail_fast = false;
        // By the hosts as fred read them: another reader of the URL might find others.
        let hosts = config.server.hosts();
        let public = hosts.iter().find(|server| !is_private(&server.host));
        let public = public.map(|server| server.host.to_string());
        let tls = match settings.tls {
            Tls::On => true,
            Tls::Off => named_tls,
            Tls::Auto => named_tls || public.is_some(),
        };
        let password = settings.password.clone().or(config.password.take());
        let mut hint = String::new();
        match (&public, settings.tls) {
            (Some(host), Tls::Auto) if !named_tls => {
                hint = format!(
                    ". TLS is used because {host} is not a private address: if Redis has none there \
                     and the network is your own, set redis_tls = off"
                );
            }
            (Some(host), Tls::Off) if !tls && password.is_some() => tracing::warn!(
                "the password of Redis is sent unencrypted to {host}, as redis_tls = off demands"
            ),
            _ => {}
        }
        if tls {
            let (client, _) = client_tls();
            config.tls = Some(TlsConfig::from(TlsConnector::from(client)));
        }
        let username = config.username.take();
        let to_private_only = !tls && settings.tls == Tls::Auto;
        config.credential_provider = Some(Arc::new(Login { username, password, to_private_only }));
        Ok(Secured { config, hint })
    }
}

/// Gives a connection its credentials, which is the last moment to keep them back: a cluster names
/// further nodes, and they may be anywhere.
struct Login {
    username: Option<String>,
    password: Option<String>,
    to_private_only: bool,
}

#[async_trait]
impl CredentialProvider for Login {
    async fn fetch(
        &self,
        server: Option<&Server>,
    ) -> Result<(Option<String>, Option<String>), Error> {
        let is_private = server.is_some_and(|server| is_private(&server.host));
        if self.password.is_some() && self.to_private_only && !is_private {
            let host = server.map_or("a host without a name", |server| &server.host);
            let what = "the password is not sent unencrypted to a host that is not private: use \
                        rediss-cluster://, or set redis_tls = off";
            // Of a kind after which fred tries again.
            return Err(Error::new(ErrorKind::Auth, format!("{host}: {what}")));
        }
        Ok((self.username.clone(), self.password.clone()))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("to_private_only", &self.to_private_only)
            .finish_non_exhaustive()
    }
}

fn address(server: &ServerConfig) -> String {
    let hosts: Vec<String> = server.hosts().iter().map(ToString::to_string).collect();
    hosts.join(", ")
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.address).finish()
    }
}

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis at {}", self.address)
    }
}
