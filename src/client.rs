//! One keep-alive HTTP/1.1 connection to a server, as a buyer has it.

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

/// How long an answer may take, the longest wait for a decision (30 s) included.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// How often a read is tried.
const GET_ATTEMPTS: u32 = 4;
const GET_PAUSE: Duration = Duration::from_millis(250);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;

/// Where the server is: what `http://HOST[:PORT]` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    authority: String,
    host: HeaderValue,
    /// Sent with each request.
    authorization: Option<HeaderValue>,
}

impl Address {
    /// Reads `http://HOST[:PORT]`; the error says what to write instead.
    pub fn parse(url: &str) -> Result<Address, String> {
        let wrong = |why| format!("{url}: {why}; give the server as http://HOST:PORT");
        // Not repeated: what stands before the @ may be a password.
        if url.contains('@') {
            let why = "a name or password in the URL is not used here; give the server as";
            return Err(format!("{why} http://HOST:PORT, and keys as settings"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only plain HTTP is spoken here"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("a path is not used"));
        }
        let host = uri.host().ok_or_else(|| wrong("no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let host = HeaderValue::try_from(&authority).map_err(|_| wrong("not a host"))?;
        Ok(Address { authority, host, authorization: None })
    }

    /// The server, asked with this key; the error tells nothing of the key.
    pub fn with_key(self, key: &SecretString) -> Result<Address, InvalidHeaderValue> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))?;
        bearer.set_sensitive(true);
        Ok(Address { authorization: Some(bearer), ..self })
    }

    fn head(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.host.clone());
        headers.extend(self.authorization.clone().map(|key| (AUTHORIZATION, key)));
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Whether the server said to come again, and in how long.
    pub fn come_again(&self) -> Option<Duration> {
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let seconds = || self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok();
        busy.contains(&self.status).then(|| Duration::from_secs(seconds().unwrap_or(1).min(30)))
    }
}

/// The request was not answered; it may have been taken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswered(String);

/// Opened at its first request if not before, and anew at the next one after an error.
#[derive(Debug)]
pub(crate) struct Connection {
    address: Address,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub fn to(address: &Address) -> Self {
        Self { address: address.clone(), sender: None }
    }

    /// Opens it before its first request.
    pub async fn connect(&mut self) -> Result<(), Unanswered> {
        self.sender = Some(self.open().await?);
        Ok(())
    }

    /// Asks again, a few times, when a connection breaks.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Unanswered> {
        let uri: Uri = path.parse().map_err(|_| Unanswered(format!("bad path {path}")))?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri;
        for _ in 1..GET_ATTEMPTS {
            if let Ok(answer) = self.ask(request.clone()).await {
                return Ok(answer);
            }
            sleep(GET_PAUSE).await;
        }
        self.ask(request).await
    }

    pub async fn post(
        &mut self,
        path: &'static str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Unanswered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        *request.headers_mut() = headers;
        self.ask(request).await
    }

    /// Cancelling it closes the connection.
    async fn ask(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, Unanswered> {
        self.address.head(request.headers_mut());
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.open().await?,
        };
        let exchange = async {
            sender.ready().await.map_err(unanswered)?;
            let (head, body) = sender.send_request(request).await.map_err(unanswered)?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(unanswered)?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        let answer = timeout(ANSWER_WITHIN, exchange).await.map_err(unanswered)??;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, Unanswered> {
        let connect = TcpStream::connect(&self.address.authority);
        let stream = timeout(CONNECT_WITHIN, connect).await.map_err(unanswered)?;
        let stream = stream.map_err(unanswered)?;
        stream.set_nodelay(true).map_err(unanswered)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(unanswered)?;
        // Ends when the sender is dropped; its errors are the sender's.
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
    fn an_address_is_a_plain_http_host_and_nothing_else() {
        let text = |url| Address::parse(url).map(|a| a.to_string());
        assert_eq!(text("http://shop:5000/").as_deref(), Ok("http://shop:5000"));
        assert_eq!(text("http://[::1]").as_deref(), Ok("http://[::1]:80"));
        for bad in ["", "shop:5000", "https://shop", "http://shop/flux", "http://shop?x"] {
            assert!(text(bad).unwrap_err().contains("http://HOST:PORT"), "{bad}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        let refused = Address::parse("http://ann:open-sesame@shop:5000").unwrap_err();
        assert!(refused.contains("password") && !refused.contains("open-sesame"), "{refused}");
    }
}
