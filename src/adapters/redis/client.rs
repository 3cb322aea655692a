//! Redis or Valkey: one connection per process for commands and one for subscriptions. Both reconnect
//! in the background without a limit. Redis only saves work and time, so nothing waits long for it.

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

/// Time after which a command has failed.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to wait for the first connection when a process starts.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the first attempt to reconnect, in milliseconds.
const RECONNECT_MIN_MS: u32 = 50;
/// The longest of these pauses, in milliseconds.
const RECONNECT_MAX_MS: u32 = 2_000;
/// Factor by which each pause is longer than the one before.
const RECONNECT_FACTOR: u32 = 2;

/// Error codes of a node that is no longer the master. Redis puts the code first in an error's text,
/// and fred has no type for it.
const DEMOTED: [&str; 3] = ["READONLY", "MASTERDOWN", "NOREPLICAS"];
/// The least time between two reconnections because of a demoted node.
const DEMOTED_PAUSE: Duration = Duration::from_secs(1);
/// Expiry of the key that a readiness check writes, in milliseconds.
const CHECK_MS: i64 = 1_000;

/// The address and credentials of Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://`, or `rediss://` for TLS; `redis-cluster://` and `rediss-cluster://` for a cluster.
    pub url: String,
    /// Overrides a password in the URL.
    pub password: Option<String>,
    /// With `Auto` a password is never sent unencrypted to a host that is not private, even with
    /// `redis://`. `rediss://` always uses TLS.
    pub tls: Tls,
    /// Prefix of every key and channel, which keeps sales apart.
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

/// State for reconnecting after a failover.
#[derive(Default)]
struct Failover {
    /// Connections that reconnect together with the client.
    subscribers: Vec<SubscriberClient>,
    /// Time of the last reconnection.
    last: Option<Instant>,
}

impl Redis {
    /// Starts to connect and waits for at most [`START_TIMEOUT`]. If Redis is not reachable, this logs a
    /// warning and keeps trying in the background. An invalid address is an error.
    pub async fn connect(settings: RedisSettings, calls: Arc<Calls>) -> Result<Self, String> {
        let secured = Secured::config(&settings)?;
        let config = secured.config;
        let address = address(&config.server);
        let mut builder = Builder::from_config(config);
        let reconnect = ReconnectPolicy::new_exponential(
            0,
            RECONNECT_MIN_MS,
            RECONNECT_MAX_MS,
            RECONNECT_FACTOR,
        );
        builder
            .set_policy(reconnect)
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
        let prefix = settings.prefix.into();
        let address = Arc::<str>::from(address);
        let mut errors = client.error_rx();
        client.connect();
        let connected = tokio::time::timeout(START_TIMEOUT, client.wait_for_connect()).await;
        if !matches!(connected, Ok(Ok(()))) {
            let cause = errors.try_recv().map_or("no answer".to_owned(), |(e, _)| e.to_string());
            let hint = secured.hint;
            tracing::warn!(
                "Redis at {address} not reachable ({cause}); deciding without a lock, slower, and \
                 retrying. Check REDIS_HOST, REDIS_PORT, REDIS_PASSWORD or REDIS_URL{hint}"
            );
        }
        let failover = Arc::default();
        Ok(Self { client, builder, prefix, address, calls, failover })
    }

    /// Counts one round trip with this number of commands and returns the connection for it. Fails at
    /// once while there is no connection.
    pub fn round_trip(&self, operation: &str, commands: usize) -> Result<&Client, String> {
        if !self.client.is_connected() {
            return Err(format!("not connected to Redis at {}", self.address));
        }
        let usage = Usage { round_trips: 1, requests: commands as u64, ..Usage::default() };
        self.calls.count(Service::Redis, operation, usage);
        Ok(&self.client)
    }

    /// Counts a failed round trip and returns the text of its error. If the node refuses writes, this
    /// reconnects in the background, because the address may lead to another node now.
    pub fn failed(&self, operation: &str, error: &Error) -> String {
        self.calls.failed(Service::Redis, operation);
        let code = error.details().split(' ').next().unwrap_or_default();
        if DEMOTED.contains(&code) {
            self.reconnect();
        }
        error.to_string()
    }

    /// Reconnects all connections after a failover, at most once per [`DEMOTED_PAUSE`]. The lock makes
    /// one of the concurrent callers do it; it is not held during the reconnection.
    fn reconnect(&self) {
        let subscribers = {
            let mut failover = self.failover.lock().unwrap_or_else(PoisonError::into_inner);
            if failover.last.is_some_and(|last| last.elapsed() < DEMOTED_PAUSE) {
                return;
            }
            failover.last = Some(Instant::now());
            failover.subscribers.clone()
        };
        tracing::warn!("Redis at {} refuses writes; reconnecting", self.address);
        let client = self.client.clone();
        tokio::spawn(async move {
            let _reconnects = client.force_reconnection().await;
            for subscriber in subscribers {
                let _reconnects = subscriber.force_reconnection().await;
            }
        });
    }

    /// Checks that Redis accepts a write. A read is not enough, because a demoted node still serves
    /// reads.
    pub async fn check(&self) -> Result<(), String> {
        let client = self.round_trip("SET", 1)?;
        let expiry = Some(Expiration::PX(CHECK_MS));
        let set = client.set::<(), _, _>(self.name("check"), 1, expiry, None, false).await;
        set.map_err(|e| self.failed("SET", &e))
    }

    /// A new client for subscriptions, which is not connected yet.
    pub fn subscriber(&self) -> Result<SubscriberClient, String> {
        let subscriber = self.builder.build_subscriber_client().map_err(|e| e.to_string())?;
        let mut failover = self.failover.lock().unwrap_or_else(PoisonError::into_inner);
        failover.subscribers.push(subscriber.clone());
        Ok(subscriber)
    }

    /// The full name of a key or channel.
    pub fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.prefix)
    }
}

/// fred's configuration, with TLS and credentials decided.
struct Secured {
    config: Config,
    /// Advice for the log if the connection fails, when TLS may be the cause; otherwise empty.
    hint: String,
}

impl Secured {
    fn config(settings: &RedisSettings) -> Result<Secured, String> {
        let (url, requires_tls) = match settings.url.strip_prefix("rediss") {
            Some(rest) => (format!("redis{rest}"), true),
            None => (settings.url.clone(), false),
        };
        let mut config = Config::from_url(&url)
            .map_err(|e| format!("the address of Redis is not a redis:// URL: {}", e.details()))?;
        // With `fail_fast` a failed first attempt would be the last one.
        config.fail_fast = false;
        // The hosts as fred parsed them, because another parser could find others in the same URL.
        let hosts = config.server.hosts();
        let public = hosts.iter().find(|server| !is_private(&server.host));
        let public = public.map(|server| server.host.to_string());
        let tls = match settings.tls {
            Tls::On => true,
            Tls::Off => requires_tls,
            Tls::Auto => requires_tls || public.is_some(),
        };
        let password = settings.password.clone().or(config.password.take());
        let mut hint = String::new();
        match (&public, settings.tls) {
            (Some(host), Tls::Auto) if !requires_tls => {
                hint = format!(
                    ". TLS is used because {host} is not a private address: if that Redis has no TLS \
                     and the network is trusted, set redis_tls = off"
                );
            }
            (Some(host), Tls::Off) if !tls && password.is_some() => tracing::warn!(
                "the Redis password is sent unencrypted to {host}, because redis_tls = off"
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

/// Provides the credentials of each connection. This is the last place where they can be withheld: a
/// cluster names further nodes, which may be on any host.
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
            let why = "the password is not sent unencrypted to a host that is not private: use \
                       rediss-cluster://, or set redis_tls = off";
            // fred retries after an error of this kind.
            return Err(Error::new(ErrorKind::Auth, format!("{host}: {why}")));
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
