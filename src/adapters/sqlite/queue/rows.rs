//! The rows behind the embedded queue: what a send, a look and a redrive do inside the file.

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
use crate::adapters::sqlite::store::state;
use crate::core::model::TraceContext;
use crate::core::model::{
    BROKEN, InvalidId, ItemId, MacCheck, MacKeys, MacState, Order, OrderId, OrderKey, Quantity,
    Timestamp, UserId,
};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::queue::{QueuePosition, Sent};

/// What one look at the file found.
#[derive(Default)]
pub struct Look {
    pub rows: Vec<Waiting>,
    /// Items with waiting orders that nobody has claimed.
    pub unclaimed: Vec<i64>,
    /// There was more than was asked for.
    pub more: bool,
}

/// A waiting row, as the order it is or the letter it has to become.
pub struct Waiting {
    pub place: i64,
    pub order: Result<Order, DeadLetter>,
}

/// The keys under which rows are written, and checked if they are from before.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub mac: MacKeys,
    pub old: OrderKey,
}

/// None where more are decided than came: somebody took decisions back, which the audit reports.
pub fn waiting(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT max(0, accepted - decided - dead_lettered) FROM counts")?
        .query_row([], |row| row.get(0))
}

/// When the oldest waiting order was accepted, by a look at the head of each line, of the first
/// `items_max`.
pub fn oldest(connection: &Connection, items_max: usize) -> rusqlite::Result<Option<Timestamp>> {
    let mut next = connection.prepare_cached(
        "SELECT place, accepted_at FROM orders INDEXED BY waiting
         WHERE state = 10 AND place > ? ORDER BY place LIMIT 1",
    )?;
    let (mut place, mut oldest) = (0, None::<Timestamp>);
    for _ in 0..items_max {
        let head =
            next.query_row([place], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let Some((at, accepted_at)) = head.optional()? else { break };
        // A row with a time that flux never writes is on its way to the dead letters.
        if let Ok(accepted_at) = u64::try_from(accepted_at).map(Timestamp) {
            oldest = Some(oldest.map_or(accepted_at, |oldest| oldest.min(accepted_at)));
        }
        let no = at >> 32;
        place = ((no + 1) << 32) - 1;
    }
    Ok(oldest)
}

/// What became of a batch.
pub struct Inserted {
    /// In the order of the batch.
    pub sent: Vec<Sent>,
    /// The new rows.
    pub rows: Vec<(i64, Order)>,
}

/// Inserts a batch whole, or answers how many orders wait when there is no room for it.
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
        let first = row.last_place()?;
        let mut place = first;
        for (index, order) in orders {
            if orders::insert(tx, keys, place + 1, &order, true)? {
                place += 1;
                rows.push((place, order));
            } else {
                sent[index] = compare(tx, &order)?;
            }
        }
        row.add_arrivals(place - first)?;
        row.save(tx, keys, &mut counts)?;
    }
    counts.accepted += rows.len() as i64;
    counts.save(tx, keys)?;
    Ok(Ok(Inserted { sent, rows }))
}

/// What to say of an order whose id is known.
fn compare(tx: &Connection, order: &Order) -> rusqlite::Result<Sent> {
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

/// Walks from item to item, beginning behind item `start`: reads on where an item is mine, notes
/// it where it is nobody's: claimed until no later than the first of `free`, or later than the
/// second. An item gets at most a quarter of `max`, so that a hot one leaves room for the others.
pub fn look(
    connection: &Connection,
    mine: &HashMap<i64, i64>,
    free: (Timestamp, Timestamp),
    max: usize,
    start: i64,
) -> rusqlite::Result<Look> {
    let mut found = Look::default();
    let middle = ((start + 1) << 32) - 1;
    walk(connection, mine, free, max, (middle, i64::MAX), &mut found)?;
    walk(connection, mine, free, max, (0, middle), &mut found)?;
    Ok(found)
}

fn walk(
    connection: &Connection,
    mine: &HashMap<i64, i64>,
    free: (Timestamp, Timestamp),
    max: usize,
    (mut place, end): (i64, i64),
    found: &mut Look,
) -> rusqlite::Result<()> {
    let mut next = connection.prepare_cached(
        "SELECT place FROM orders INDEXED BY waiting WHERE state = 10 AND place > ? AND place <= ?
         ORDER BY place LIMIT 1",
    )?;
    let mut is_free = connection
        .prepare_cached("SELECT claimed_until <= ? OR claimed_until > ? FROM items WHERE no = ?")?;
    while found.rows.len() < max && found.unclaimed.len() < max {
        let at = next.query_row([place, end], |row| row.get::<_, i64>(0)).optional()?;
        let Some(no) = at.map(|at| at >> 32) else { break };
        place = ((no + 1) << 32) - 1;
        if let Some(cursor) = mine.get(&no) {
            let share = (max / 4).max(1).min(max - found.rows.len());
            let before = found.rows.len();
            read_item(connection, no, *cursor, share, &mut found.rows)?;
            found.more |= found.rows.len() - before == share;
        } else {
            // Orders whose item's row is gone wait without holding up the others; the audit says so.
            let known = is_free.query_row(params![free.0.0, free.1.0, no], |row| row.get(0));
            if known.optional()?.unwrap_or(false) {
                found.unclaimed.push(no);
            }
        }
    }
    found.more |= found.rows.len() >= max || found.unclaimed.len() >= max;
    Ok(())
}

fn read_item(
    connection: &Connection,
    no: i64,
    cursor: i64,
    max: usize,
    found: &mut Vec<Waiting>,
) -> rusqlite::Result<()> {
    let item: Option<String> = connection
        .prepare_cached("SELECT id FROM items WHERE no = ?")?
        .query_row([no], |row| row.get(0))
        .optional()?;
    let Some(item) = item else { return Ok(()) };
    let item = ItemId::parse(&item);
    let mut orders = connection.prepare_cached(
        "SELECT place, id, user, quantity, accepted_at, trace FROM orders INDEXED BY waiting
         WHERE state = 10 AND place > ? AND place < ? ORDER BY place LIMIT ?",
    )?;
    let mut rows = orders.query(params![cursor, (no + 1) << 32, max as i64])?;
    while let Some(row) = rows.next()? {
        // A row without a name cannot even be dead-lettered; the audit says so.
        let Ok(id) = row.get(1).map(OrderId::from_bytes) else { continue };
        let trace = row.get_ref(5)?.as_blob().ok().and_then(TraceContext::from_bytes);
        let order = waiting_order(row, id, &item, trace.clone()).map_err(|why| {
            let text = |column| row.get::<_, Value>(column).map_or(Json::Null, readable);
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
        found.push(Waiting { place: row.get(0)?, order });
    }
    Ok(())
}

/// Reads `place, id, user, quantity, accepted_at`. What flux never writes is refused.
fn waiting_order(
    row: &Row<'_>,
    id: OrderId,
    item: &Result<ItemId, InvalidId>,
    trace: Option<TraceContext>,
) -> Result<Order, InvalidId> {
    let user = row.get::<_, String>(2).map_err(|_| InvalidId("user_id is no text"))?;
    let units = row.get(3).map_err(|_| InvalidId("quantity is no whole number from 1 to 100"))?;
    let accepted_at = row.get(4).map_err(|_| InvalidId("accepted_at is no time"))?;
    Ok(Order {
        id,
        user: UserId::parse(&user)?,
        item: item.clone()?,
        quantity: Quantity::new(units)?,
        accepted_at: Timestamp(accepted_at),
        trace: trace.map(Box::new),
    })
}

/// A value for a dead letter's body.
fn readable(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(number) => number.into(),
        Value::Real(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => String::from_utf8_lossy(&bytes).into(),
    }
}

/// Where an order stands in its item's line: places count up from 1 behind the item's number.
pub fn line(connection: &Connection, order: OrderId) -> rusqlite::Result<Option<QueuePosition>> {
    let place = connection
        .prepare_cached("SELECT place FROM orders WHERE id = ? AND state = 10")?
        .query_row([order.as_bytes()], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(place) = place else { return Ok(None) };
    let before_first = place >> 32 << 32;
    let head: i64 = connection
        .prepare_cached(
            "SELECT place FROM orders INDEXED BY waiting WHERE state = 10 AND place > ?
             ORDER BY place LIMIT 1",
        )?
        .query_row([before_first], |row| row.get(0))?;
    let (ahead, passed) = ((place - head) as u64, (head - before_first - 1) as u64);
    Ok(Some(QueuePosition { ahead, passed }))
}

/// Writes the letter, and that the order is dead-lettered if it waits.
pub fn dead_letter(tx: &Connection, keys: &Keys, letter: &DeadLetter) -> rusqlite::Result<()> {
    let mut counts = Counts::read(tx, &keys.mac)?;
    let id = letter.order_id;
    if let Some((place, state::QUEUED)) = place_and_state(tx, id)? {
        let mac = match OrderRow::find(tx, &id) {
            Ok(Some(row)) => {
                let check = row.check(&keys.mac, &keys.old);
                check.carry_on(|| row.mac(&keys.mac, MacState::DeadLettered))
            }
            // Somebody else changed the row to what no order is.
            _ => BROKEN,
        };
        tx.prepare_cached("UPDATE orders SET state = ?, seal = ? WHERE place = ?")?
            .execute(params![state::DEAD_LETTERED, mac, place])?;
        counts.dead += 1;
        if let Some(mut item) = ItemRow::numbered(tx, &keys.mac, place >> 32)? {
            item.add_dead(1)?;
            item.save(tx, &keys.mac, &mut counts)?;
        }
    }
    let row = LetterRow { order: id, reason: &letter.reason, body: &letter.body, at: letter.at };
    row.save(tx, &keys.mac, &mut counts)?;
    counts.save(tx, &keys.mac)
}

pub fn place_and_state(tx: &Connection, id: OrderId) -> rusqlite::Result<Option<(i64, i64)>> {
    tx.prepare_cached("SELECT place, state FROM orders WHERE id = ?")?
        .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Queues a dead-lettered order again, as a new arrival. `false` when its letter is gone, or goes
/// because the order has its decision.
pub fn redrive(tx: &Connection, keys: &Keys, order: &Order) -> rusqlite::Result<bool> {
    let mac = &keys.mac;
    let mut counts = Counts::read(tx, mac)?;
    let Some(letter) = dead_letters::remove(tx, mac, &mut counts, order.id)? else {
        return Ok(false);
    };
    if let Some((_, found)) = place_and_state(tx, order.id)?
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
        Some(no) => {
            counts.dead -= 1;
            if let Some(mut item) = ItemRow::numbered(tx, mac, no)? {
                item.add_dead(-1)?;
                item.add_moved(1)?;
                item.save(tx, mac, &mut counts)?;
            }
        }
    }
    let mut item = ItemRow::find_or_insert(tx, mac, order.item.as_str())?;
    item.add_arrivals(1)?;
    orders::insert(tx, mac, item.last_place()?, order, sound)?;
    item.save(tx, mac, &mut counts)?;
    counts.save(tx, mac)?;
    Ok(true)
}

/// Whether there was one.
pub fn drop_letter(tx: &Connection, keys: &Keys, order: OrderId) -> rusqlite::Result<bool> {
    let mut counts = Counts::read(tx, &keys.mac)?;
    let was_there = dead_letters::remove(tx, &keys.mac, &mut counts, order)?.is_some();
    counts.save(tx, &keys.mac)?;
    Ok(was_there)
}
