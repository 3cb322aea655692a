//! The life of one connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Refusal};
use super::problem::Problem;
use super::routes;
use super::state::AppState;
use super::stream::{Activity, BoundedStream, SocketReader, Timeouts};

/// The most bytes of a request's head, and of what is buffered per connection.
const HEAD_MAX: usize = 16 * 1024;
/// How long, and for how many bytes, a connection is still read after its last response. Closing a
/// socket with unread bytes resets the connection, and the client may lose the response.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 8 * 1024 * 1024;
/// Maximum duration of a refused connection.
const REFUSAL_WITHIN: Duration = Duration::from_secs(3);

/// Serves a connection, or refuses its requests, until it ends or `stop` is cancelled.
pub(super) async fn run(
    stream: TcpStream,
    refusal: Option<Refusal>,
    state: Arc<AppState>,
    activity: Arc<Activity>,
    stop: CancellationToken,
) {
    // Responses are small; Nagle's algorithm would delay them.
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
    let limits = &state.api.limits;
    let timeouts = match refusal {
        None => Timeouts {
            idle: limits.idle_timeout,
            head: limits.read_timeout,
            write: limits.read_timeout,
        },
        Some(_) => Timeouts { idle: LINGER, head: LINGER, write: LINGER },
    };
    let stream = BoundedStream::new(reader, writer, activity, timeouts);
    let serving = serve(stream, Arc::new(client), &state, stop);
    match refusal {
        None => serving.await,
        Some(_) => drop(timeout(REFUSAL_WITHIN, serving).await),
    }
}

async fn serve(
    stream: BoundedStream,
    client: Arc<Client>,
    state: &Arc<AppState>,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // `BoundedStream` has the timeouts.
    http.header_read_timeout(None).half_close(true).max_buf_size(HEAD_MAX);
    let service = service_fn(|request| {
        let client = client.clone();
        let state = state.clone();
        async move {
            let end = client.activity.answering();
            let mut response = routes::respond(&state, request, &client).await;
            response.body_mut().end_with(end);
            Ok::<_, Infallible>(response)
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
    let problem = if let Some(status) = parts.io.suppressed_status() {
        Some(not_http(status))
    } else if parts.io.is_late() {
        let slow = || {
            let what = "the request head did not arrive in time";
            Problem::new(StatusCode::REQUEST_TIMEOUT, what)
        };
        let begun = !parts.read_buf.is_empty();
        client.refusal.map(Refusal::problem).or_else(|| begun.then(slow))
    } else {
        None
    };
    let (reader, writer) = parts.io.into_inner();
    if let Some(problem) = problem {
        let response = routes::respond_unread(state, problem, &parts.read_buf);
        send_last(reader, writer, response).await;
    } else if client.unread.load(Ordering::Relaxed) {
        send_last(reader, writer, Bytes::new()).await;
    }
}

/// The problem that replaces hyper's own response, which is a bare status.
fn not_http(status: StatusCode) -> Problem {
    let what = match status {
        StatusCode::URI_TOO_LONG => "the request URL is too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request head is too large: at most 16 KiB and 100 headers"
        }
        _ => "the request is not valid HTTP/1.1",
    };
    Problem::new(status, what)
}

/// Sends the last response, then discards what the client sends for up to [`LINGER`], so that the
/// client can read the response.
async fn send_last(reader: SocketReader, mut writer: OwnedWriteHalf, response: Bytes) {
    let send = async {
        writer.write_all(&response).await?;
        let _ = writer.shutdown().await;
        let mut rest = reader.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, send).await;
}
