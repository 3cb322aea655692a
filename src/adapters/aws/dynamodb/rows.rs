//! The rows of items and decided orders.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::core::model::{
    DECISION_RETENTION, Decided, Decision, Item, ItemId, Listing, Mac, MacCheck, MacKeys,
    MacWriter, Order, OrderId, OrderKey, Quantity, Timestamp, UserId,
};
use crate::core::ports::ledger::{AuditedItem, AuditedOrder, OrderRecord, OrderState};

/// Key of the table of orders.
pub const ORDER_ID: &str = "order_id";
/// Key of the table of items, and the item of an order.
pub const ITEM_ID: &str = "item_id";
/// Key of the table of the order key.
pub const META_NAME: &str = "name";
pub const VERSION: &str = "version";
/// When DynamoDB may delete an order's row, in seconds since 1970 (Amazon DynamoDB Developer Guide,
/// "Using time to live (TTL) in DynamoDB").
pub const EXPIRES_AT: &str = "expires_at";

/// Time that a row is kept beyond the retention of its decision.
const MARGIN: Duration = Duration::from_secs(24 * 3600);

pub type Row = HashMap<String, AttributeValue>;

/// Prefix of a MAC: the version of the rule by which it is computed.
const MAC_VERSION: &str = "2:";

/// The names of the attributes that are not keys.
mod name {
    pub const USER: &str = "user_id";
    pub const QUANTITY: &str = "quantity";
    pub const ACCEPTED_AT: &str = "accepted_at";
    pub const STATUS: &str = "status";
    pub const REASON: &str = "reason";
    pub const DECIDED_AT: &str = "decided_at";
    /// `2:` and 16 hex digits: the MAC over all other attributes of the row.
    pub const MAC: &str = "mac";
    /// The MAC of orders that were written before `mac` existed.
    pub const LEGACY_MAC: &str = "seal";
    pub const STOCK: &str = "stock";
    pub const FREE: &str = "free";
    pub const HELD: &str = "held";
    pub const SOLD: &str = "sold";
    pub const OWNER: &str = "owner";
    pub const RESTOCKED_AT: &str = "restocked_at";
    /// Absent while the sale is open, and in rows of versions that could not close a sale.
    pub const CLOSED_AT: &str = "closed_at";
    /// Absent if an organiser listed the item, and in rows of versions without listings.
    pub const LISTING: &str = "listing";
}
pub use name::{OWNER, STOCK};

/// Values of [`name::LISTING`].
const UNLISTED: &str = "unlisted";
const REMOVED: &str = "removed";

pub fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub fn key(name: &str, value: impl Into<String>) -> Row {
    HashMap::from([(name.to_owned(), text(value))])
}

pub fn item_row(item: &Item, keys: &MacKeys) -> Row {
    let mut row = key(ITEM_ID, item.id.as_str());
    for (name, units) in [
        (name::STOCK, item.stock),
        (name::FREE, item.free),
        (name::HELD, item.held),
        (name::SOLD, item.sold),
        (VERSION, item.version),
    ] {
        row.insert(name.to_owned(), number(units));
    }
    if let Some(owner) = &item.owner {
        row.insert(name::OWNER.to_owned(), text(owner.as_str()));
    }
    for (name, time) in [(name::RESTOCKED_AT, item.restocked_at), (name::CLOSED_AT, item.closed_at)]
    {
        if let Some(at) = time {
            row.insert(name.to_owned(), number(at.0));
        }
    }
    let listing = match item.listing {
        Listing::Listed => None,
        Listing::Unlisted => Some(UNLISTED),
        Listing::Removed => Some(REMOVED),
    };
    if let Some(listing) = listing {
        row.insert(name::LISTING.to_owned(), text(listing));
    }
    let check = if item.altered { MacCheck::Wrong } else { MacCheck::Fits };
    let mac = check.carry_on(|| mac_of(&row, keys.item_row()));
    row.insert(name::MAC.to_owned(), mac_text(mac));
    row
}

pub fn order_row(decided: &Decided, keys: &MacKeys) -> Row {
    let Decided { order, decision, decided_at } = decided;
    let mut row = key(ORDER_ID, order.id.to_string());
    let expires = decided_at.plus(DECISION_RETENTION + MARGIN).0 / 1000;
    for (name, value) in [
        (ITEM_ID, text(order.item.as_str())),
        (name::USER, text(order.user.as_str())),
        (name::QUANTITY, number(order.quantity.units())),
        (name::ACCEPTED_AT, number(order.accepted_at.0)),
        (name::STATUS, text(decision.status())),
        (name::DECIDED_AT, number(decided_at.0)),
        (EXPIRES_AT, number(expires)),
    ] {
        row.insert(name.to_owned(), value);
    }
    if let Some(reason) = decision.reason() {
        row.insert(name::REASON.to_owned(), text(reason.as_str()));
    }
    let mac = mac_of(&row, keys.order_row());
    row.insert(name::MAC.to_owned(), mac_text(mac));
    row
}

/// The MAC over every attribute except the MAC itself, including attributes of later versions.
fn mac_of(row: &Row, mut mac: MacWriter) -> Mac {
    let mut names: Vec<&String> = row.keys().filter(|name| *name != name::MAC).collect();
    names.sort_unstable();
    for name in names {
        mac.text(name);
        match &row[name] {
            AttributeValue::S(text) => mac.text(text),
            AttributeValue::N(number) => mac.bytes(number.as_bytes()),
            // flux writes texts and numbers only.
            other => mac.text(&format!("{other:?}")),
        };
    }
    mac.finish()
}

fn mac_text(mac: Mac) -> AttributeValue {
    text(format!("{MAC_VERSION}{:016x}", u64::from_be_bytes(mac)))
}

/// `None` for a row without a MAC.
fn check_mac(row: &Row, writer: MacWriter) -> Option<MacCheck> {
    let found = row.get(name::MAC)?;
    Some(match *found == mac_text(mac_of(row, writer)) {
        true => MacCheck::Fits,
        false => MacCheck::Wrong,
    })
}

/// Checks an item's MAC. A row without one was written by an older version, which drops the MAC.
fn check_item(row: &Row, keys: &MacKeys) -> MacCheck {
    check_mac(row, keys.item_row()).unwrap_or(MacCheck::OldRule)
}

/// A row that flux cannot have written.
#[derive(Debug, thiserror::Error)]
#[error("row {key} is damaged: {what}")]
pub struct Damaged {
    key: String,
    what: String,
}

fn damaged(row: &Row, what: impl ToString) -> Damaged {
    let key = row.get(ORDER_ID).or_else(|| row.get(ITEM_ID)).and_then(|v| v.as_s().ok());
    Damaged { key: key.cloned().unwrap_or_default(), what: what.to_string() }
}

fn text_of<'a>(row: &'a Row, name: &str) -> Result<&'a str, Damaged> {
    let value = row.get(name).and_then(|v| v.as_s().ok());
    value.map(String::as_str).ok_or_else(|| damaged(row, format!("no text {name}")))
}

fn number_of(row: &Row, name: &str) -> Result<u64, Damaged> {
    let value = row.get(name).and_then(|v| v.as_n().ok()).and_then(|n| n.parse().ok());
    value.ok_or_else(|| damaged(row, format!("no whole number {name}")))
}

fn time_of(row: &Row, name: &str) -> Result<Option<Timestamp>, Damaged> {
    match row.contains_key(name) {
        true => number_of(row, name).map(|at| Some(Timestamp(at))),
        false => Ok(None),
    }
}

fn listing_of(row: &Row) -> Result<Listing, Damaged> {
    if !row.contains_key(name::LISTING) {
        return Ok(Listing::Listed);
    }
    match text_of(row, name::LISTING)? {
        UNLISTED => Ok(Listing::Unlisted),
        REMOVED => Ok(Listing::Removed),
        other => Err(damaged(row, format!("no such listing: {other}"))),
    }
}

pub fn read_item(row: &Row, keys: &MacKeys) -> Result<Item, Damaged> {
    let owner = match row.contains_key(name::OWNER) {
        true => Some(parse(row, name::OWNER, UserId::parse)?),
        false => None,
    };
    Ok(Item {
        id: parse(row, ITEM_ID, ItemId::parse)?,
        stock: number_of(row, name::STOCK)?,
        free: number_of(row, name::FREE)?,
        held: number_of(row, name::HELD)?,
        sold: number_of(row, name::SOLD)?,
        owner,
        restocked_at: time_of(row, name::RESTOCKED_AT)?,
        closed_at: time_of(row, name::CLOSED_AT)?,
        listing: listing_of(row)?,
        version: number_of(row, VERSION)?,
        altered: check_item(row, keys) == MacCheck::Wrong,
    })
}

pub fn audit_item(row: &Row, keys: &MacKeys) -> AuditedItem {
    let item = read_item(row, keys).map_err(|e| e.to_string());
    AuditedItem { item, counts: None, mac: check_item(row, keys) }
}

pub fn read_order(row: &Row) -> Result<OrderRecord, Damaged> {
    let reason = match row.contains_key(name::REASON) {
        true => Some(text_of(row, name::REASON)?),
        false => None,
    };
    let decision = Decision::from_parts(text_of(row, name::STATUS)?, reason)
        .ok_or_else(|| damaged(row, "no such decision"))?;
    let quantity = Quantity::new(number_of(row, name::QUANTITY)?).map_err(|e| damaged(row, e))?;
    let order = Order {
        id: parse(row, ORDER_ID, OrderId::parse)?,
        user: parse(row, name::USER, UserId::parse)?,
        item: parse(row, ITEM_ID, ItemId::parse)?,
        quantity,
        accepted_at: Timestamp(number_of(row, name::ACCEPTED_AT)?),
        trace: None,
    };
    let decided_at = Timestamp(number_of(row, name::DECIDED_AT)?);
    Ok(OrderRecord { order, state: OrderState::Decided { decision, decided_at } })
}

/// The order, with the result of its MAC; rows without one are checked by their legacy MAC.
pub fn audit_order(row: &Row, keys: &MacKeys, old: &OrderKey) -> AuditedOrder {
    let record = read_order(row);
    let mac = check_mac(row, keys.order_row()).unwrap_or_else(|| match &record {
        Ok(record) if has_legacy_mac(row, record, old) => MacCheck::OldRule,
        _ => MacCheck::Wrong,
    });
    AuditedOrder { record: record.map_err(|e| e.to_string()), mac }
}

fn has_legacy_mac(row: &Row, record: &OrderRecord, key: &OrderKey) -> bool {
    let Some(decided) = record.clone().decided() else { return false };
    text_of(row, name::LEGACY_MAC)
        .is_ok_and(|found| found == format!("{:016x}", decided.legacy_mac(key)))
}

fn parse<T, E: ToString>(
    row: &Row,
    name: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Damaged> {
    read(text_of(row, name)?).map_err(|e| damaged(row, e.to_string()))
}
