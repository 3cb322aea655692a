//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::server::{Server, stopping};
use super::stream;
use super::stream::{Activity, BoundedStream, Patience, Reader};

/// The most bytes of a request's head, and of what is buffered per connection.
const HEAD_MAX: usize = 16 * 1024;
/// How long, and for how many bytes, a closed connection is still read from: closing with unread
/// bytes resets it, and the client may lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 8 * 1024 * 1024;
/// How long a refused connection may take for its request, its answer, and its end.
const REFUSAL_WITHIN: Duration = Duration::from_secs(3);

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    Stopping,
}

impl Refusal {
    pub fn problem(self) -> Problem {
        match self {
            Refusal::Stopping => stopping(),
            Refusal::Full => {
                let what = "too many connections; try again in a moment";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
            }
        }
    }
}

/// The client of a request, and its connection.
#[derive(Debug)]
pub(super) struct Client {
    /// The other end of the connection: the client, or a proxy before it.
    pub peer: IpAddr,
    /// Why requests on this connection are refused, if they are.
    pub refusal: Option<Refusal>,
    reader: Arc<OwnedReadHalf>,
    activity: Arc<Activity>,
    stop: CancellationToken,
    /// True if part of a request was not read.
    unread: AtomicBool,
}

impl Client {
    /// Resolves when the client has closed its side of the connection, or the connection broke.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        stream::gone(self.reader.clone())
    }

    /// Whether the connection ends after the present answer.
    pub fn is_ending(&self) -> bool {
        self.refusal.is_some() || self.stop.is_cancelled()
    }

    /// The rest of the present request is not read: the connection has to end.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }
}

/// Serves a connection, or refuses its requests, until it ends or is told to stop.
pub(super) async fn run(
    stream: TcpStream,
    refusal: Option<Refusal>,
    server: Arc<Server>,
    activity: Arc<Activity>,
    stop: CancellationToken,
) {
    // Answers are small; one that waited for more to send with it would be late.
    let _ = stream.set_nodelay(true);
    let Ok(peer) = stream.peer_addr() else { return };
    let (reader, writer) = stream.into_split();
    let reader = Arc::new(reader);
    let client = Client {
        peer: peer.ip(),
        refusal,
        reader: reader.clone(),
        activity: activity.clone(),
        stop: stop.clone(),
        unread: AtomicBool::new(false),
    };
    let limits = &server.api.limits;
    let patience = match refusal {
        None => Patience {
            idle: limits.idle_timeout,
            head: limits.read_timeout,
            write: limits.read_timeout,
        },
        Some(_) => Patience { idle: LINGER, head: LINGER, write: LINGER },
    };
    let stream = BoundedStream::new(reader, writer, activity, patience);
    let serving = serve(stream, Arc::new(client), &server, stop);
    match refusal {
        None => serving.await,
        Some(_) => drop(timeout(REFUSAL_WITHIN, serving).await),
    }
}

async fn serve(
    stream: BoundedStream,
    client: Arc<Client>,
    server: &Arc<Server>,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // The stream keeps to the times.
    http.header_read_timeout(None).half_close(true).max_buf_size(HEAD_MAX);
    let service = service_fn(|request| {
        let client = client.clone();
        let server = server.clone();
        async move {
            let end = client.activity.answering();
            let mut answer = server.answer(request, &client).await;
            answer.body_mut().end_with(end);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut running = http.serve_connection(stream, service);
    let _ended = tokio::select! {
        ended = &mut running => ended,
        () = stop.cancelled() => {
            std::pin::Pin::new(&mut running).graceful_shutdown();
            (&mut running).await
        }
    };
    let parts = running.into_parts();
    let problem = if let Some(status) = parts.io.bare_answer() {
        Some(not_http(status))
    } else if parts.io.is_late() {
        let slow = || {
            let what = "the request's head did not come in time";
            Problem::new(StatusCode::REQUEST_TIMEOUT, what)
        };
        let begun = !parts.read_buf.is_empty();
        client.refusal.map(Refusal::problem).or_else(|| begun.then(slow))
    } else {
        None
    };
    let (reader, writer) = parts.io.into_inner();
    if let Some(problem) = problem {
        let words = server.answer_unread(problem, &parts.read_buf);
        last_words(reader, writer, words).await;
    } else if client.unread.load(Ordering::Relaxed) {
        last_words(reader, writer, Bytes::new()).await;
    }
}

/// In place of hyper's own answer, which is a bare status.
fn not_http(status: StatusCode) -> Problem {
    let what = match status {
        StatusCode::URI_TOO_LONG => "the request's URL is too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request's head is too large: at most 16 KiB, and 100 headers"
        }
        _ => "the request is not valid HTTP/1.1",
    };
    Problem::new(status, what)
}

/// Sends a last answer, then reads on for a moment, so that the client gets to read it.
async fn last_words(reader: Reader, mut writer: OwnedWriteHalf, words: Bytes) {
    let speak = async {
        writer.write_all(&words).await?;
        let _ = writer.shutdown().await;
        let mut rest = reader.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, speak).await;
}
