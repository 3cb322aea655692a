//! A circuit breaker for the webhook endpoint. After repeated failures one event at a time probes the
//! endpoint, at growing intervals; the other events wait and use up no attempts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Consecutive failures after which the circuit opens.
const OPEN_AFTER: u32 = 10;
/// Pause before the first probe; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// The state of one endpoint, shared by all its senders.
#[derive(Debug, Default)]
pub struct CircuitBreaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Consecutive failures while the circuit was closed.
    failures: u32,
    /// Probes since the circuit opened.
    probes: u32,
    /// Time before which nothing is sent; `None` while the circuit is closed.
    open_until: Option<Instant>,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Any number of events.
    Closed,
    /// One event, as a probe.
    HalfOpen,
    /// Nothing before this time.
    Open { until: Instant },
}

impl CircuitBreaker {
    /// The current state. After it returns [`Circuit::HalfOpen`] to one caller, it returns
    /// [`Circuit::Open`] to all others until the next probe is due.
    pub fn state(&self) -> Circuit {
        let mut state = self.lock();
        let now = Instant::now();
        match state.open_until {
            None => Circuit::Closed,
            Some(until) if now < until => Circuit::Open { until },
            Some(_) => {
                state.probes += 1;
                state.open_until = Some(now + pause(state.probes));
                Circuit::HalfOpen
            }
        }
    }

    /// True until an event succeeds, even while a probe is allowed.
    pub fn is_open(&self) -> bool {
        self.lock().open_until.is_some()
    }

    /// Records a success, which closes the circuit. True if it was open before.
    pub fn succeeded(&self) -> bool {
        std::mem::take(&mut *self.lock()).open_until.is_some()
    }

    /// Records a failure, with the endpoint's `Retry-After` if it sent one. True if this opened the
    /// circuit.
    ///
    /// Requests that were in flight when the circuit opened fail after it. They do not lengthen the
    /// pause, because they say nothing new about the endpoint.
    pub fn failed(&self, retry_after: Option<Duration>) -> bool {
        let mut state = self.lock();
        let was_open = state.open_until.is_some();
        let requested = retry_after.map(|time| time.min(RETRY_AFTER_MAX));
        let opens = !was_open && state.failures + 1 >= OPEN_AFTER;
        if let Some(time) = requested.max(opens.then(|| pause(0))) {
            state.open_until = state.open_until.max(Some(Instant::now() + time));
        }
        state.failures = if was_open { 0 } else { state.failures + 1 };
        !was_open && state.open_until.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(probes: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << probes.min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failing_endpoint_is_probed_at_growing_intervals() {
        let breaker = CircuitBreaker::default();
        for _ in 1..OPEN_AFTER {
            assert!(!breaker.failed(None));
            assert_eq!(breaker.state(), Circuit::Closed);
        }
        assert!(breaker.failed(None));
        for _ in 0..OPEN_AFTER {
            assert!(!breaker.failed(None));
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Circuit::Open { until } = breaker.state() else { panic!() };
            pauses.push((until - Instant::now()).as_secs());
            tokio::time::sleep_until(until).await;
            assert_eq!(breaker.state(), Circuit::HalfOpen);
            assert!(matches!(breaker.state(), Circuit::Open { .. }));
            assert!(!breaker.failed(None));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(breaker.succeeded() && !breaker.succeeded());
        assert_eq!(breaker.state(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_opens_the_circuit() {
        let breaker = CircuitBreaker::default();
        assert!(breaker.failed(Some(Duration::from_secs(30))));
        let Circuit::Open { until } = breaker.state() else { panic!() };
        assert_eq!(until - Instant::now(), Duration::from_secs(30));
        let other = CircuitBreaker::default();
        other.failed(Some(Duration::from_secs(1_000_000)));
        let Circuit::Open { until } = other.state() else { panic!() };
        assert_eq!(until - Instant::now(), RETRY_AFTER_MAX);
    }
}
