//! The client of a request, and its connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::tcp::OwnedReadHalf;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::stream;
use super::stream::Activity;

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    Stopping,
}

impl Refusal {
    pub fn problem(self) -> Problem {
        match self {
            Refusal::Stopping => Problem::stopping(),
            Refusal::Full => Problem::unavailable("too many connections; try again in a moment"),
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
    pub reader: Arc<OwnedReadHalf>,
    pub activity: Arc<Activity>,
    pub stop: CancellationToken,
    /// True if part of a request was not read.
    pub unread: AtomicBool,
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
