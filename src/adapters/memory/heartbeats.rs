//! Pulses within one process, where nothing carries them to others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::ports::heartbeats::{LIFE, Living, Pulse, Pulses, PulsesError};

#[derive(Debug, Default)]
pub struct LocalPulses {
    pulses: Mutex<BTreeMap<String, (Instant, Pulse)>>,
}

impl LocalPulses {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Pulse)>> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for LocalPulses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pulses within this process")
    }
}

#[async_trait]
impl Pulses for LocalPulses {
    async fn beat(&self, pulse: &Pulse) -> Result<(), PulsesError> {
        self.lock().insert(pulse.id.clone(), (Instant::now(), pulse.clone()));
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), PulsesError> {
        self.lock().remove(id);
        Ok(())
    }

    async fn living(&self) -> Result<Vec<Living>, PulsesError> {
        let mut pulses = self.lock();
        pulses.retain(|_, (at, _)| at.elapsed() <= LIFE);
        let living =
            |(at, pulse): &(Instant, Pulse)| Living { pulse: pulse.clone(), age: at.elapsed() };
        Ok(pulses.values().map(living).collect())
    }

    fn reach_others(&self) -> bool {
        false
    }
}
