//! The client of a connection.

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
    /// Address of the client, or of a proxy in front of it.
    pub peer: IpAddr,
    /// Why requests on this connection are refused; `None` if they are served.
    pub refusal: Option<Refusal>,
    pub reader: Arc<OwnedReadHalf>,
    pub activity: Arc<Activity>,
    pub stop: CancellationToken,
    /// True if part of a request was left unread.
    pub unread: AtomicBool,
}

impl Client {
    /// Resolves when the client has closed its sending side, or the connection broke.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        stream::gone(self.reader.clone())
    }

    /// Whether the connection ends after the current response.
    pub fn is_ending(&self) -> bool {
        self.refusal.is_some() || self.stop.is_cancelled()
    }

    /// Records that the rest of the current request stays unread, so that the connection must end.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }
}
