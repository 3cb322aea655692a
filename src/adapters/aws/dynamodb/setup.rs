//! Creates, updates and deletes the ledger's DynamoDB tables.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus, WarmThroughput,
};

use super::items_table;
use super::order_key::meta_table;
use super::rows::{EXPIRES_AT, ITEM_ID, META_NAME, ORDER_ID};
use crate::adapters::aws::Change;
use crate::adapters::aws::client::{Aws, Fault, Refusal, repeat};

/// The longest wait for a new table to become active.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Pause between two checks of a new table.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Initial throughput of a new on-demand table, in units per second (Amazon DynamoDB Developer
/// Guide, "On-demand capacity mode").
const WARM_READS: i64 = 12_000;
const WARM_WRITES: i64 = 4_000;
/// Write units of one order: up to 1 KB, doubled by the transaction (Amazon DynamoDB Developer Guide,
/// "DynamoDB read and write operations").
const WRITES_PER_ORDER: i64 = 2;

/// Warm throughput of the table of orders for `expect` orders per second, as read and write units per
/// second; `None` if a new table has enough by default.
pub fn warm_throughput(expect: Option<u32>) -> Option<(i64, i64)> {
    let writes = i64::from(expect?) * WRITES_PER_ORDER;
    (writes > WARM_WRITES).then_some((WARM_READS, writes))
}

/// Sets up the ledger's three tables. Every method is idempotent; an error is one line.
#[derive(Debug)]
pub struct TableSetup {
    client: Client,
    orders: String,
    items: String,
    meta: String,
}

impl TableSetup {
    pub fn new(aws: &Aws, table: &str) -> Self {
        Self {
            client: aws.dynamodb(),
            orders: table.to_owned(),
            items: items_table(table),
            meta: meta_table(table),
        }
    }

    /// Creates or updates the tables for `expect` orders per second. Without `apply` it only reports
    /// the changes. Calls `done` with the name of each finished table. A table that flux cannot use is
    /// an error and is left unchanged.
    pub async fn ensure(
        &self,
        expect: Option<u32>,
        apply: bool,
        done: &mut (dyn FnMut(&str, Change) + Send),
    ) -> Result<(), String> {
        let warm = warm_throughput(expect);
        let mut orders = self.ensure_table(&self.orders, ORDER_ID, warm, apply).await?;
        if self.ensure_expiry(orders, apply).await? && orders == Change::Unchanged {
            orders = Change::Changed;
        }
        done(&self.orders, orders);
        for (table, key) in [(&self.items, ITEM_ID), (&self.meta, META_NAME)] {
            done(table, self.ensure_table(table, key, None, apply).await?);
        }
        Ok(())
    }

    /// Deletes the tables with their rows, or only checks for them without `apply`. The order key is
    /// deleted last, so that after an interrupted deletion the remaining orders still match it. Calls
    /// `done` with the name of each table and whether it existed.
    pub async fn delete(
        &self,
        apply: bool,
        done: &mut (dyn FnMut(&str, bool) + Send),
    ) -> Result<(), String> {
        for table in [&self.orders, &self.items, &self.meta] {
            let exists = self.describe(table).await?.is_some();
            if exists && apply {
                let deleted = repeat(|| {
                    let request = self.client.delete_table().table_name(table);
                    async move { request.send().await.map_err(|e| Fault::of(&e)) }
                });
                deleted.await.map_err(|fault| failed(table, fault))?;
            }
            done(table, exists);
        }
        Ok(())
    }

    async fn ensure_table(
        &self,
        table: &str,
        key: &str,
        warm: Option<(i64, i64)>,
        apply: bool,
    ) -> Result<Change, String> {
        let writes = warm.map_or(0, |(_, writes)| writes);
        let warm = warm.map(|(reads, writes)| {
            WarmThroughput::builder()
                .read_units_per_second(reads)
                .write_units_per_second(writes)
                .build()
        });
        let Some(found) = self.describe(table).await? else {
            if apply {
                self.create(table, key, warm).await?;
                self.ready(table).await?;
            }
            return Ok(Change::Made);
        };
        check_key(table, key, &found)?;
        if found.table_status() == Some(&TableStatus::Deleting) {
            return Err(format!(
                "table {table} is being deleted: run the same command again in a minute"
            ));
        }
        // Stand-ins for DynamoDB may not report warm throughput.
        let current = found.warm_throughput().and_then(|w| w.write_units_per_second());
        if warm.is_none() || current.is_none_or(|current| current >= writes) {
            return Ok(Change::Unchanged);
        }
        if apply {
            let updated = repeat(|| {
                let request = self.client.update_table().table_name(table);
                let request = request.set_warm_throughput(warm.clone());
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            updated.await.map_err(|fault| failed(table, fault))?;
            self.ready(table).await?;
        }
        Ok(Change::Changed)
    }

    async fn create(
        &self,
        table: &str,
        key: &str,
        warm: Option<WarmThroughput>,
    ) -> Result<(), String> {
        let attribute = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .expect("name and type are set");
        let hash = KeySchemaElement::builder()
            .attribute_name(key)
            .key_type(KeyType::Hash)
            .build()
            .expect("name and type are set");
        let created = repeat(|| {
            let request = self
                .client
                .create_table()
                .table_name(table)
                .attribute_definitions(attribute.clone())
                .key_schema(hash.clone())
                .billing_mode(BillingMode::PayPerRequest)
                .set_warm_throughput(warm.clone());
            async move {
                match request.send().await.map_err(|e| Fault::of(&e)) {
                    // Created by an earlier attempt whose response was lost, or by another process.
                    Err(Fault::Refused(Refusal::InUse, _)) => Ok(()),
                    other => other.map(|_| ()),
                }
            }
        });
        created.await.map_err(|fault| failed(table, fault))
    }

    /// Enables time to live on the table of orders; `true` if it was not enabled.
    async fn ensure_expiry(&self, table_change: Change, apply: bool) -> Result<bool, String> {
        let table = &self.orders;
        if table_change == Change::Made && !apply {
            return Ok(true);
        }
        let asked = repeat(|| {
            let request = self.client.describe_time_to_live().table_name(table);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = asked.await.map_err(|fault| failed(table, fault))?;
        let status = answer.time_to_live_description().and_then(|d| d.time_to_live_status());
        let by = answer.time_to_live_description().and_then(|d| d.attribute_name());
        if matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
            return match by {
                Some(by) if by != EXPIRES_AT => Err(format!(
                    "the TTL of table {table} uses attribute {by} instead of {EXPIRES_AT}: disable \
                     its TTL, or set another dynamodb_table"
                )),
                _ => Ok(false),
            };
        }
        if apply {
            let expiry = TimeToLiveSpecification::builder()
                .enabled(true)
                .attribute_name(EXPIRES_AT)
                .build()
                .expect("both are set");
            let updated = repeat(|| {
                let request = self.client.update_time_to_live().table_name(table);
                let request = request.time_to_live_specification(expiry.clone());
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            updated.await.map_err(|fault| failed(table, fault))?;
        }
        Ok(true)
    }

    async fn describe(&self, table: &str) -> Result<Option<TableDescription>, String> {
        let asked = repeat(|| {
            let request = self.client.describe_table().table_name(table);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match asked.await {
            Ok(answer) => Ok(answer.table),
            Err(Fault::Refused(Refusal::NotFound, _)) => Ok(None),
            Err(fault) => Err(failed(table, fault)),
        }
    }

    async fn ready(&self, table: &str) -> Result<(), String> {
        let asking = async {
            loop {
                let found = self.describe(table).await?;
                if found.is_some_and(|t| t.table_status() == Some(&TableStatus::Active)) {
                    return Ok(());
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        let late = || format!("table {table} is not ready yet: run the same command again later");
        tokio::time::timeout(READY_WITHIN, asking).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Checks that the table's key is one text attribute of this name.
fn check_key(table: &str, wanted: &str, found: &TableDescription) -> Result<(), String> {
    let kind = |name: &str| {
        let mut attributes = found.attribute_definitions().iter();
        let attribute = attributes.find(|attribute| attribute.attribute_name() == name);
        attribute.map_or("?", |attribute| attribute.attribute_type().as_str())
    };
    let keys = found.key_schema().iter().map(KeySchemaElement::attribute_name);
    let keys: Vec<String> = keys.map(|name| format!("{name} ({})", kind(name))).collect();
    let wanted = format!("{wanted} (S)");
    if keys == [wanted.clone()] {
        return Ok(());
    }
    let found = keys.join(" with ");
    Err(format!(
        "table {table} has the key {found} and must have {wanted}: delete it if nobody needs it, \
         or set another dynamodb_table"
    ))
}

fn failed(table: &str, fault: Fault) -> String {
    format!("DynamoDB table {table}: {}", fault.into_text())
}
