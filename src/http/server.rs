//! Accepts connections, within bounds, and runs them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Refusal;
use super::connection;
use super::idle::OpenConnections;
use super::state::{Api, AppState};
use super::stream::Activity;

/// Connections that are being refused; the next is closed without an answer.
const REFUSALS_MAX: usize = 64;
/// Connections that wait in the kernel to be accepted: what Linux allows (`net.core.somaxconn`,
/// listen(2)), not the 1,024 of a plain bind, so that a burst loses no packets.
const LISTEN_MAX: u32 = 4_096;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// Serves until stopped, then lets the requests that are here finish, for at most
/// [`Limits::drain`](super::Limits::drain), and ends. When it returns, nothing of it holds `api` any
/// more.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let state = Arc::new(AppState::new(api, listener.local_addr().ok(), stop.clone()));
    let sampling = {
        let state = state.clone();
        tokio::spawn(async move { state.dashboard.run(&state.stop).await })
    };
    let mut connections = Connections::new(state.clone());
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
    if timeout(state.api.limits.drain, drained).await.is_err() {
        tracing::warn!("cut {} connections that did not end in time", connections.served.len());
    }
    drop(listener);
    connections.served.shutdown().await;
    let _ended = sampling.await;
    connections.refused.shutdown().await;
    state.streams.close();
    state.streams.wait().await;
}

/// The connections of a server, which end with this.
struct Connections {
    state: Arc<AppState>,
    served: JoinSet<()>,
    open: OpenConnections,
    refused: JoinSet<()>,
}

impl Connections {
    fn new(state: Arc<AppState>) -> Self {
        Self {
            state,
            served: JoinSet::new(),
            open: OpenConnections::new(),
            refused: JoinSet::new(),
        }
    }

    /// Serves a new connection, or refuses it if all places are taken.
    fn take(&mut self, stream: TcpStream, stop: &CancellationToken) {
        let places = self.state.connections_max();
        self.open.make_room(places);
        if self.state.connections() >= places {
            return self.refuse(stream, Refusal::Full);
        }
        let place = self.state.open.clone();
        let activity = Activity::new();
        let stop = stop.child_token();
        let state = self.state.clone();
        let running = connection::run(stream, None, state, activity.clone(), stop.clone());
        let task = self.served.spawn(async move {
            running.await;
            drop(place);
        });
        self.open.add(task.id(), activity, stop);
    }

    fn refuse(&mut self, stream: TcpStream, refusal: Refusal) {
        if self.refused.len() < REFUSALS_MAX {
            let state = self.state.clone();
            let stop = CancellationToken::new();
            let running = connection::run(stream, Some(refusal), state, Activity::new(), stop);
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
