//! The tables of the file, and the upgrades of files of earlier versions.

use std::path::Path;

use rusqlite::Connection;

use super::errors::{StoreError, not_a_store, other_schema};

/// `application_id` in the file's header, which tells a store of flux from other SQLite files.
const APPLICATION_ID: i32 = 0x666c_7578;
const SCHEMA_VERSION: i32 = 9;
/// The oldest schema that can be upgraded.
const OLDEST_SCHEMA: i32 = 2;
/// The upgrade from each schema to the next, beginning with [`OLDEST_SCHEMA`].
const UPGRADES: [&str; 7] = [
    "ALTER TABLE items ADD COLUMN closed_at INTEGER",
    "ALTER TABLE orders ADD COLUMN trace BLOB",
    "CREATE TABLE decisions (state INTEGER PRIMARY KEY, orders INTEGER NOT NULL);
    INSERT INTO decisions SELECT state, count(*) FROM orders WHERE state >= 20 GROUP BY state;
    CREATE TABLE pulses (id TEXT PRIMARY KEY, at INTEGER NOT NULL, pulse TEXT NOT NULL) WITHOUT ROWID",
    "CREATE INDEX dead_letters_by_age ON dead_letters (at, order_id)",
    MACS,
    "ALTER TABLE items ADD COLUMN listing INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX unlisted_items ON items (id) WHERE listing = 1",
    DROPPED,
];

/// Key in `meta` that is present until the orders that [`DROPPED`] is about are decided.
pub const DROPPED_BEFORE: &str = "dropped_before";

/// Earlier versions left an order dead-lettered when its dead letter was dropped. These orders are
/// decided as `dropped` after the upgrade, when the keys of the MACs are known. The column `dead` is
/// renamed so that a process of an earlier version that still has the file open fails instead of
/// dropping a dead letter without deciding its order.
const DROPPED: &str = "
ALTER TABLE counts RENAME COLUMN dead TO dead_lettered;
INSERT OR REPLACE INTO meta SELECT 'dropped_before', 1 WHERE EXISTS (SELECT 1 FROM orders
    WHERE state = 11 AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE order_id = orders.id));
";

/// From seals to MACs. Existing rows keep their seal and are checked by the old rule; the item's next
/// order is the first with a MAC. The table `totals` is renamed so that a process of an earlier
/// version that still has the file open fails instead of writing rows without MACs.
const MACS: &str = "
ALTER TABLE items ADD COLUMN decided INTEGER NOT NULL DEFAULT 0;
ALTER TABLE items ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
ALTER TABLE items ADD COLUMN mac_from INTEGER NOT NULL DEFAULT 1;
ALTER TABLE items ADD COLUMN mac BLOB;
UPDATE items SET mac_from = arrivals + 1,
    decided = (SELECT count(*) FROM orders
        WHERE place > no << 32 AND place < (no + 1) << 32 AND state >= 20),
    dead = (SELECT count(*) FROM orders
        WHERE place > no << 32 AND place < (no + 1) << 32 AND state = 11);
ALTER TABLE dead_letters ADD COLUMN mac BLOB;
ALTER TABLE totals RENAME TO counts;
ALTER TABLE counts ADD COLUMN writes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counts ADD COLUMN letters INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counts ADD COLUMN old_items INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counts ADD COLUMN old_letters INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counts ADD COLUMN mac BLOB;
UPDATE counts SET writes = (SELECT coalesce(sum(version), 0) FROM items),
    old_items = (SELECT count(*) FROM items),
    letters = (SELECT count(*) FROM dead_letters),
    old_letters = (SELECT count(*) FROM dead_letters);
";

/// `place`: see [`super::seq`]. The columns that a decision changes have the same width before and
/// after it, so that the row is updated in place.
const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE items (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    stock INTEGER NOT NULL DEFAULT 0,
    free INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    sold INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    version INTEGER NOT NULL DEFAULT 0,
    arrivals INTEGER NOT NULL DEFAULT 0,
    moved INTEGER NOT NULL DEFAULT 0,
    restocked_at INTEGER,
    claimed_by INTEGER NOT NULL DEFAULT 0,
    claimed_until INTEGER NOT NULL DEFAULT 0,
    closed_at INTEGER,
    decided INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    mac_from INTEGER NOT NULL DEFAULT 1,
    mac BLOB,
    listing INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX unlisted_items ON items (id) WHERE listing = 1;
CREATE TABLE orders (
    place INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    user TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    decided_at INTEGER NOT NULL,
    seal BLOB NOT NULL,
    trace BLOB
);
CREATE UNIQUE INDEX order_ids ON orders (id);
CREATE INDEX waiting ON orders (place) WHERE state = 10;
CREATE TABLE dead_letters (
    order_id BLOB PRIMARY KEY,
    reason TEXT NOT NULL,
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    mac BLOB
);
CREATE INDEX dead_letters_by_age ON dead_letters (at, order_id);
CREATE TABLE locks (
    item TEXT PRIMARY KEY,
    token BLOB NOT NULL,
    lease INTEGER NOT NULL,
    until INTEGER NOT NULL,
    wanted_until INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE counts (
    accepted INTEGER NOT NULL,
    decided INTEGER NOT NULL,
    dead_lettered INTEGER NOT NULL,
    writes INTEGER NOT NULL DEFAULT 0,
    letters INTEGER NOT NULL DEFAULT 0,
    old_items INTEGER NOT NULL DEFAULT 0,
    old_letters INTEGER NOT NULL DEFAULT 0,
    mac BLOB
);
INSERT INTO counts (accepted, decided, dead_lettered) VALUES (0, 0, 0);
CREATE TABLE decisions (state INTEGER PRIMARY KEY, orders INTEGER NOT NULL);
CREATE TABLE pulses (id TEXT PRIMARY KEY, at INTEGER NOT NULL, pulse TEXT NOT NULL) WITHOUT ROWID;
";

/// Checks that the file is a store of this schema, or of one that can be upgraded. Changes nothing.
pub fn readable(path: &Path, connection: &Connection) -> rusqlite::Result<Result<(), StoreError>> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |r| r.get::<_, i32>(0));
    Ok(match (number("application_id")?, number("user_version")?) {
        (APPLICATION_ID, OLDEST_SCHEMA..=SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, version) => Err(other_schema(path, version, SCHEMA_VERSION)),
        _ => Err(not_a_store(path)),
    })
}

/// Creates the tables in a new file, or upgrades those of an older file.
pub fn create(path: &Path, connection: &Connection) -> rusqlite::Result<Result<(), StoreError>> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |r| r.get::<_, i32>(0));
    // Without a transaction, which would wait for other processes' transactions.
    if (number("application_id")?, number("user_version")?) == (APPLICATION_ID, SCHEMA_VERSION) {
        return Ok(Ok(()));
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let result = match (number("application_id")?, number("user_version")?, tables) {
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(()),
        (0, 0, 0) => {
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            connection.execute_batch(SCHEMA)?;
            Ok(())
        }
        (APPLICATION_ID, version @ OLDEST_SCHEMA..SCHEMA_VERSION, _) => {
            let steps = &UPGRADES[(version - OLDEST_SCHEMA) as usize..];
            steps.iter().try_for_each(|step| connection.execute_batch(step))?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            Ok(())
        }
        (APPLICATION_ID, version, _) => Err(other_schema(path, version, SCHEMA_VERSION)),
        _ => Err(not_a_store(path)),
    };
    connection.execute_batch("COMMIT")?;
    Ok(result)
}
