//! Validated ids. They are checked when a request or message is read; the rest of flux has no bare
//! strings.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24x128};

use super::Timestamp;
use super::text::{is_blank, is_hidden};

/// An invalid id. The text says what a valid one is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(pub &'static str);

/// The id of an item: 1-128 characters of `[A-Za-z0-9._:-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ItemId(Arc<str>);

impl ItemId {
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=128).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        if fits && plain {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("item_id must be 1-128 characters out of A-Z a-z 0-9 . _ : -"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a buyer: 1-128 bytes of UTF-8. New orders are checked more strictly than orders from a
/// store, a queue or a dead letter, which an earlier version may have accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(Arc<str>);

impl UserId {
    /// Parses the user of a new order, or a token's subject: no characters that are invisible or
    /// reorder text, and not blank. Otherwise one user could imitate another.
    pub fn parse_new(text: &str) -> Result<Self, InvalidId> {
        let user = Self::parse(text)?;
        if text.chars().any(is_hidden) {
            let what = "user_id must not contain characters that are invisible or reorder text \
                        (control, format or private-use characters, line separators)";
            return Err(InvalidId(what));
        }
        if is_blank(text) {
            return Err(InvalidId("user_id must not be blank"));
        }
        Ok(user)
    }

    /// Parses the user of an order that was accepted before: from a store, a queue or a dead
    /// letter.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=128).contains(&text.len());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("user_id must be 1-128 bytes without control characters"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The units of one order: 1-100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Quantity(u8);

impl Quantity {
    pub const ONE: Self = Self(1);

    pub fn new(units: u64) -> Result<Self, InvalidId> {
        match u8::try_from(units) {
            Ok(units @ 1..=100) => Ok(Self(units)),
            _ => Err(InvalidId("quantity must be a whole number from 1 to 100")),
        }
    }

    pub fn units(self) -> u64 {
        u64::from(self.0)
    }
}

/// The Idempotency-Key of a request: 1-255 visible ASCII characters. A request with the same user
/// and key is the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    pub fn parse(text: &[u8]) -> Result<Self, InvalidId> {
        let wrong = InvalidId("Idempotency-Key must be 1-255 visible ASCII characters");
        let fits = (1..=255).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        match std::str::from_utf8(text) {
            Ok(text) if fits => Ok(Self(text.to_owned())),
            _ => Err(wrong),
        }
    }
}

impl TryFrom<String> for ItemId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl TryFrom<u64> for Quantity {
    type Error = InvalidId;
    fn try_from(units: u64) -> Result<Self, InvalidId> {
        Self::new(units)
    }
}

impl From<ItemId> for String {
    fn from(id: ItemId) -> String {
        id.as_str().to_owned()
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> String {
        id.as_str().to_owned()
    }
}

impl From<Quantity> for u64 {
    fn from(quantity: Quantity) -> u64 {
        quantity.units()
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of an order: a body of 12 bytes and a keyed checksum of 4 bytes, written as 32 hex
/// digits.
///
/// The body of a generated id begins with the time of acceptance. So the ids of one process ascend,
/// and an index of ids only grows at its end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId([u8; 16]);

impl OrderId {
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let wrong = InvalidId("an order id is 32 lower-case hex digits");
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(lower) {
            return Err(wrong);
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| wrong)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for OrderId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> String {
        id.to_string()
    }
}

/// The 128-bit key of order ids and of the MACs of stored rows. All processes of a sale must have
/// the same key. It must not change while buyers may repeat requests.
#[derive(Clone, Copy)]
pub struct OrderKey(pub [u8; 16]);

impl OrderKey {
    /// Derives a key from a configured text.
    pub fn from_text(text: &str) -> Self {
        let mut hasher = SipHasher24x128::new_with_key(b"flux order key 1");
        hasher.write(text.as_bytes());
        Self(hasher.finish128().as_bytes())
    }

    /// 64-bit keyed hash (SipHash-2-4, Aumasson and Bernstein 2012).
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish()
    }
}

impl fmt::Debug for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrderKey(..)")
    }
}

/// Creates order ids. One per process. The ids of two processes differ, because each has 32 random
/// bits of its own.
#[derive(Debug)]
pub struct OrderIds {
    key: OrderKey,
    process: u32,
    /// Milliseconds << 16 | counter of the last generated id.
    newest: AtomicU64,
}

impl OrderIds {
    pub fn new(key: OrderKey, process: u32) -> Self {
        Self { key, process, newest: AtomicU64::new(0) }
    }

    /// A new id, greater than all that were generated before, even if the clock goes back.
    ///
    /// Threads race on `newest`: each sets it to the current time or to one more than it was,
    /// whichever is greater, so no two get the same stamp.
    pub fn generate(&self, now: Timestamp) -> OrderId {
        let earliest = now.0 << 16;
        let before = self
            .newest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(earliest.max(n + 1)))
            .unwrap_or_else(|n| n);
        let stamp = earliest.max(before + 1);
        let mut body = [0; 12];
        body[..8].copy_from_slice(&stamp.to_be_bytes());
        body[8..].copy_from_slice(&self.process.to_be_bytes());
        self.checked(body)
    }

    /// The id of a user's request with an Idempotency-Key: always the same.
    pub fn from_idempotency_key(&self, user: &UserId, key: &IdempotencyKey) -> OrderId {
        self.derived("key", user.as_str(), key.0.as_bytes())
    }

    /// The id of entry `index` of another producer's message, if the entry has no id: always the
    /// same.
    pub fn from_message(&self, message_id: &str, index: usize) -> OrderId {
        self.derived("message", message_id, &(index as u64).to_be_bytes())
    }

    /// True if the id was created by flux with this key.
    pub fn verify(&self, id: OrderId) -> bool {
        let mut body = [0; 12];
        body.copy_from_slice(&id.0[..12]);
        self.checked(body) == id
    }

    fn derived(&self, kind: &str, first: &str, second: &[u8]) -> OrderId {
        let mut hasher = SipHasher24x128::new_with_key(&self.key.0);
        hasher.write(kind.as_bytes());
        hasher.write(&(first.len() as u64).to_be_bytes());
        hasher.write(first.as_bytes());
        hasher.write(second);
        let mut body = [0; 12];
        body.copy_from_slice(&hasher.finish128().as_bytes()[..12]);
        self.checked(body)
    }

    fn checked(&self, body: [u8; 12]) -> OrderId {
        let mut id = [0; 16];
        id[..12].copy_from_slice(&body);
        id[12..].copy_from_slice(&self.key.hash(&body).to_be_bytes()[..4]);
        OrderId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> OrderIds {
        OrderIds::new(OrderKey::from_text("a"), 7)
    }

    #[test]
    fn generated_ids_ascend_even_if_the_clock_goes_back() {
        let ids = ids();
        let mut last = ids.generate(Timestamp(2_000));
        for now in [2_000, 1_000, 2_000, 3_000, 2_999] {
            let next = ids.generate(Timestamp(now));
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn a_key_is_one_order_of_one_user() {
        let ids = ids();
        let user = |name| UserId::parse(name).unwrap();
        let key = |k: &str| IdempotencyKey::parse(k.as_bytes()).unwrap();
        assert_eq!(
            ids.from_idempotency_key(&user("ann"), &key("k1")),
            ids.from_idempotency_key(&user("ann"), &key("k1"))
        );
        assert_ne!(
            ids.from_idempotency_key(&user("ann"), &key("k1")),
            ids.from_idempotency_key(&user("bob"), &key("k1"))
        );
        assert_ne!(
            ids.from_idempotency_key(&user("ann"), &key("bk1")),
            ids.from_idempotency_key(&user("annb"), &key("k1"))
        );
    }

    #[test]
    fn guessed_id_fails_verification() {
        let ids = ids();
        let id = ids.generate(Timestamp(1));
        assert!(ids.verify(id));
        let other = OrderIds::new(OrderKey::from_text("b"), 7);
        assert!(!other.verify(id));
        assert_eq!(OrderId::parse(&id.to_string()), Ok(id));
        assert!(OrderId::parse("+0000000000000000000000000000001").is_err());
    }

    #[test]
    fn ids_outside_their_bounds_are_refused() {
        for bad in ["", "a b", "ticket/1", "é", &"x".repeat(129)] {
            assert!(ItemId::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a\nb", "a\u{7f}", "\u{85}", &"x".repeat(129)] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse("Zoë 🎟").is_ok());
        for bad in [0, 101, 256, 257, u64::MAX] {
            assert!(Quantity::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn new_users_are_visible_and_stored_ones_stay_readable() {
        for old in ["ann\u{2028}", "\u{202e}nna", "an\u{200b}n", "\u{feff}ann", " ", "\u{3000}"] {
            assert!(UserId::parse(old).is_ok() && UserId::parse_new(old).is_err(), "{old:?}");
        }
        for good in ["ann", "Zoë 🎟", "👩\u{200d}👧", "می\u{200c}خواهم", "葛\u{e0100}", " ann "]
        {
            assert!(UserId::parse_new(good).is_ok(), "{good:?}");
        }
    }
}
