//! An answer that need never end.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode, Uri};
use tokio::time::timeout;

use super::{Address, CONNECT_WITHIN, Connection, Unanswered, unanswered};

/// An answer that is read as it comes.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub status: StatusCode,
    pub body: Incoming,
    /// The connection lasts as long as this.
    _sender: SendRequest<Full<Bytes>>,
}

/// Asks once, on a connection of its own; the head must come in time, the body need never end.
pub(crate) async fn stream(
    address: &Address,
    path: &'static str,
    headers: HeaderMap,
) -> Result<Streamed, Unanswered> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static(path);
    *request.headers_mut() = headers;
    address.head(request.headers_mut());
    let mut sender = Connection::to(address).open().await?;
    let answer = timeout(CONNECT_WITHIN, sender.send_request(request)).await;
    let (head, body) = answer.map_err(unanswered)?.map_err(unanswered)?.into_parts();
    Ok(Streamed { status: head.status, body, _sender: sender })
}
