//! The order key of a sale on DynamoDB: one row in a table of its own, `TABLE_meta`.
//!
//! It is no row of the orders or items, because those are scanned: by lists and the audit, also of
//! earlier versions, which refuse a row that they cannot read, and by whatever else people run on
//! their orders. Whoever may read orders must not be able to forge one.
//!
//! The first process that finds no key draws one and stores it if there still is none; all others
//! read what was stored. Earlier versions derived the key from the table's name. Where one of them
//! has sold (there are rows and no stored key) the derived key stays, and is stored as such: its
//! orders may be repeated for weeks, and processes of both versions may run side by side.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

use super::rows;
use super::rows::{ITEM_ID, META_NAME, ORDER_ID, Row, text};
use super::{UNITS, items_table};
use crate::adapters::aws::client::{Aws, Fault, repeat};
use crate::core::model::OrderKey;
use crate::core::ports::ledger::LedgerError;

/// The name of the only row.
const ROW: &str = "order_key";
/// How the key came about: `drawn`, then it is in `key`, or `derived`.
const ORIGIN: &str = "origin";
const DRAWN: &str = "drawn";
const DERIVED: &str = "derived";
/// 32 hex digits.
const KEY: &str = "key";

/// The table of the order key that goes with a table of orders.
pub fn meta_table(table: &str) -> String {
    format!("{table}_meta")
}

/// Where a sale's order key comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    Drawn(OrderKey),
    /// Made from the table's name, so anybody can make it.
    Derived,
}

/// What is stored.
#[derive(Debug)]
pub enum Stored {
    Key(Origin),
    Nothing,
    /// Not even the table: it was provisioned by an earlier version.
    NoTable,
}

/// The store of one sale's order key. Every method may be repeated.
#[derive(Debug)]
pub struct OrderKeys {
    client: Client,
    orders: String,
    items: String,
    meta: String,
}

impl OrderKeys {
    pub fn new(aws: &Aws, table: &str) -> Self {
        let (items, meta) = (items_table(table), meta_table(table));
        Self { client: aws.dynamodb(), orders: table.to_owned(), items, meta }
    }

    /// The key, where a process may only read it. Where none is stored, no process of this version
    /// has named an order yet: whatever is there was named by the derived one.
    pub async fn read(&self) -> Result<OrderKey, LedgerError> {
        Ok(match self.stored().await? {
            Stored::Key(origin) => self.key(origin),
            Stored::Nothing | Stored::NoTable => self.key(Origin::Derived),
        })
    }

    /// The key under which orders are named from now on; stored if none is, made of `drawn` if
    /// nothing was ever decided here. Processes that race for it all return the one that won.
    pub async fn read_or_store(&self, drawn: [u8; 16]) -> Result<(OrderKey, Origin), LedgerError> {
        let origin = match self.stored().await? {
            Stored::Key(origin) => origin,
            Stored::Nothing => {
                self.put(self.fitting(drawn).await?).await?;
                match self.stored().await? {
                    Stored::Key(origin) => origin,
                    Stored::Nothing | Stored::NoTable => {
                        let why = format!("the order key in table {} was deleted", self.meta);
                        return Err(LedgerError::Busy(why));
                    }
                }
            }
            // Rows stay, so once the table is made, the same key is stored in it.
            Stored::NoTable => match self.fitting(drawn).await? {
                Origin::Derived => Origin::Derived,
                Origin::Drawn(_) => {
                    let what = format!("there is no table {}: run `flux provision`", self.meta);
                    return Err(LedgerError::Broken(what));
                }
            },
        };
        Ok((self.key(origin), origin))
    }

    pub async fn stored(&self) -> Result<Stored, LedgerError> {
        let read = repeat(|| {
            let request = self.client.get_item().table_name(&self.meta).consistent_read(true);
            let request = request.return_consumed_capacity(UNITS);
            let request = request.set_key(Some(rows::key(META_NAME, ROW)));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match read.await {
            Ok(answer) => match answer.item() {
                Some(row) => Ok(Stored::Key(self.origin(row)?)),
                None => Ok(Stored::Nothing),
            },
            Err(Fault::Broken(said)) if said.contains("ResourceNotFound") => Ok(Stored::NoTable),
            Err(fault) => Err(self.error(&self.meta, fault)),
        }
    }

    /// What a key that is stored first has to be.
    pub async fn fitting(&self, drawn: [u8; 16]) -> Result<Origin, LedgerError> {
        for (table, key_name) in [(&self.orders, ORDER_ID), (&self.items, ITEM_ID)] {
            if self.has_rows(table, key_name).await? {
                return Ok(Origin::Derived);
            }
        }
        Ok(Origin::Drawn(OrderKey(drawn)))
    }

    fn key(&self, origin: Origin) -> OrderKey {
        match origin {
            Origin::Drawn(key) => key,
            Origin::Derived => OrderKey::from_text(&self.orders),
        }
    }

    /// Looks at one row at most. A table that is not there has none.
    async fn has_rows(&self, table: &str, key_name: &str) -> Result<bool, LedgerError> {
        let mut start = None;
        loop {
            let scanned = repeat(|| {
                let request = self.client.scan().table_name(table).consistent_read(true).limit(1);
                let request = request.return_consumed_capacity(UNITS);
                let request = request.projection_expression("#key");
                let request = request.expression_attribute_names("#key", key_name);
                let request = request.set_exclusive_start_key(start.clone());
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            let page = match scanned.await {
                Ok(page) => page,
                Err(Fault::Broken(said)) if said.contains("ResourceNotFound") => return Ok(false),
                Err(fault) => return Err(self.error(table, fault)),
            };
            if !page.items().is_empty() {
                return Ok(true);
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(false);
            }
        }
    }

    /// Stores a key if none is. Whether it was this one, only a read tells.
    async fn put(&self, origin: Origin) -> Result<(), LedgerError> {
        let mut row = rows::key(META_NAME, ROW);
        let (made, key) = match origin {
            Origin::Drawn(key) => (DRAWN, Some(key)),
            Origin::Derived => (DERIVED, None),
        };
        row.insert(ORIGIN.to_owned(), text(made));
        if let Some(OrderKey(bytes)) = key {
            row.insert(KEY.to_owned(), text(format!("{:032x}", u128::from_be_bytes(bytes))));
        }
        let put = repeat(|| {
            let request = self.client.put_item().table_name(&self.meta);
            let request = request.set_item(Some(row.clone()));
            let request = request.return_consumed_capacity(UNITS);
            let request = request.condition_expression("attribute_not_exists(#name)");
            let request = request.expression_attribute_names("#name", META_NAME);
            async move {
                match request.send().await.map_err(|e| Fault::of(&e)) {
                    // Another process, or this one by an attempt whose answer was lost.
                    Err(Fault::Broken(said)) if said.contains("ConditionalCheckFailed") => Ok(()),
                    other => other.map(|_| ()),
                }
            }
        });
        match put.await {
            // It may be stored: the read that follows tells.
            Ok(()) | Err(Fault::Unknown(_)) => Ok(()),
            Err(fault) => Err(self.error(&self.meta, fault)),
        }
    }

    fn origin(&self, row: &Row) -> Result<Origin, LedgerError> {
        let text = |name: &str| row.get(name).and_then(|value: &AttributeValue| value.as_s().ok());
        let drawn = || {
            let hex = text(KEY).filter(|hex| hex.len() == 32)?;
            let number = u128::from_str_radix(hex, 16).ok()?;
            Some(Origin::Drawn(OrderKey(number.to_be_bytes())))
        };
        let read = match text(ORIGIN).map(String::as_str) {
            Some(DERIVED) => Some(Origin::Derived),
            Some(DRAWN) => drawn(),
            _ => None,
        };
        read.ok_or_else(|| {
            let (meta, what) = (&self.meta, "restore it from a backup, or set order_key");
            LedgerError::Broken(format!("table {meta}: row {ROW} cannot be read: {what}"))
        })
    }

    fn error(&self, table: &str, fault: Fault) -> LedgerError {
        match fault {
            Fault::Busy(said) => LedgerError::Busy(said),
            Fault::Unknown(said) => LedgerError::OutcomeUnknown(said),
            Fault::Broken(said) if said.contains("AccessDenied") => {
                let how = "attach the policy that `flux provision --print iam` prints, or set \
                           order_key for all processes alike";
                LedgerError::Broken(format!("no access to the order key ({said}): {how}"))
            }
            Fault::Broken(said) => LedgerError::Broken(format!("table {table}: {said}")),
        }
    }
}
