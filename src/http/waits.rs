//! Limits long polls and event streams to half of the connections, so that waiting clients leave
//! connections for buyers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Waits may use one half of the connections, and one address a quarter of the waits.
const WAITS_DIVISOR: usize = 2;
const ADDRESS_DIVISOR: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<WaitCounts>);

#[derive(Debug, Default)]
struct WaitCounts {
    all: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// Permits one wait. Released when dropped.
#[derive(Debug)]
pub(super) struct WaitPermit {
    waits: Arc<Waits>,
    address: Option<IpAddr>,
}

impl Waits {
    /// A permit for one more wait on a server with this limit of connections; `None` if all permits,
    /// or all of this address, are in use. Without an address, only the first limit applies.
    pub fn acquire(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        connections_max: usize,
    ) -> Option<WaitPermit> {
        let waits_max = connections_max.div_ceil(WAITS_DIVISOR);
        let mut counts = self.counts();
        if counts.all >= waits_max {
            return None;
        }
        if let Some(address) = address {
            let own = counts.of_address.entry(address).or_default();
            if *own >= waits_max.div_ceil(ADDRESS_DIVISOR) {
                return None;
            }
            *own += 1;
        }
        counts.all += 1;
        Some(WaitPermit { waits: self.clone(), address })
    }

    fn counts(&self) -> MutexGuard<'_, WaitCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        let mut counts = self.waits.counts();
        counts.all -= 1;
        let Some(address) = self.address else { return };
        if let Some(own) = counts.of_address.get_mut(&address) {
            *own -= 1;
            if *own == 0 {
                counts.of_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_have_half_of_the_connections_and_an_address_a_quarter_of_those() {
        let waits = Arc::new(Waits::default());
        let address = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let mut permits: Vec<_> = (0..100).map_while(|_| waits.acquire(address(1), 64)).collect();
        assert_eq!(permits.len(), 8);
        permits.extend((0..100).map_while(|_| waits.acquire(address(2), 64)));
        assert_eq!(permits.len(), 16);
        permits.extend((0..100).map_while(|_| waits.acquire(None, 64)));
        assert_eq!(permits.len(), 32);
        permits.remove(0);
        assert!(waits.acquire(address(2), 64).is_none(), "the address has all its permits");
        assert!(waits.acquire(address(1), 64).is_some());
        drop(permits);
        assert!(waits.counts().of_address.is_empty() && waits.counts().all == 0);
    }
}
