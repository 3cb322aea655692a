//! Writes this process's heartbeat once a second while it runs.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Ports;
use crate::core::model::Reason;
use crate::core::ports::heartbeats::{Counts, EVERY, Heartbeat, Kind, LastDecision};

/// How long a stop waits for the removal of the heartbeat.
const REMOVAL_TIMEOUT: Duration = Duration::from_millis(500);

impl Heartbeat {
    /// The first heartbeat of this process.
    fn first(ports: &Ports, kind: Kind, concurrency: usize) -> Heartbeat {
        Heartbeat {
            id: format!("{:016x}", ports.ids.next_id() as u64),
            kind,
            host: hostname(),
            pid: std::process::id(),
            started_at: ports.clock.now(),
            at: None,
            concurrency,
            counts: Counts::default(),
            decision: Vec::new(),
            ack: Vec::new(),
            in_flight: 0,
            last: Vec::new(),
        }
    }

    fn renew(&mut self, ports: &Ports) {
        let metrics = &ports.metrics;
        self.at = Some(ports.clock.now());
        let rejected = metrics.decisions.rejected().filter(|(_, count)| *count > 0);
        self.counts = Counts {
            accepted: metrics.accepted.get(),
            sold: metrics.decisions.sold.get(),
            expired: metrics.decisions.expired.get(),
            dropped: metrics.decisions.dropped.get(),
            rejected: rejected.map(|(r, count)| (Reason::as_str(r).to_owned(), count)).collect(),
        };
        self.decision = metrics.decision.counts();
        self.ack = metrics.ack.counts();
        self.in_flight = metrics.in_flight.get();
        self.last = metrics.last().into_iter().map(LastDecision::from).collect();
    }
}

/// Runs `work` and writes heartbeats until it ends; then removes the heartbeat.
pub async fn with_heartbeats<T>(
    ports: &Ports,
    kind: Kind,
    concurrency: usize,
    work: impl Future<Output = T>,
) -> T {
    let mut heartbeat = Heartbeat::first(ports, kind, concurrency);
    let id = heartbeat.id.clone();
    let writing = async {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            heartbeat.renew(ports);
            if let Err(e) = ports.heartbeats.write(&heartbeat).await {
                tracing::debug!("heartbeat not written: {e}");
            }
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = writing => match never {},
    };
    let removed = timeout(REMOVAL_TIMEOUT, ports.heartbeats.remove(&id)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::debug!("heartbeat not removed; it expires");
    }
    done
}

/// The machine's name; empty if it cannot be read.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
