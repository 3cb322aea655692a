//! The open connections, so that those which are idle make room for those that come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stream::Activity;

/// Idle connections make room while fewer than one place of so many is free.
const SPARE_PART: usize = 10;
/// A connection that has been idle for less is not closed to make room.
pub(super) const IDLE_LEAST: Duration = Duration::from_secs(5);
/// All connections are looked at once in this time, or once a hundredth of the places was taken.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LOOK_PART: usize = 100;

/// So many places are to be free of `connections`, before idle connections are left alone.
pub(super) fn spare(connections: usize) -> usize {
    connections.div_ceil(SPARE_PART)
}

#[derive(Debug)]
pub(super) struct OpenConnections {
    open: HashMap<Id, (Arc<Activity>, CancellationToken)>,
    looked: Instant,
    added: usize,
}

impl OpenConnections {
    pub fn new() -> Self {
        Self { open: HashMap::new(), looked: Instant::now(), added: usize::MAX }
    }

    /// `stop` ends the connection once its request is answered.
    pub fn add(&mut self, id: Id, activity: Arc<Activity>, stop: CancellationToken) {
        self.open.insert(id, (activity, stop));
        self.added = self.added.saturating_add(1);
    }

    pub fn remove(&mut self, id: Id) {
        self.open.remove(&id);
    }

    /// Ends those that have been idle longest, until a tenth of the places is free. Safe for a
    /// connection on which a request arrives in this moment: that request is answered first.
    pub fn make_room(&mut self, places: usize) {
        let free = places.saturating_sub(self.open.len());
        let wanted = spare(places).saturating_sub(free);
        let now = Instant::now();
        let soon = now.duration_since(self.looked) < LOOK_PAUSE;
        if wanted == 0 || (soon && self.added < places.div_ceil(LOOK_PART)) {
            return;
        }
        self.looked = now;
        self.added = 0;
        let old = |(activity, stop): &(Arc<Activity>, CancellationToken)| {
            let since = activity.idle_since()?;
            (now.duration_since(since) >= IDLE_LEAST).then(|| (since, stop.clone()))
        };
        let mut idle: Vec<_> = self.open.values().filter_map(old).collect();
        if idle.len() > wanted {
            idle.select_nth_unstable_by_key(wanted, |(since, _)| *since);
            idle.truncate(wanted);
        }
        idle.iter().for_each(|(_, stop)| stop.cancel());
    }
}
