//! Accepts connections, within bounds, and runs them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Api;
use super::connection;
use super::connection::Refusal;
use super::dashboard::Board;
use super::idle::{IDLE_LEAST, OpenConnections, spare};
use super::item_cache::KnownItems;
use super::items::{ItemLooks, item_looks};
use super::lists::List;
use super::orders::{OrderLooks, order_looks};
use super::problem::Problem;
use super::routes::Route;
use super::status::{Checks, StoreCounts, checks, store_counts};
use super::stream::Activity;
use super::wait_estimate::Paces;
use super::waits::Waits;

/// Connections that are being refused; the next is closed without an answer.
const REFUSALS_MAX: usize = 64;
/// Connections that wait in the kernel to be accepted: what Linux allows (`net.core.somaxconn`,
/// listen(2)), not the 1,024 of a plain bind, so that a burst loses no packets.
const LISTEN_MAX: u32 = 4_096;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients are told to keep an idle connection for this much less than the server does, so that no
/// request is on its way to a connection that is being closed.
const KEEP_LESS: Duration = Duration::from_secs(1);

/// What the connections of one server share.
#[derive(Debug)]
pub(super) struct Server {
    pub api: Arc<Api>,
    pub routes: matchit::Router<Route>,
    pub known: KnownItems,
    pub paces: Paces,
    pub inventory: List,
    pub item_list: List,
    pub item_looks: ItemLooks,
    pub order_looks: OrderLooks,
    pub checks: Checks,
    pub store_counts: StoreCounts,
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
    /// Long polls and event streams.
    pub waits: Arc<Waits>,
    /// For `Keep-Alive`: when there is room, and when idle connections make room.
    keep_alive: [Option<HeaderValue>; 2],
    /// What tells the clients of event streams; ends with the connections.
    pub streams: TaskTracker,
}

impl Server {
    pub fn connections_max(&self) -> usize {
        self.api.access.connections_max().unwrap_or(self.api.limits.connections)
    }

    /// How long an idle connection is kept, as its client is told; `None` if that is too short to
    /// count on.
    pub fn keep_alive(&self) -> Option<HeaderValue> {
        let places = self.connections_max();
        let full = places.saturating_sub(self.connections()) < spare(places);
        self.keep_alive[usize::from(full)].clone()
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

/// The value of `Keep-Alive` for connections that are kept idle for so long.
fn keep_alive(idle: Duration) -> Option<HeaderValue> {
    let seconds = idle.saturating_sub(KEEP_LESS).as_secs();
    let value = HeaderValue::try_from(format!("timeout={seconds}"));
    value.ok().filter(|_| seconds > 0)
}

pub(super) async fn run(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let started = Instant::now();
    let idle = api.limits.idle_timeout;
    let server = Arc::new(Server {
        known: KnownItems::new(api.ports.ledger.clone()),
        paces: Paces::default(),
        inventory: List::default(),
        item_list: List::default(),
        item_looks: item_looks(),
        order_looks: order_looks(),
        checks: checks(),
        store_counts: store_counts(),
        routes: Route::table(),
        stop: stop.clone(),
        started,
        requests: AtomicU64::new(0),
        board: Board::new(api.ports.clone(), api.access.clone(), api.backend, started),
        process: api.ports.chance.draw() as u32,
        address: listener.local_addr().ok(),
        open: Arc::default(),
        pages: Arc::new(Semaphore::new(api.limits.pages)),
        letter_look: Arc::new(Semaphore::new(1)),
        waits: Arc::default(),
        keep_alive: [keep_alive(idle), keep_alive(idle.min(IDLE_LEAST))],
        streams: TaskTracker::new(),
        api,
    });
    let boarding = {
        let (server, stop) = (server.clone(), stop.clone());
        tokio::spawn(async move { server.board.run(stop).await })
    };
    let mut connections = Connections::new(server.clone());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(()) = connections.ended() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.take(stream, &stop),
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Who comes now is told so, until the last request that is here is done.
    let drained = async {
        while !connections.served.is_empty() {
            tokio::select! {
                biased;
                Some(()) = connections.ended() => {}
                Ok((stream, _)) = listener.accept() => {
                    connections.refuse(stream, Refusal::Stopping);
                }
            }
        }
    };
    if timeout(server.api.limits.drain, drained).await.is_err() {
        tracing::warn!("cut {} connections that did not end in time", connections.served.len());
    }
    drop(listener);
    connections.served.shutdown().await;
    let _ended = boarding.await;
    connections.refused.shutdown().await;
    server.streams.close();
    server.streams.wait().await;
}

/// What a process that was told to stop says to who comes.
pub(super) fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping: ask another process")
}

/// The connections of a server, which end with this.
struct Connections {
    server: Arc<Server>,
    served: JoinSet<()>,
    open: OpenConnections,
    refused: JoinSet<()>,
}

impl Connections {
    fn new(server: Arc<Server>) -> Self {
        Self {
            server,
            served: JoinSet::new(),
            open: OpenConnections::new(),
            refused: JoinSet::new(),
        }
    }

    /// Serves a new connection, or refuses it if all places are taken.
    fn take(&mut self, stream: TcpStream, stop: &CancellationToken) {
        let places = self.server.connections_max();
        self.open.make_room(places);
        if self.server.connections() >= places {
            return self.refuse(stream, Refusal::Full);
        }
        let place = self.server.open.clone();
        let activity = Activity::new();
        let stop = stop.child_token();
        let server = self.server.clone();
        let running = connection::run(stream, None, server, activity.clone(), stop.clone());
        let task = self.served.spawn(async move {
            running.await;
            drop(place);
        });
        self.open.add(task.id(), activity, stop);
    }

    fn refuse(&mut self, stream: TcpStream, refusal: Refusal) {
        if self.refused.len() < REFUSALS_MAX {
            let server = self.server.clone();
            let stop = CancellationToken::new();
            let running = connection::run(stream, Some(refusal), server, Activity::new(), stop);
            self.refused.spawn(running);
        }
    }

    /// Resolves when a connection has ended; `None` while there is none. Safe to cancel.
    async fn ended(&mut self) -> Option<()> {
        tokio::select! {
            Some(ended) = self.served.join_next_with_id() => {
                self.open.remove(ended.map_or_else(|e| e.id(), |(id, ())| id));
                Some(())
            }
            Some(_) = self.refused.join_next() => Some(()),
            else => None,
        }
    }
}
