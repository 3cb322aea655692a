//! Accepts connections within bounds.

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

/// Maximum connections being refused; further ones are closed without a response.
const REFUSALS_MAX: usize = 64;
/// Length of the kernel's accept queue: the maximum of Linux (`net.core.somaxconn`, listen(2)) in
/// place of tokio's 1,024, so that a burst of connections loses no packets.
const LISTEN_MAX: u32 = 4_096;
/// Pause after a failed accept, whose usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `HOST:PORT`; port 0 selects a free port.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut last_error = None;
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(LISTEN_MAX)) {
            Ok(listener) => return Ok(listener),
            Err(e) => last_error = Some(e),
        }
    }
    Err(last_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// Serves until stopped. Then requests in progress may finish within
/// [`Limits::drain`](super::Limits::drain). When it returns, all its tasks have ended and none holds
/// `api`.
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
                Ok((stream, _)) => connections.accept(stream, &stop),
                Err(e) => {
                    tracing::warn!("accept failed: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // New connections are answered that the server is stopping, until the last request ends.
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
        let count = connections.served.len();
        tracing::warn!(count, "drain time is over; closing the open connections");
    }
    drop(listener);
    connections.served.shutdown().await;
    let _ended = sampling.await;
    connections.refused.shutdown().await;
    state.streams.close();
    state.streams.wait().await;
}

/// The connections of a server. Dropping it ends them.
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

    /// Serves a new connection, or refuses it if the server is full.
    fn accept(&mut self, stream: TcpStream, stop: &CancellationToken) {
        let max = self.state.connections_max();
        self.open.make_room(max);
        if self.state.connections() >= max {
            return self.refuse(stream, Refusal::Full);
        }
        let counted = self.state.open.clone();
        let activity = Activity::new();
        let stop = stop.child_token();
        let state = self.state.clone();
        let running = connection::run(stream, None, state, activity.clone(), stop.clone());
        let task = self.served.spawn(async move {
            running.await;
            drop(counted);
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

    /// Waits until a connection has ended; `None` if there is none. Cancel-safe.
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
