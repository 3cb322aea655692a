//! An HTTP client for external servers: webhook endpoints, identity providers, collectors of traces. TLS
//! is rustls with ring and trusts the system's root certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR`
//! override them).

use std::error::Error;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

/// Idle connections to one server, at most.
const IDLE_MAX: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of a response, in bytes.
const HEAD_MAX: usize = 64 * 1024;
const NO_ROOTS: &str = "this machine has no root certificates: install ca-certificates, or set \
                        SSL_CERT_FILE";

/// A request without a response. The text is one line, without URL and headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The request cannot be sent, now or later.
    #[error("{0}")]
    Unusable(String),
    /// No connection; nothing was sent.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The server may have received the request.
    #[error("no response: {0}")]
    NoResponse(String),
}

/// A response with any status; redirects are not followed.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body, up to the requested length.
    pub body: Vec<u8>,
    /// True if the body was longer.
    pub truncated: bool,
}

/// The client. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    has_roots: bool,
}

impl HttpClient {
    /// Reads the system's root certificates, which blocks for some milliseconds. Without any, only `http`
    /// works.
    pub fn new() -> HttpClient {
        let (tls, has_roots) = client_tls();
        Self::with(tls, has_roots)
    }

    fn with(tls: ClientConfig, has_roots: bool) -> HttpClient {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = builder.enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(HEAD_MAX)
            .build(connector);
        HttpClient { client, has_roots }
    }

    /// Sends a request to an absolute URL. The whole response must arrive `within` the time, and at most
    /// `body_max` bytes of its body are read. A request is repeated only if a kept connection turned out
    /// to be closed before any of it was written. Cancelling closes the connection; the server may have
    /// received the request.
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        within: Duration,
        body_max: usize,
    ) -> Result<Reply, HttpError> {
        self.check(request.uri())?;
        let agent = HeaderValue::from_static(concat!("flux/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(agent);
        let exchange = async {
            let response =
                self.client.request(request).await.map_err(|e| match e.is_connect() {
                    true => HttpError::NoConnection(cause(&e)),
                    false => HttpError::NoResponse(cause(&e)),
                })?;
            let (head, body) = response.into_parts();
            let (body, truncated) = read(body, body_max).await?;
            Ok(Reply { status: head.status, headers: head.headers, body, truncated })
        };
        let late = || HttpError::NoResponse(format!("not within {} ms", within.as_millis()));
        tokio::time::timeout(within, exchange).await.map_err(|_| late())?
    }

    fn check(&self, url: &Uri) -> Result<(), HttpError> {
        match (url.scheme_str(), url.host()) {
            (Some("http"), Some(_)) => Ok(()),
            (Some("https"), Some(_)) if self.has_roots => Ok(()),
            (Some("https"), Some(_)) => Err(HttpError::Unusable(NO_ROOTS.to_owned())),
            _ => Err(HttpError::Unusable("the URL must begin with https:// or http://".to_owned())),
        }
    }
}

/// A TLS configuration that trusts the system's root certificates, and whether there are any. Blocks for
/// some milliseconds.
pub(super) fn client_tls() -> (ClientConfig, bool) {
    let provider = ring::default_provider();
    let versions = ClientConfig::builder_with_provider(provider.into());
    let versions = versions.with_safe_default_protocol_versions();
    let versions = versions.expect("ring has ciphers for TLS 1.2 and 1.3");
    match versions.clone().with_native_roots() {
        Ok(rooted) => (rooted.with_no_client_auth(), true),
        Err(_) => {
            let none = versions.with_root_certificates(RootCertStore::empty());
            (none.with_no_client_auth(), false)
        }
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads at most `max` bytes; returns also whether there are more.
async fn read(mut body: Incoming, max: usize) -> Result<(Vec<u8>, bool), HttpError> {
    let expected = body.size_hint().lower().min(max as u64) as usize;
    let mut bytes = Vec::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| HttpError::NoResponse(cause(&e)))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = max - bytes.len();
        if data.len() > room {
            bytes.extend_from_slice(&data[..room]);
            return Ok((bytes, true));
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, false))
}

/// The root cause of an error, in one line.
fn cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string().replace('\n', " ")
}

#[cfg(test)]
mod tests;
