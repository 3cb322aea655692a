//! The triggers, views and indexes in the file, and which of them flux created.
//!
//! A trigger runs inside flux's transactions, so a foreign trigger could change what flux writes. A
//! file with one is not served. flux recognises its own triggers by their SQL text.

use rusqlite::Connection;

use super::state;
use crate::core::model::Decision;

/// Indexes that flux depends on: without the first, an order could be accepted twice.
const INDEXES: [(&str, &str); 4] = [
    ("order_ids", "CREATE UNIQUE INDEX order_ids ON orders (id)"),
    ("waiting", "CREATE INDEX waiting ON orders (place) WHERE state = 10"),
    ("dead_letters_by_age", "CREATE INDEX dead_letters_by_age ON dead_letters (at, order_id)"),
    ("unlisted_items", "CREATE INDEX unlisted_items ON items (id) WHERE listing = 1"),
];

pub const WEBHOOKS_PUT: &str = "webhooks_put";
const WEBHOOKS_TAKE_BACK: &str = "webhooks_take_back";

/// The triggers that write an event into the outbox for each decision that is `wanted`. The second
/// one removes the event of a decision that is undone in the same transaction.
pub fn webhook_triggers(wanted: impl Fn(Decision) -> bool) -> [String; 2] {
    let wanted = Decision::all().filter(|decision| wanted(*decision));
    let codes = wanted.map(|decision| state::of(decision).to_string());
    [put_trigger(&codes.collect::<Vec<_>>().join(", ")), take_back_trigger()]
}

fn put_trigger(codes: &str) -> String {
    format!(
        "CREATE TRIGGER {WEBHOOKS_PUT} AFTER UPDATE OF state ON orders WHEN new.state IN ({codes}) \
         BEGIN INSERT OR IGNORE INTO webhooks (place, due) VALUES (new.place, new.decided_at); END"
    )
}

fn take_back_trigger() -> String {
    format!(
        "CREATE TRIGGER {WEBHOOKS_TAKE_BACK} AFTER UPDATE OF state ON orders WHEN new.state = {} \
         BEGIN DELETE FROM webhooks WHERE place = new.place; END",
        state::QUEUED
    )
}

/// Whether this or an earlier version of flux creates this trigger.
fn is_own(sql: &str) -> bool {
    if sql == take_back_trigger() {
        return true;
    }
    let codes = sql.split_once(" IN (").and_then(|(_, rest)| rest.split_once(')'));
    codes.is_some_and(|(codes, _)| {
        let known = |code: &str| code.parse().ok().and_then(state::decision).is_some();
        codes.split(", ").all(known) && sql == put_trigger(codes)
    })
}

/// Triggers that flux did not create, each as a finding that says how to remove it.
pub fn foreign_triggers(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    foreign(connection, "trigger")
}

/// Views, as findings: flux creates none.
pub fn foreign_views(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    foreign(connection, "view")
}

fn foreign(connection: &Connection, kind: &str) -> rusqlite::Result<Vec<String>> {
    let find = "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = ? ORDER BY name";
    let mut find = connection.prepare_cached(find)?;
    let rows = find.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    let foreign = rows.iter().filter(|(_, sql)| !is_own(sql)).map(|(name, _)| {
        let drop = format!("DROP {} \"{}\"", kind.to_uppercase(), name.replace('"', "\"\""));
        let what = format!("the {kind} {name} was not created by flux: remove it with {drop}");
        what.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
    });
    Ok(foreign.collect())
}

/// Indexes of flux that are missing or changed, as findings.
pub fn missing(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let find = "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND name = ? AND sql = ?";
    let mut find = connection.prepare_cached(find)?;
    let mut missing = Vec::new();
    for (name, sql) in INDEXES {
        if find.query_row([name, sql], |row| row.get::<_, i64>(0))? == 0 {
            missing.push(format!("the index {name} is missing or changed: restore a backup"));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_triggers_are_recognised() {
        for kept in [|_| true, |decision: Decision| decision == Decision::Sold] {
            assert!(webhook_triggers(kept).iter().all(|sql| is_own(sql)));
        }
        let [put, _] = webhook_triggers(|_| true);
        assert!(is_own(&put_trigger("20, 21, 22, 23, 24")), "from before `closed`");
        assert!(is_own(&put_trigger("21, 22, 23, 25, 20, 24")), "from before `dropped`");
        for foreign in [
            put.replace("BEGIN ", "BEGIN DELETE FROM orders; "),
            put.replace("21", "77"),
            put.replace("21", "20) OR 1 IN (21"),
            put.replace("new.place, ", "new.place + 1, "),
            format!("{put}; "),
        ] {
            assert!(!is_own(&foreign), "{foreign}");
        }
    }
}
