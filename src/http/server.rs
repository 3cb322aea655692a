//! Accepts connections, within bounds, and runs them.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Api;
use super::board::Board;
use super::inventory::Inventory;
use super::known::KnownItems;
use super::pace::Paces;
use super::problem::Problem;
use super::routes::Route;
use super::stream::BoundedStream;

/// The most bytes of a request's head, and of what is buffered per connection.
const HEAD_MAX: usize = 16 * 1024;
/// Connections over the bound that are being told so; the next is closed without a word.
const REFUSALS_MAX: usize = 64;
/// How long, and for how many bytes, a closed connection is still read from: closing with unread
/// bytes resets it, and the client may lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 8 * 1024 * 1024;
/// Connections that wait in the kernel to be accepted: what Linux allows (`net.core.somaxconn`,
/// listen(2)), not the 1,024 of a plain bind, so that a burst loses no packets.
const LISTEN_MAX: u32 = 4_096;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections of one server share.
#[derive(Debug)]
pub(super) struct Server {
    pub api: Arc<Api>,
    pub routes: matchit::Router<Route>,
    pub known: KnownItems,
    pub paces: Paces,
    pub inventory: Inventory,
    pub stop: CancellationToken,
    pub started: Instant,
    pub requests: AtomicU64,
    pub board: Board,
    /// Tells this process's requests from those of another.
    pub process: u32,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// Open connections, by who holds it beside the server.
    open: Arc<()>,
    pub pages: Arc<Semaphore>,
    /// Has one place: whose is the look at the dead letters.
    pub letter_look: Arc<Semaphore>,
    /// For [`Server::event_stream`].
    pub stream_places: Arc<Semaphore>,
    /// What tells the clients of event streams; ends with the connections.
    pub streams: TaskTracker,
}

impl Server {
    fn connections_max(&self) -> usize {
        self.api.access.connections_max().unwrap_or(self.api.limits.connections)
    }

    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }
}

/// Listens on `HOST:PORT`; with port 0, on a free one.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut refused = None;
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(LISTEN_MAX)) {
            Ok(listener) => return Ok(listener),
            Err(e) => refused = Some(e),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

pub(super) async fn run(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let started = Instant::now();
    let server = Arc::new(Server {
        known: KnownItems::new(api.ports.ledger.clone()),
        paces: Paces::default(),
        inventory: Inventory::default(),
        routes: Route::table(),
        stop: stop.clone(),
        started,
        requests: AtomicU64::new(0),
        board: Board::new(api.ports.clone(), api.access.clone(), api.backend, started),
        process: Uuid::new_v4().as_u128() as u32,
        address: listener.local_addr().ok(),
        open: Arc::default(),
        pages: Arc::new(Semaphore::new(api.limits.pages)),
        letter_look: Arc::new(Semaphore::new(1)),
        stream_places: Arc::new(Semaphore::new(api.limits.connections.div_ceil(2))),
        streams: TaskTracker::new(),
        api,
    });
    let boarding = {
        let (server, stop) = (server.clone(), stop.clone());
        tokio::spawn(async move { server.board.run(stop).await })
    };
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if server.connections() < server.connections_max() {
                        let (place, served) = (server.open.clone(), server.clone());
                        let running = connection(stream, peer.ip(), served, stop.child_token());
                        connections.spawn(async move {
                            running.await;
                            drop(place);
                        });
                    } else if refusals.len() < REFUSALS_MAX {
                        let what = "too many connections; try again in a moment";
                        let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, what);
                        refusals.spawn(last_words(stream, busy.into_bytes()));
                    }
                }
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            Some(_) = refusals.join_next() => {}
        }
    }
    // Who comes now is told so, until the last request that is here is done.
    let drained = async {
        loop {
            tokio::select! {
                biased;
                ended = connections.join_next() => if ended.is_none() { break },
                Ok((stream, _)) = listener.accept() => {
                    if refusals.len() < REFUSALS_MAX {
                        refusals.spawn(last_words(stream, stopping().into_bytes()));
                    }
                }
                Some(_) = refusals.join_next() => {}
            }
        }
    };
    if timeout(server.api.limits.drain, drained).await.is_err() {
        tracing::warn!("cut {} connections that did not end in time", connections.len());
    }
    drop(listener);
    connections.shutdown().await;
    let _ended = boarding.await;
    refusals.shutdown().await;
    server.streams.close();
    server.streams.wait().await;
}

/// What a process that was told to stop says to who comes.
pub(super) fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping: ask another process")
}

async fn connection(stream: TcpStream, peer: IpAddr, server: Arc<Server>, stop: CancellationToken) {
    // Answers are small; one that waited for more to send with it would be late.
    let _ = stream.set_nodelay(true);
    let stream = BoundedStream::new(stream, server.api.limits.read_timeout);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(server.api.limits.read_timeout)
        .half_close(true)
        .max_buf_size(HEAD_MAX);
    let shared = Arc::new((server, AtomicBool::new(false)));
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move {
            let (answer, unread) = shared.0.answer(request, peer).await;
            if unread {
                shared.1.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut running = http.serve_connection(stream, service);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = stop.cancelled() => {
            std::pin::Pin::new(&mut running).graceful_shutdown();
            (&mut running).await
        }
    };
    let parts = running.into_parts();
    let stream = parts.io.into_inner();
    match ended {
        Err(e) if e.is_timeout() && !parts.read_buf.is_empty() => {
            let what = "the request's head did not come in time";
            let slow = Problem::new(StatusCode::REQUEST_TIMEOUT, what);
            last_words(stream, slow.into_bytes()).await;
        }
        Ok(()) if shared.1.load(Ordering::Relaxed) => last_words(stream, Vec::new()).await,
        _ => {}
    }
}

/// Sends a last answer, then reads on for a moment, so that the client gets to read it.
async fn last_words(mut stream: TcpStream, words: Vec<u8>) {
    let speak = async {
        stream.write_all(&words).await?;
        let _ = stream.shutdown().await;
        let mut rest = stream.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, speak).await;
}
