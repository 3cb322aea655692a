//! Closes idle connections to make room for new ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stream::Activity;

/// Idle connections are closed while less than a tenth of the connections is free.
const RESERVE_DIVISOR: usize = 10;
/// Minimum idle time of a connection that is closed to make room.
pub(super) const IDLE_MIN: Duration = Duration::from_secs(5);
/// All connections are scanned at most once in this time, or after new connections of a hundredth
/// of the maximum.
const SCAN_EVERY: Duration = Duration::from_millis(100);
const SCAN_DIVISOR: usize = 100;

/// How many of `connections_max` connections are to be free.
pub(super) fn reserve(connections_max: usize) -> usize {
    connections_max.div_ceil(RESERVE_DIVISOR)
}

#[derive(Debug)]
pub(super) struct OpenConnections {
    open: HashMap<Id, (Arc<Activity>, CancellationToken)>,
    scanned_at: Instant,
    /// Connections added since the last scan.
    added: usize,
}

impl OpenConnections {
    pub fn new() -> Self {
        Self { open: HashMap::new(), scanned_at: Instant::now(), added: usize::MAX }
    }

    /// Adds a connection. Cancelling `stop` closes it once its current request is answered.
    pub fn add(&mut self, id: Id, activity: Arc<Activity>, stop: CancellationToken) {
        self.open.insert(id, (activity, stop));
        self.added = self.added.saturating_add(1);
    }

    pub fn remove(&mut self, id: Id) {
        self.open.remove(&id);
    }

    /// Closes the connections that have been idle longest, until a tenth is free. A request may
    /// arrive on one of them at this moment; it is answered before the connection closes.
    pub fn make_room(&mut self, connections_max: usize) {
        let free = connections_max.saturating_sub(self.open.len());
        let wanted = reserve(connections_max).saturating_sub(free);
        let now = Instant::now();
        let is_early = now.duration_since(self.scanned_at) < SCAN_EVERY;
        if wanted == 0 || (is_early && self.added < connections_max.div_ceil(SCAN_DIVISOR)) {
            return;
        }
        self.scanned_at = now;
        self.added = 0;
        let closable = |(activity, stop): &(Arc<Activity>, CancellationToken)| {
            let since = activity.idle_since()?;
            (now.duration_since(since) >= IDLE_MIN).then(|| (since, stop.clone()))
        };
        let mut idle: Vec<_> = self.open.values().filter_map(closable).collect();
        if idle.len() > wanted {
            idle.select_nth_unstable_by_key(wanted, |(since, _)| *since);
            idle.truncate(wanted);
        }
        idle.iter().for_each(|(_, stop)| stop.cancel());
    }
}
