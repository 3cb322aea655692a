//! A client with one keep-alive HTTP/1.1 connection to a server, like a buyer's.

#[cfg(feature = "top")]
pub(crate) mod stream;

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, InvalidHeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Time limit of a response, including the longest wait for a decision (30 s).
const RESPONSE_WITHIN: Duration = Duration::from_secs(45);
/// Attempts at a GET.
const GET_ATTEMPTS: u32 = 4;
const GET_PAUSE: Duration = Duration::from_millis(250);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The longest response body, in bytes.
const RESPONSE_BYTES: usize = 1 << 20;

/// A server's address, `http://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    authority: String,
    host: HeaderValue,
    /// Header of each request.
    authorization: Option<HeaderValue>,
}

impl Address {
    /// Parses `http://HOST[:PORT]`. The error says what to write instead.
    pub fn parse(url: &str) -> Result<Address, String> {
        let wrong = |why| format!("{url}: {why}; give the server as http://HOST:PORT");
        // Not quoted, because the text before the @ may be a password.
        if url.contains('@') {
            let why = "a user or password in the URL is not supported";
            return Err(format!(
                "{why}; give the server as http://HOST:PORT, and keys as settings"
            ));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only plain HTTP is supported"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("a path is not supported"));
        }
        let host = uri.host().ok_or_else(|| wrong("no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let host = HeaderValue::try_from(&authority).map_err(|_| wrong("not a host"))?;
        Ok(Address { authority, host, authorization: None })
    }

    /// The same address with a key. The error does not contain the key.
    pub fn with_key(self, key: &SecretString) -> Result<Address, InvalidHeaderValue> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))?;
        bearer.set_sensitive(true);
        Ok(Address { authorization: Some(bearer), ..self })
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.host.clone());
        headers.extend(self.authorization.clone().map(|key| (AUTHORIZATION, key)));
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct ServerResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl ServerResponse {
    /// Time after which to send the request again, if the server was busy (429 or 503): its
    /// `Retry-After`, or 1 s, at most 30 s.
    pub fn retry_after(&self) -> Option<Duration> {
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let seconds = || self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok();
        busy.contains(&self.status).then(|| Duration::from_secs(seconds().unwrap_or(1).min(30)))
    }
}

/// A request without a response; the server may have received it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswered(String);

/// A connection that is opened at the first request, and again at the next one after an error.
#[derive(Debug)]
pub(crate) struct Connection {
    address: Address,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub fn to(address: &Address) -> Self {
        Self { address: address.clone(), sender: None }
    }

    /// Opens the connection before the first request.
    pub async fn connect(&mut self) -> Result<(), Unanswered> {
        self.sender = Some(self.open().await?);
        Ok(())
    }

    /// Sends a GET, and repeats it [`GET_ATTEMPTS`] times at most if the connection breaks.
    pub async fn get(&mut self, path: &str) -> Result<ServerResponse, Unanswered> {
        let uri: Uri = path.parse().map_err(|_| Unanswered(format!("bad path {path}")))?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri;
        for _ in 1..GET_ATTEMPTS {
            if let Ok(response) = self.send(request.clone()).await {
                return Ok(response);
            }
            sleep(GET_PAUSE).await;
        }
        self.send(request).await
    }

    /// Sends a POST once.
    pub async fn post(
        &mut self,
        path: &'static str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<ServerResponse, Unanswered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        *request.headers_mut() = headers;
        self.send(request).await
    }

    /// Sends one request. Cancelling it closes the connection.
    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<ServerResponse, Unanswered> {
        self.address.add_headers(request.headers_mut());
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.open().await?,
        };
        let exchange = async {
            sender.ready().await.map_err(unanswered)?;
            let (head, body) = sender.send_request(request).await.map_err(unanswered)?.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES).collect().await.map_err(unanswered)?;
            Ok(ServerResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        let response = timeout(RESPONSE_WITHIN, exchange).await.map_err(unanswered)??;
        self.sender = Some(sender);
        Ok(response)
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, Unanswered> {
        let connect = TcpStream::connect(&self.address.authority);
        let stream = timeout(CONNECT_WITHIN, connect).await.map_err(unanswered)?;
        let stream = stream.map_err(unanswered)?;
        stream.set_nodelay(true).map_err(unanswered)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(unanswered)?;
        // Ends when the sender is dropped. The sender reports its errors.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn unanswered(error: impl fmt::Display) -> Unanswered {
    Unanswered(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn address_is_a_plain_http_host() {
        let text = |url| Address::parse(url).map(|a| a.to_string());
        assert_eq!(text("http://shop:5000/").as_deref(), Ok("http://shop:5000"));
        assert_eq!(text("http://[::1]").as_deref(), Ok("http://[::1]:80"));
        for bad in ["", "shop:5000", "https://shop", "http://shop/flux", "http://shop?x"] {
            assert!(text(bad).unwrap_err().contains("http://HOST:PORT"), "{bad}");
        }
    }

    #[test]
    fn password_in_an_address_is_refused_and_not_quoted() {
        let refused = Address::parse("http://ann:open-sesame@shop:5000").unwrap_err();
        assert!(refused.contains("password") && !refused.contains("open-sesame"), "{refused}");
    }
}
