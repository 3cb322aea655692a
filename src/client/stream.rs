//! Responses without an end, such as event streams.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode, Uri};
use tokio::time::timeout;

use super::{Address, CONNECT_WITHIN, Connection, Unanswered, unanswered};

/// A response whose body is read while it arrives.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub status: StatusCode,
    pub body: Incoming,
    /// Keeps the connection open.
    _sender: SendRequest<Full<Bytes>>,
}

/// Sends one request on a connection of its own. The head of the response must arrive in time; the body
/// has no time limit.
pub(crate) async fn stream(
    address: &Address,
    path: &'static str,
    headers: HeaderMap,
) -> Result<Streamed, Unanswered> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static(path);
    *request.headers_mut() = headers;
    address.add_headers(request.headers_mut());
    let mut sender = Connection::to(address).open().await?;
    let response = timeout(CONNECT_WITHIN, sender.send_request(request)).await;
    let (head, body) = response.map_err(unanswered)?.map_err(unanswered)?.into_parts();
    Ok(Streamed { status: head.status, body, _sender: sender })
}
