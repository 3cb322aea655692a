//! Ids and cursors: texts from outside.

use std::sync::{Arc, LazyLock};

use flux::adapters::sqlite::ledger::SqliteLedger;
use flux::adapters::sqlite::store::Store;
use flux::core::model::{
    IdempotencyKey, ItemId, OrderId, OrderIds, OrderKey, Quantity, SystemClock, Timestamp, UserId,
};
use flux::core::ports::ledger::Ledger;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

const ITEMS: [&str; 5] = ["-", "A:1", "a.1", "hall_A", "ticket_001"];

/// A valid id is written as it was read. Only ids that flux created are verified. Any cursor gives
/// the items after it.
pub fn any(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(item) = ItemId::parse(&text) {
        assert_eq!(item.as_str(), text);
        assert!(text.len() <= 128 && text.is_ascii());
        reads_itself(&item);
    }
    if let Ok(user) = UserId::parse(&text) {
        assert_eq!(user.as_str(), text);
        assert!((1..=128).contains(&text.len()) && !text.chars().any(char::is_control));
        reads_itself(&user);
    }
    if UserId::parse_new(&text).is_ok() {
        assert!(UserId::parse(&text).is_ok() && flux::core::model::text::visible(&text) == text);
    }
    if let Ok(units) = text.parse::<u64>() {
        assert_eq!(Quantity::new(units).is_ok(), (1..=100).contains(&units));
        assert!(
            Quantity::new(units).is_ok_and(|q| q.units() == units) || units > 100 || units == 0
        );
    }
    order_id(&text);
    names(bytes);
    cursor(&text);
}

fn reads_itself<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(id: &T) {
    let json = serde_json::to_string(id).expect("an id is a JSON string");
    assert_eq!(serde_json::from_str::<T>(&json).ok().as_ref(), Some(id));
}

fn order_id(text: &str) {
    let Ok(id) = OrderId::parse(text) else { return };
    assert_eq!(id.to_string(), text);
    reads_itself(&id);
}

fn names(bytes: &[u8]) {
    let names = OrderIds::new(OrderKey::from_text("a key"), 1);
    let middle = bytes.len() / 2;
    let (user, key) = bytes.split_at(middle);
    let user = std::str::from_utf8(user).ok().and_then(|user| UserId::parse(user).ok());
    if let (Some(user), Ok(key)) = (user, IdempotencyKey::parse(key)) {
        let id = names.from_idempotency_key(&user, &key);
        assert!(names.verify(id) && id == names.from_idempotency_key(&user, &key));
        // The same bytes, split elsewhere, are another request.
        let (more, less) = bytes.split_at(middle + 1);
        let more = std::str::from_utf8(more).ok().and_then(|user| UserId::parse(user).ok());
        if let (Some(user), Ok(key)) = (more, IdempotencyKey::parse(less)) {
            assert_ne!(names.from_idempotency_key(&user, &key), id);
        }
    }
    let number = bytes.iter().fold(0, |n: u64, byte| n.wrapping_mul(31) + u64::from(*byte));
    let named = [
        names.generate(Timestamp(number >> 16)),
        names.from_message(&String::from_utf8_lossy(bytes), middle),
    ];
    for id in named {
        assert!(names.verify(id));
        let mut forged = *id.as_bytes();
        forged[12 + middle % 4] ^= 1 << (number % 8);
        assert!(!names.verify(OrderId::from_bytes(forged)));
    }
}

struct Listed {
    runtime: Runtime,
    ledger: SqliteLedger,
    _directory: tempfile::TempDir,
}

static LISTED: LazyLock<Listed> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&directory.path().join("flux.db")).expect("a store");
    let ledger = SqliteLedger::new(store, OrderKey::from_text("a key"), Arc::new(SystemClock));
    for item in ITEMS {
        let item = ItemId::parse(item).expect("valid");
        runtime.block_on(ledger.set_stock(&item, 1)).expect("written");
    }
    Listed { runtime, ledger, _directory: directory }
});

fn cursor(text: &str) {
    let expected: Vec<&str> = ITEMS.into_iter().filter(|item| *item > text).collect();
    LISTED.runtime.block_on(async {
        let mut after = text.to_owned();
        let mut found = Vec::new();
        loop {
            let page = LISTED.ledger.items(Some(&after), 2).await.expect("a page");
            found.extend(page.rows.iter().map(|item| item.id.to_string()));
            let Some(next) = page.next else { break };
            after = next;
        }
        assert_eq!(found, expected);
        LISTED.ledger.inventory(Some(text), 2).await.expect("a page");
        LISTED.ledger.audit_items(Some(text)).await.expect("a page");
        LISTED.ledger.audit_orders(None, Some(text)).await.expect("a page");
    });
}
