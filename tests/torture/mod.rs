//! Fault injection: the real executable under load, while its processes are killed, suspended and
//! restarted at random instants, and its services and its disk fail.
//!
//! The tests inject each fault once or twice into a sale. `scripts/torture` injects hundreds, and
//! prints a table.

mod buyers;
#[cfg(all(feature = "aws", feature = "redis"))]
mod cloud;
mod damage;
mod disk;
mod embedded;
mod overload;
mod place;
pub mod proxy;
mod row;
mod sale;
#[cfg(all(feature = "aws", feature = "redis"))]
mod table;

use std::time::Duration;

/// Time limit for everything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);
/// Default grace period of a process.
const GRACE: Duration = Duration::from_secs(9);
/// Items with their stock: the first never sells out, the second after a while.
const ITEMS: [(&str, u64); 4] =
    [("hall_A", 10_000_000), ("hall_B", 500), ("hall_C", 7), ("unique", 1)];
/// The environment variable with the seed of a run to repeat.
const SEED: &str = "FLUX_TORTURE_SEED";

/// Random numbers: the same seed gives the same choices.
#[derive(Debug, Clone)]
struct TestRng(fastrand::Rng);

impl TestRng {
    /// Uses the seed from the environment, or a new one, and prints it.
    fn seeded() -> Self {
        let seed = std::env::var(SEED).map(|seed| seed.parse().expect("a seed is a number"));
        let seed = seed.unwrap_or_else(|_| u64::from(uuid::Uuid::new_v4().as_u128() as u32));
        println!("{SEED}={seed}");
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    /// `true` once in `n` calls, on average.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A separate generator for a concurrent task.
    fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    async fn pause_ms(&mut self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(from + self.below(to - from))).await;
    }
}
