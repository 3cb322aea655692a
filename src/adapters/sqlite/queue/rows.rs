//! The transactions of the embedded queue: sending, polling, dead-lettering and redriving orders.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value as Json;

use crate::adapters::sqlite::store::counts::Counts;
use crate::adapters::sqlite::store::dead_letters;
use crate::adapters::sqlite::store::dead_letters::LetterRow;
use crate::adapters::sqlite::store::items::ItemRow;
use crate::adapters::sqlite::store::orders;
use crate::adapters::sqlite::store::orders::OrderRow;
use crate::adapters::sqlite::store::{seq, state};
use crate::core::model::{
    BROKEN, InvalidId, ItemId, MacCheck, MacKeys, MacState, Order, OrderId, OrderKey, Quantity,
    Timestamp, TraceContext, UserId,
};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::queue::{QueuePosition, Sent};

/// The result of one poll of the file.
#[derive(Default)]
pub struct Poll {
    /// Queued orders of the items that this receiver has claimed.
    pub rows: Vec<QueuedRow>,
    /// Keys of items with queued orders that nobody has claimed.
    pub unclaimed: Vec<i64>,
    /// True if the poll ended at a limit, so there may be more.
    pub has_more: bool,
}

/// A queued row: its order, or the dead letter that it becomes because it cannot be read.
pub struct QueuedRow {
    pub seq: i64,
    pub order: Result<Order, DeadLetter>,
}

/// What a poll looks for.
pub struct PollRequest {
    /// Items that this receiver has claimed, with the cursor of each.
    pub claimed: HashMap<i64, i64>,
    /// A claim that ends at this time or earlier is over.
    pub now: Timestamp,
    /// A claim that ends later than this is invalid, see [`super::claims::latest_claim_end`].
    pub latest_claim_end: Timestamp,
    /// Limit for the rows, and for the unclaimed items.
    pub max: usize,
    /// The item at which the last poll ended: this one begins after it.
    pub after_item: i64,
}

/// The keys of the MACs, and the key for rows from before MACs.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub mac: MacKeys,
    pub old: OrderKey,
}

/// Number of undecided orders. It is 0 if more were decided than accepted: then somebody else
/// changed the file, which the audit reports.
pub fn count_waiting(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT max(0, accepted - decided - dead_lettered) FROM counts")?
        .query_row([], |row| row.get(0))
}

/// When the oldest queued order was accepted. Reads the first queued order of each item, for
/// `items_max` items at most.
pub fn oldest(connection: &Connection, items_max: usize) -> rusqlite::Result<Option<Timestamp>> {
    let mut next = connection.prepare_cached(
        "SELECT place, accepted_at FROM orders INDEXED BY waiting
         WHERE state = 10 AND place > ? ORDER BY place LIMIT 1",
    )?;
    let mut after = 0;
    let mut oldest = None::<Timestamp>;
    for _ in 0..items_max {
        let head =
            next.query_row([after], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let Some((seq, accepted_at)) = head.optional()? else { break };
        // A row with a time that flux never writes will be dead-lettered.
        if let Ok(accepted_at) = u64::try_from(accepted_at).map(Timestamp) {
            oldest = Some(oldest.map_or(accepted_at, |oldest| oldest.min(accepted_at)));
        }
        after = seq::highest(seq::item_key(seq));
    }
    Ok(oldest)
}

/// The result of inserting a batch.
pub struct Inserted {
    /// One for each order, in the order of the batch.
    pub sent: Vec<Sent>,
    /// The new rows: sequence number and order.
    pub rows: Vec<(i64, Order)>,
}

/// Inserts the whole batch. If the backlog has no room for it, inserts nothing, and the inner error
/// is the number of waiting orders.
pub fn insert(
    tx: &Connection,
    keys: &MacKeys,
    orders: Vec<Order>,
    backlog_max: u64,
) -> rusqlite::Result<Result<Inserted, u64>> {
    let mut counts = Counts::read(tx, keys)?;
    let waiting = counts.waiting();
    if waiting + orders.len() as u64 > backlog_max {
        return Ok(Err(waiting));
    }
    let mut sent = vec![Sent::Queued; orders.len()];
    let mut rows = Vec::with_capacity(orders.len());
    let mut by_item: HashMap<ItemId, Vec<(usize, Order)>> = HashMap::new();
    for (index, order) in orders.into_iter().enumerate() {
        by_item.entry(order.item.clone()).or_default().push((index, order));
    }
    for (item, orders) in by_item {
        let mut row = ItemRow::find_or_insert(tx, keys, item.as_str())?;
        let first = row.last_seq()?;
        let mut seq = first;
        for (index, order) in orders {
            if orders::insert(tx, keys, seq + 1, &order, true)? {
                seq += 1;
                rows.push((seq, order));
            } else {
                sent[index] = compare_existing(tx, &order)?;
            }
        }
        row.add_arrivals(seq - first)?;
        row.save(tx, keys, &mut counts)?;
    }
    counts.accepted += rows.len() as i64;
    counts.save(tx, keys)?;
    Ok(Ok(Inserted { sent, rows }))
}

/// The result for an order whose id exists: the order is either a repeat, or another order under the
/// same idempotency key.
fn compare_existing(tx: &Connection, order: &Order) -> rusqlite::Result<Sent> {
    let same: bool = tx
        .prepare_cached(
            "SELECT user = ? AND quantity = ? AND place >> 32 = (SELECT no FROM items WHERE id = ?)
             FROM orders WHERE id = ?",
        )?
        .query_row(
            params![
                order.user.as_str(),
                order.quantity.units(),
                order.item.as_str(),
                order.id.as_bytes()
            ],
            |row| row.get(0),
        )?;
    Ok(if same { Sent::Queued } else { Sent::KeyReused })
}

/// Finds queued orders of claimed items, and unclaimed items with queued orders. Begins after
/// `after_item` and wraps around, so that every item is reached.
pub fn poll(connection: &Connection, request: &PollRequest) -> rusqlite::Result<Poll> {
    let mut found = Poll::default();
    let middle = seq::highest(request.after_item);
    walk(connection, request, middle, i64::MAX, &mut found)?;
    walk(connection, request, 0, middle, &mut found)?;
    Ok(found)
}

/// Walks over the items with queued orders whose sequence numbers are in `after + 1..=last`.
///
/// Each step seeks the next entry in the partial index `waiting` and then skips the rest of that
/// item, so the cost is one seek per item, however many orders wait. An item contributes at most a
/// quarter of `max`, which leaves room for other items when one of them is in high demand.
///
/// All of it reads one snapshot. Another process may claim an item after the snapshot was taken;
/// that does no harm, because claiming checks again inside a write transaction. A claim of this
/// receiver may have ended as well; then two receivers deliver the same orders, and the ledger
/// refuses the second decision.
fn walk(
    connection: &Connection,
    request: &PollRequest,
    mut after: i64,
    last: i64,
    found: &mut Poll,
) -> rusqlite::Result<()> {
    let max = request.max;
    let mut next = connection.prepare_cached(
        "SELECT place FROM orders INDEXED BY waiting WHERE state = 10 AND place > ? AND place <= ?
         ORDER BY place LIMIT 1",
    )?;
    let mut is_free = connection
        .prepare_cached("SELECT claimed_until <= ? OR claimed_until > ? FROM items WHERE no = ?")?;
    while found.rows.len() < max && found.unclaimed.len() < max {
        let seq = next.query_row([after, last], |row| row.get::<_, i64>(0)).optional()?;
        let Some(item_key) = seq.map(seq::item_key) else { break };
        after = seq::highest(item_key);
        if let Some(cursor) = request.claimed.get(&item_key) {
            let share = (max / 4).max(1).min(max - found.rows.len());
            let before = found.rows.len();
            read_item(connection, item_key, *cursor, share, &mut found.rows)?;
            found.has_more |= found.rows.len() - before == share;
        } else {
            // Orders whose item has no row stay queued, and do not block others. The audit reports
            // them.
            let values = params![request.now.0, request.latest_claim_end.0, item_key];
            let is_free = is_free.query_row(values, |row| row.get(0)).optional()?;
            if is_free.unwrap_or(false) {
                found.unclaimed.push(item_key);
            }
        }
    }
    found.has_more |= found.rows.len() >= max || found.unclaimed.len() >= max;
    Ok(())
}

fn read_item(
    connection: &Connection,
    item_key: i64,
    cursor: i64,
    max: usize,
    found: &mut Vec<QueuedRow>,
) -> rusqlite::Result<()> {
    let item: Option<String> = connection
        .prepare_cached("SELECT id FROM items WHERE no = ?")?
        .query_row([item_key], |row| row.get(0))
        .optional()?;
    let Some(item) = item else { return Ok(()) };
    let item = ItemId::parse(&item);
    let mut orders = connection.prepare_cached(
        "SELECT place, id, user, quantity, accepted_at, trace FROM orders INDEXED BY waiting
         WHERE state = 10 AND place > ? AND place <= ? ORDER BY place LIMIT ?",
    )?;
    let mut rows = orders.query(params![cursor, seq::highest(item_key), max as i64])?;
    while let Some(row) = rows.next()? {
        // A row without a valid id cannot even be dead-lettered. The audit reports it.
        let Ok(id) = row.get(1).map(OrderId::from_bytes) else { continue };
        let trace = row.get_ref(5)?.as_blob().ok().and_then(TraceContext::from_bytes);
        let order = queued_order(row, id, &item, trace.clone()).map_err(|why| {
            let text = |column| row.get::<_, Value>(column).map_or(Json::Null, to_json);
            let item = item.as_ref().map_or("", ItemId::as_str);
            let mut body = serde_json::json!({"user_id": text(2), "item_id": item,
                "quantity": text(3), "order_id": id});
            if let Some(trace) = &trace {
                body["traceparent"] = trace.to_string().into();
                body["tracestate"] = trace.state().into();
            }
            let at = Timestamp(row.get(4).unwrap_or_default());
            DeadLetter { order_id: id, reason: why.0.to_owned(), body: body.to_string(), at }
        });
        found.push(QueuedRow { seq: row.get(0)?, order });
    }
    Ok(())
}

/// Reads `place, id, user, quantity, accepted_at`. Values that flux never writes are refused.
fn queued_order(
    row: &Row<'_>,
    id: OrderId,
    item: &Result<ItemId, InvalidId>,
    trace: Option<TraceContext>,
) -> Result<Order, InvalidId> {
    let user = row.get::<_, String>(2).map_err(|_| InvalidId("user_id is not a text"))?;
    let units =
        row.get(3).map_err(|_| InvalidId("quantity is not a whole number from 1 to 100"))?;
    let accepted_at = row.get(4).map_err(|_| InvalidId("accepted_at is not a time"))?;
    Ok(Order {
        id,
        user: UserId::parse(&user)?,
        item: item.clone()?,
        quantity: Quantity::new(units)?,
        accepted_at: Timestamp(accepted_at),
        trace: trace.map(Box::new),
    })
}

/// The value for the body of a dead letter.
fn to_json(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(number) => number.into(),
        Value::Real(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => String::from_utf8_lossy(&bytes).into(),
    }
}

/// The position of a queued order among the orders of its item.
pub fn position(
    connection: &Connection,
    order: OrderId,
) -> rusqlite::Result<Option<QueuePosition>> {
    let seq = connection
        .prepare_cached("SELECT place FROM orders WHERE id = ? AND state = 10")?
        .query_row([order.as_bytes()], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(seq) = seq else { return Ok(None) };
    let before_first = seq::of_arrival(seq::item_key(seq), 0);
    let head: i64 = connection
        .prepare_cached(
            "SELECT place FROM orders INDEXED BY waiting WHERE state = 10 AND place > ?
             ORDER BY place LIMIT 1",
        )?
        .query_row([before_first], |row| row.get(0))?;
    let ahead = (seq - head) as u64;
    let passed = (head - before_first - 1) as u64;
    Ok(Some(QueuePosition { ahead, passed }))
}

/// Writes the dead letter and, if the order is queued, marks the order as dead-lettered.
pub fn dead_letter(tx: &Connection, keys: &Keys, letter: &DeadLetter) -> rusqlite::Result<()> {
    let mut counts = Counts::read(tx, &keys.mac)?;
    let id = letter.order_id;
    if let Some((seq, state::QUEUED)) = seq_and_state(tx, id)? {
        let mac = match OrderRow::find(tx, &id) {
            Ok(Some(row)) => {
                let check = row.check(&keys.mac, &keys.old);
                check.carry_on(|| row.mac(&keys.mac, MacState::DeadLettered))
            }
            // Somebody else changed the row, and it is no valid order any more.
            _ => BROKEN,
        };
        tx.prepare_cached("UPDATE orders SET state = ?, seal = ? WHERE place = ?")?
            .execute(params![state::DEAD_LETTERED, mac, seq])?;
        counts.dead += 1;
        if let Some(mut item) = ItemRow::by_key(tx, &keys.mac, seq::item_key(seq))? {
            item.add_dead(1)?;
            item.save(tx, &keys.mac, &mut counts)?;
        }
    }
    let row = LetterRow { order: id, reason: &letter.reason, body: &letter.body, at: letter.at };
    row.save(tx, &keys.mac, &mut counts)?;
    counts.save(tx, &keys.mac)
}

/// The sequence number and the state code of an order.
pub fn seq_and_state(tx: &Connection, id: OrderId) -> rusqlite::Result<Option<(i64, i64)>> {
    tx.prepare_cached("SELECT place, state FROM orders WHERE id = ?")?
        .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Removes the dead letter and queues its order as a new arrival. Returns `false` if there is no such
/// letter, or if the order is decided already, in which case only the letter is removed.
pub fn redrive(tx: &Connection, keys: &Keys, order: &Order) -> rusqlite::Result<bool> {
    let mac = &keys.mac;
    let mut counts = Counts::read(tx, mac)?;
    let Some(letter) = dead_letters::remove(tx, mac, &mut counts, order.id)? else {
        return Ok(false);
    };
    if let Some((_, found)) = seq_and_state(tx, order.id)?
        && found != state::DEAD_LETTERED
    {
        counts.save(tx, mac)?;
        return Ok(found == state::QUEUED);
    }
    let mut sound = letter != MacCheck::Wrong;
    let old = OrderRow::find(tx, &order.id);
    sound &= old.as_ref().is_ok_and(|row| {
        row.as_ref().is_none_or(|row| row.check(mac, &keys.old) != MacCheck::Wrong)
    });
    let old = tx
        .prepare_cached("DELETE FROM orders WHERE id = ? AND state = ? RETURNING place >> 32")?
        .query_row(params![order.id.as_bytes(), state::DEAD_LETTERED], |row| row.get::<_, i64>(0))
        .optional()?;
    match old {
        None => counts.accepted += 1,
        Some(item_key) => {
            counts.dead -= 1;
            if let Some(mut item) = ItemRow::by_key(tx, mac, item_key)? {
                item.add_dead(-1)?;
                item.add_removed(1)?;
                item.save(tx, mac, &mut counts)?;
            }
        }
    }
    let mut item = ItemRow::find_or_insert(tx, mac, order.item.as_str())?;
    item.add_arrivals(1)?;
    orders::insert(tx, mac, item.last_seq()?, order, sound)?;
    item.save(tx, mac, &mut counts)?;
    counts.save(tx, mac)?;
    Ok(true)
}

/// Removes a dead letter. Returns whether there was one.
pub fn drop_letter(tx: &Connection, keys: &Keys, order: OrderId) -> rusqlite::Result<bool> {
    let mut counts = Counts::read(tx, &keys.mac)?;
    let was_there = dead_letters::remove(tx, &keys.mac, &mut counts, order)?.is_some();
    counts.save(tx, &keys.mac)?;
    Ok(was_there)
}
