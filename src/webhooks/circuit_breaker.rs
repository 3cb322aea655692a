//! When to leave the endpoint alone: a endpoint that fails again and again is asked by one event at a
//! time, at growing intervals, and the other events' attempts are not spent on it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which the endpoint counts as away.
const AWAY_AFTER: u32 = 10;
/// How long it is left alone then; doubled each time that it is asked, up to the second value.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest time that the endpoint itself may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug, Default)]
pub struct CircuitBreaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row, before it counted as away.
    failures: u32,
    /// Times that it was asked since.
    asked: u32,
    /// Open is sent before this.
    until: Option<Instant>,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    Closed,
    /// HalfOpen event, to see whether the endpoint is back.
    HalfOpen,
    Open {
        until: Instant,
    },
}

impl CircuitBreaker {
    /// Whoever gets [`Circuit::HalfOpen`] is the only one for a while.
    pub fn ask(&self) -> Circuit {
        let mut state = self.state();
        let now = Instant::now();
        match state.until {
            None => Circuit::Closed,
            Some(until) if now < until => Circuit::Open { until },
            Some(_) => {
                state.asked += 1;
                state.until = Some(now + pause(state.asked));
                Circuit::HalfOpen
            }
        }
    }

    pub fn is_away(&self) -> bool {
        self.state().until.is_some()
    }

    /// The endpoint took an event; whether it was away before.
    pub fn succeeded(&self) -> bool {
        std::mem::take(&mut *self.state()).until.is_some()
    }

    /// It did not, and may have said for how long it wants to be left alone. Whether it counts as
    /// away from now on.
    pub fn failed(&self, retry_after: Option<Duration>) -> bool {
        let mut state = self.state();
        let was_away = state.until.is_some();
        let wished = retry_after.map(|time| time.min(RETRY_AFTER_MAX));
        // Those that were on their way together fail together: that is no reason for a longer pause.
        let away = !was_away && state.failures + 1 >= AWAY_AFTER;
        if let Some(time) = wished.max(away.then(|| pause(0))) {
            state.until = state.until.max(Some(Instant::now() + time));
        }
        state.failures = if was_away { 0 } else { state.failures + 1 };
        !was_away && state.until.is_some()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(asked: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << asked.min(16)).min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shop_that_fails_again_and_again_is_asked_by_one_event_at_growing_intervals() {
        let breaker = CircuitBreaker::default();
        for _ in 1..AWAY_AFTER {
            assert!(!breaker.failed(None));
            assert_eq!(breaker.ask(), Circuit::Closed);
        }
        assert!(breaker.failed(None));
        for _ in 0..AWAY_AFTER {
            assert!(!breaker.failed(None));
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Circuit::Open { until } = breaker.ask() else { panic!() };
            pauses.push((until - Instant::now()).as_secs());
            tokio::time::sleep_until(until).await;
            assert_eq!(breaker.ask(), Circuit::HalfOpen);
            assert!(matches!(breaker.ask(), Circuit::Open { .. }));
            assert!(!breaker.failed(None));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(breaker.succeeded() && !breaker.succeeded());
        assert_eq!(breaker.ask(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shop_that_asks_for_time_gets_it() {
        let breaker = CircuitBreaker::default();
        assert!(breaker.failed(Some(Duration::from_secs(30))));
        let Circuit::Open { until } = breaker.ask() else { panic!() };
        assert_eq!(until - Instant::now(), Duration::from_secs(30));
        let other = CircuitBreaker::default();
        other.failed(Some(Duration::from_secs(1_000_000)));
        let Circuit::Open { until } = other.ask() else { panic!() };
        assert_eq!(until - Instant::now(), RETRY_AFTER_MAX);
    }
}
