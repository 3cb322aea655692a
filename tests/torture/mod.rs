//! Does it keep its promises when things break? The real executable under load, its processes
//! killed, stopped and started again at random instants, its services and its disk failing.
//!
//! The tests bring each fault once or twice into a sale. `scripts/torture` brings them by the
//! hundred and prints a table.

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

/// How long anything that must come to its end may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// A process's default grace period.
const GRACE: Duration = Duration::from_secs(9);
/// Items with their stock: the first is never sold out, the second after a while.
const ITEMS: [(&str, u64); 4] =
    [("hall_A", 10_000_000), ("hall_B", 500), ("hall_C", 7), ("unique", 1)];
/// The seed of a run that is to be repeated.
const SEED: &str = "FLUX_TORTURE_SEED";

/// A source of chance: the same seed gives the same choices.
#[derive(Debug, Clone)]
struct Chance(fastrand::Rng);

impl Chance {
    /// From the seed that was given, or else a new one; says which.
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

    /// Whether something that happens once in `n` times happens.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A source of its own for something that runs beside.
    fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    async fn pause_ms(&mut self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(from + self.below(to - from))).await;
    }
}
