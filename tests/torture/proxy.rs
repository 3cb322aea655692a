//! A TCP proxy in front of a service. It can make the service slow, silent or unavailable, and can lose
//! responses after the request was executed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The behaviour of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Each piece of data is delayed by this time.
    Slow(Duration),
    /// No data passes; connections stay open.
    Stuck,
    /// Connections are broken, and new ones are closed.
    Cut,
    /// One in this many responses is lost, with its connection.
    Lossy(u64),
}

/// Stops when it is dropped.
pub struct Proxy {
    pub port: u16,
    upstream: Arc<Mutex<String>>,
    way: watch::Sender<Way>,
    running: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, a HOST:PORT.
    pub async fn before(upstream: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (way, seen) = watch::channel(Way::Open);
        let answers = Arc::new(AtomicU64::new(0));
        let upstream = Arc::new(Mutex::new(upstream));
        let target = upstream.clone();
        let running = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() != Way::Cut {
                    let upstream = target.lock().unwrap().clone();
                    tokio::spawn(carry(client, upstream, seen.clone(), answers.clone()));
                }
            }
        });
        Proxy { port, upstream, way, running }
    }

    /// Sends new connections to `upstream`. Existing connections stay.
    pub fn leads_to(&self, upstream: String) {
        *self.upstream.lock().unwrap() = upstream;
    }

    /// Changes the behaviour for existing and new connections.
    pub fn is(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Forwards one connection until a side closes it or the proxy is cut.
async fn carry(
    client: TcpStream,
    upstream: String,
    way: watch::Receiver<Way>,
    answers: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _late = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let mut cut = way.clone();
    tokio::select! {
        _ = pass(from_client, to_server, way.clone(), None) => {}
        _ = pass(from_server, to_client, way, Some(answers)) => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
    }
}

/// Returns `None` at the end of the connection. `answers` counts the responses that can be lost.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    answers: Option<Arc<AtomicU64>>,
) -> Option<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut piece).await.ok().filter(|length| *length > 0)?;
        let now = *way.wait_for(|way| *way != Way::Stuck).await.ok()?;
        if let Way::Slow(pause) = now {
            tokio::time::sleep(pause).await;
        }
        if let (Way::Lossy(of), Some(answers)) = (now, &answers)
            && answers.fetch_add(1, Ordering::Relaxed) % of == of - 1
        {
            return None;
        }
        to.write_all(&piece[..length]).await.ok()?;
    }
}
