//! The order key of a sale on DynamoDB: one row in a table of its own, `TABLE_meta`.
//!
//! It has its own table for two reasons. The tables of orders and items are scanned by lists and
//! audits, and earlier versions fail on a row that they cannot read. And read access to orders must
//! not include the key, with which orders can be forged.
//!
//! The first process that finds no key generates one and stores it with a condition; all others read
//! the stored one. Earlier versions derived the key from the table's name. Where such a version has
//! sold (there are rows, but no stored key), the derived key remains in use and is stored as
//! `derived`: its orders may be repeated for weeks, and processes of both versions may run at once.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

use super::rows;
use super::rows::{ITEM_ID, META_NAME, ORDER_ID, Row, text};
use super::{UNITS, items_table};
use crate::adapters::aws::client::{Aws, Fault, Refusal, repeat};
use crate::core::model::OrderKey;
use crate::core::ports::ledger::LedgerError;

/// The name of the only row.
const ROW: &str = "order_key";
/// The origin of the key: `drawn` (then the row has `key`) or `derived`.
const ORIGIN: &str = "origin";
const DRAWN: &str = "drawn";
const DERIVED: &str = "derived";
/// 32 hex digits.
const KEY: &str = "key";

/// The name of the table of the order key beside a table of orders.
pub fn meta_table(table: &str) -> String {
    format!("{table}_meta")
}

/// The origin of a sale's order key.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// Random.
    Drawn(OrderKey),
    /// Derived from the table's name, so anybody who knows the name can compute it.
    Derived,
}

/// The content of the table of the order key.
#[derive(Debug)]
pub enum Stored {
    Key(Origin),
    Nothing,
    /// No table: the sale was provisioned by an earlier version.
    NoTable,
}

/// The store of one sale's order key. Every method is idempotent.
#[derive(Debug)]
pub struct OrderKeys {
    client: Client,
    orders: String,
    items: String,
    meta: String,
}

impl OrderKeys {
    pub fn new(aws: &Aws, table: &str) -> Self {
        Self {
            client: aws.dynamodb(),
            orders: table.to_owned(),
            items: items_table(table),
            meta: meta_table(table),
        }
    }

    /// The key, for a process that may only read it. If none is stored, no process of this version
    /// has accepted an order, so all existing order ids were made with the derived key.
    pub async fn read(&self) -> Result<OrderKey, LedgerError> {
        Ok(match self.stored().await? {
            Stored::Key(origin) => self.key(origin),
            Stored::Nothing | Stored::NoTable => self.key(Origin::Derived),
        })
    }

    /// The key for new order ids. If none is stored, this stores one: `drawn`, or the derived key if
    /// the tables have rows. Processes that race here all return the key that was stored first.
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
            // The rows remain, so the same key is stored once the table exists.
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

    /// Reads the stored key.
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
            Err(Fault::Refused(Refusal::NotFound, _)) => Ok(Stored::NoTable),
            Err(fault) => Err(self.error(&self.meta, fault)),
        }
    }

    /// The key to store first: the derived one if the tables have rows, otherwise `drawn`.
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

    /// Reads one row at most. A missing table has no rows.
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
                Err(Fault::Refused(Refusal::NotFound, _)) => return Ok(false),
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

    /// Stores a key if none is stored. The caller must read the key afterwards: another process may
    /// have stored a different one first.
    async fn put(&self, origin: Origin) -> Result<(), LedgerError> {
        let mut row = rows::key(META_NAME, ROW);
        let (label, key) = match origin {
            Origin::Drawn(key) => (DRAWN, Some(key)),
            Origin::Derived => (DERIVED, None),
        };
        row.insert(ORIGIN.to_owned(), text(label));
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
                    // Stored by another process, or by an earlier attempt whose response was lost.
                    Err(Fault::Refused(Refusal::ConditionFailed, _)) => Ok(()),
                    other => other.map(|_| ()),
                }
            }
        });
        match put.await {
            // It may have been stored: the caller's read decides.
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
            LedgerError::Broken(format!(
                "table {}: row {ROW} cannot be read: restore it from a backup, or set order_key",
                self.meta
            ))
        })
    }

    fn error(&self, table: &str, fault: Fault) -> LedgerError {
        match fault {
            Fault::Busy(why) => LedgerError::Busy(why),
            Fault::Unknown(why) => LedgerError::OutcomeUnknown(why),
            Fault::Refused(Refusal::AccessDenied, why) => {
                let hint = "attach the policy that `flux provision --print iam` prints, or set the \
                            same order_key for all processes";
                LedgerError::Broken(format!("no access to the order key ({why}): {hint}"))
            }
            Fault::Refused(_, why) => LedgerError::Broken(format!("table {table}: {why}")),
        }
    }
}
