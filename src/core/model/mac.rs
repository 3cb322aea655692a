//! Message authentication codes (MACs) over stored rows. With them the audit finds rows that were
//! changed by anything but flux.
//!
//! Rows of flux 0.x up to schema 6 have a *seal* instead, which covers less
//! ([`Decided::legacy_mac`](super::Decided::legacy_mac)): the old rule. The keys of the MACs are
//! derived from the order key, one per kind of row, so that the MAC of one kind never matches
//! another.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24x128};

use super::{Decision, Order, OrderKey, Reason, Timestamp};

/// 64 bits of SipHash-2-4.
pub type Mac = [u8; 8];

/// Written instead of a MAC if the row did not match its own MAC before flux wrote to it. So a
/// foreign change stays a finding of the audit, whatever flux writes to the row afterwards.
pub const BROKEN: Mac = [0xff; 8];

/// The result of checking a row against its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacCheck {
    Fits,
    /// An earlier version wrote the row, without a MAC. The row matches its seal, if its kind had
    /// one.
    OldRule,
    /// The row was changed by anything but flux.
    Wrong,
}

impl MacCheck {
    /// The MAC to write next: [`BROKEN`] after `Wrong`, otherwise the new MAC.
    pub fn carry_on(self, mac: impl FnOnce() -> Mac) -> Mac {
        if self == MacCheck::Wrong { BROKEN } else { mac() }
    }
}

/// The state of an order, as covered by its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacState {
    Queued,
    DeadLettered,
    Decided(Decision),
}

impl MacState {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            MacState::Queued => ("queued", ""),
            MacState::DeadLettered => ("dead_lettered", ""),
            MacState::Decided(decision) => {
                (decision.status(), decision.reason().map_or("", Reason::as_str))
            }
        }
    }
}

/// The keys of all MACs of a store.
#[derive(Clone, Copy)]
pub struct MacKeys {
    order: [u8; 16],
    item: [u8; 16],
    counts: [u8; 16],
    letter: [u8; 16],
}

impl std::fmt::Debug for MacKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKeys(..)")
    }
}

impl MacKeys {
    pub fn new(key: &OrderKey) -> Self {
        let derived = |kind: &str| {
            let mut hasher = SipHasher24x128::new_with_key(&key.0);
            hasher.write(b"flux mac 2 ");
            hasher.write(kind.as_bytes());
            hasher.finish128().as_bytes()
        };
        Self {
            order: derived("order"),
            item: derived("item"),
            counts: derived("counts"),
            letter: derived("letter"),
        }
    }

    /// The MAC of an order's row. `seq` is the row's key. `at` is the time of the decision, or of
    /// the acceptance if there is none.
    pub fn order(
        &self,
        order: &Order,
        seq: i64,
        state: MacState,
        at: Timestamp,
        trace: Option<&[u8]>,
    ) -> Mac {
        let (status, reason) = state.words();
        let mut mac = self.order_row();
        mac.number(seq).bytes(order.id.as_bytes()).text(order.item.as_str());
        mac.text(order.user.as_str()).number(order.quantity.units() as i64);
        mac.number(order.accepted_at.0 as i64).text(status).text(reason).number(at.0 as i64);
        match trace {
            None => mac.absent(),
            Some(trace) => mac.bytes(trace),
        };
        mac.finish()
    }

    pub fn order_row(&self) -> MacWriter {
        MacWriter::new(&self.order)
    }

    pub fn item_row(&self) -> MacWriter {
        MacWriter::new(&self.item)
    }

    pub fn counts_row(&self) -> MacWriter {
        MacWriter::new(&self.counts)
    }

    pub fn letter_row(&self) -> MacWriter {
        MacWriter::new(&self.letter)
    }
}

/// Computes a MAC from a row's values. Each value is written with its type and length, so that two
/// different rows never give the same bytes.
pub struct MacWriter(SipHasher24);

impl MacWriter {
    fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(key))
    }

    pub fn absent(&mut self) -> &mut Self {
        self.0.write(b"-");
        self
    }

    pub fn number(&mut self, number: i64) -> &mut Self {
        self.tagged(b'n', number as u64)
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.tagged(b't', text.len() as u64).0.write(text.as_bytes());
        self
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.tagged(b'b', bytes.len() as u64).0.write(bytes);
        self
    }

    pub fn real(&mut self, real: f64) -> &mut Self {
        self.tagged(b'r', real.to_bits())
    }

    pub fn finish(&self) -> Mac {
        self.0.finish().to_be_bytes()
    }

    fn tagged(&mut self, tag: u8, number: u64) -> &mut Self {
        let mut bytes = [tag; 9];
        bytes[1..].copy_from_slice(&number.to_be_bytes());
        self.0.write(&bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{ItemId, OrderId, Quantity, UserId};

    #[test]
    fn mac_covers_each_field_and_its_bounds() {
        let keys = MacKeys::new(&OrderKey::from_text("a"));
        let order = Order {
            id: OrderId::from_bytes([1; 16]),
            user: UserId::parse("ann").unwrap(),
            item: ItemId::parse("x").unwrap(),
            quantity: Quantity::ONE,
            accepted_at: Timestamp(5),
            trace: None,
        };
        let queued =
            |order: &Order, seq| keys.order(order, seq, MacState::Queued, order.accepted_at, None);
        let sold = MacState::Decided(Decision::Sold);
        let user = |name: &str| Order { user: UserId::parse(name).unwrap(), ..order.clone() };
        let shifted = Order { item: ItemId::parse("xa").unwrap(), ..user("nn") };
        let mut all = vec![
            queued(&order, 1),
            queued(&order, 2),
            queued(&Order { id: OrderId::from_bytes([2; 16]), ..order.clone() }, 1),
            queued(&user("bob"), 1),
            queued(&shifted, 1),
            queued(&Order { quantity: Quantity::new(2).unwrap(), ..order.clone() }, 1),
            queued(&Order { accepted_at: Timestamp(6), ..order.clone() }, 1),
            keys.order(&order, 1, MacState::Queued, Timestamp(6), None),
            keys.order(&order, 1, MacState::Queued, Timestamp(5), Some(b"")),
            keys.order(&order, 1, MacState::DeadLettered, Timestamp(5), None),
            keys.order(&order, 1, sold, Timestamp(5), None),
            MacKeys::new(&OrderKey::from_text("b")).order(&order, 1, sold, Timestamp(5), None),
            keys.item_row().finish(),
            keys.order_row().finish(),
            keys.letter_row().finish(),
        ];
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
