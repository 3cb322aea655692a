//! Who waits on this server for something to happen: long polls and event streams. They have half
//! of the places, so that those who wait keep nobody from buying.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Waits have one of so many parts of the connections, and one address one of so many parts of those.
const PART_OF_CONNECTIONS: usize = 2;
const PART_OF_WAITS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<WaitCounts>);

#[derive(Debug, Default)]
struct WaitCounts {
    all: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// A place among those who wait; free again when dropped.
#[derive(Debug)]
pub(super) struct WaitPlace {
    waits: Arc<Waits>,
    address: Option<IpAddr>,
}

impl Waits {
    /// A place for one more, on a server of so many connections; `None` when all are taken, or this
    /// address has its share. Who has no address here is bounded by all places only.
    pub fn take(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        connections: usize,
    ) -> Option<WaitPlace> {
        let places = connections.div_ceil(PART_OF_CONNECTIONS);
        let mut counts = self.counts();
        if counts.all >= places {
            return None;
        }
        if let Some(address) = address {
            let own = counts.of_address.entry(address).or_default();
            if *own >= places.div_ceil(PART_OF_WAITS) {
                return None;
            }
            *own += 1;
        }
        counts.all += 1;
        Some(WaitPlace { waits: self.clone(), address })
    }

    fn counts(&self) -> MutexGuard<'_, WaitCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitPlace {
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
    fn one_address_has_a_quarter_of_the_waits_and_all_have_half_of_the_connections() {
        let waits = Arc::new(Waits::default());
        let address = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let mut places: Vec<_> = (0..100).map_while(|_| waits.take(address(1), 64)).collect();
        assert_eq!(places.len(), 8);
        places.extend((0..100).map_while(|_| waits.take(address(2), 64)));
        assert_eq!(places.len(), 16);
        places.extend((0..100).map_while(|_| waits.take(None, 64)));
        assert_eq!(places.len(), 32);
        places.remove(0);
        assert!(waits.take(address(2), 64).is_none(), "its share is taken");
        assert!(waits.take(address(1), 64).is_some());
        drop(places);
        assert!(waits.counts().of_address.is_empty() && waits.counts().all == 0);
    }
}
