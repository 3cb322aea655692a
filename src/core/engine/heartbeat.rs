//! Writes this process's pulse once a second while it works.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Ports;
use crate::core::model::Reason;
use crate::core::ports::heartbeats::{Counts, EVERY, Kind, LastDecision, Pulse};

/// How long a stop waits for its pulse to be removed.
const REMOVAL: Duration = Duration::from_millis(500);

impl Pulse {
    /// The first pulse of this process.
    fn first(ports: &Ports, kind: Kind, concurrency: usize) -> Pulse {
        Pulse {
            id: format!("{:016x}", ports.chance.draw() as u64),
            kind,
            host: hostname(),
            pid: std::process::id(),
            started_at: ports.clock.now(),
            at: None,
            concurrency,
            counts: Counts::default(),
            decision: Vec::new(),
            ack: Vec::new(),
            in_hand: 0,
            last: Vec::new(),
        }
    }

    fn renew(&mut self, ports: &Ports) {
        let meters = &ports.meters;
        self.at = Some(ports.clock.now());
        let rejected = meters.outcomes.rejected().filter(|(_, count)| *count > 0);
        self.counts = Counts {
            accepted: meters.accepted.get(),
            sold: meters.outcomes.sold.get(),
            expired: meters.outcomes.expired.get(),
            dropped: meters.outcomes.dropped.get(),
            rejected: rejected.map(|(r, count)| (Reason::as_str(r).to_owned(), count)).collect(),
        };
        self.decision = meters.decision.counts();
        self.ack = meters.ack.counts();
        self.in_hand = meters.in_hand.get();
        self.last = meters.last().into_iter().map(LastDecision::from).collect();
    }
}

/// Does `work`, and says once a second that this process lives until that is done.
pub async fn while_beating<T>(
    ports: &Ports,
    kind: Kind,
    concurrency: usize,
    work: impl Future<Output = T>,
) -> T {
    let mut pulse = Pulse::first(ports, kind, concurrency);
    let id = pulse.id.clone();
    let beating = async {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            pulse.renew(ports);
            if let Err(e) = ports.pulses.beat(&pulse).await {
                tracing::debug!("{e}");
            }
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = beating => match never {},
    };
    let removed = timeout(REMOVAL, ports.pulses.remove(&id)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::debug!("this process's pulse is left to be removed by others");
    }
    done
}

/// The machine's name, or nothing when it has none that can be read.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
