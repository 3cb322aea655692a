//! The rows behind the embedded queue: what a send, a look and a redrive do inside the file.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{DeadLetter, Line, Sent};
use crate::core::connection::sqlite::{item_no, state, take_places};
use crate::core::order::{InvalidId, ItemId, Order, OrderId, Quantity, Timestamp, UserId};
use crate::core::trace::TraceContext;

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

pub fn waiting(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT accepted - decided - dead FROM totals")?
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
        let accepted_at = Timestamp(u64::try_from(accepted_at).unwrap_or(0));
        oldest = Some(oldest.map_or(accepted_at, |oldest| oldest.min(accepted_at)));
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
    orders: Vec<Order>,
    backlog_max: u64,
) -> rusqlite::Result<Result<Inserted, u64>> {
    let waiting = waiting(tx)?;
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
        let no = item_no(tx, item.as_str())?;
        let first = take_places(tx, no, 0)?;
        let mut place = first;
        for (index, order) in orders {
            if insert_order(tx, place + 1, &order)? {
                place += 1;
                rows.push((place, order));
            } else {
                sent[index] = compare(tx, &order)?;
            }
        }
        take_places(tx, no, place - first)?;
    }
    tx.prepare_cached("UPDATE totals SET accepted = accepted + ?")?.execute([rows.len() as i64])?;
    Ok(Ok(Inserted { sent, rows }))
}

fn insert_order(tx: &Connection, place: i64, order: &Order) -> rusqlite::Result<bool> {
    let inserted = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?, 10, ?, zeroblob(8), ?)",
        )?
        .execute(params![
            place,
            order.id.as_bytes(),
            order.user.as_str(),
            order.quantity.units(),
            order.accepted_at.0,
            order.accepted_at.0,
            order.trace.as_ref().map(|trace| trace.to_bytes())
        ])?;
    Ok(inserted == 1)
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
        let (place, user, quantity) = (row.get(0)?, row.get_ref(2)?, row.get::<_, i64>(3)?);
        // A row without a name cannot even be dead-lettered; the audit says so.
        let Ok(id) = row.get(1).map(OrderId::from_bytes) else { continue };
        let at = Timestamp(u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0));
        let user = String::from_utf8_lossy(user.as_bytes().unwrap_or_default());
        let trace = row.get_ref(5)?.as_blob().ok().and_then(TraceContext::from_bytes);
        let checked = || -> Result<Order, InvalidId> {
            Ok(Order {
                id,
                user: UserId::parse(&user)?,
                item: item.clone()?,
                quantity: Quantity::new(u64::try_from(quantity).unwrap_or(0))?,
                accepted_at: at,
                trace: trace.clone().map(Box::new),
            })
        };
        let order = checked().map_err(|e| {
            let item = item.as_ref().map_or("", ItemId::as_str);
            let mut body = serde_json::json!({"user_id": user, "item_id": item,
                "quantity": quantity, "order_id": id});
            if let Some(trace) = &trace {
                body["traceparent"] = trace.to_string().into();
                body["tracestate"] = trace.state().into();
            }
            DeadLetter { order_id: id, reason: e.to_string(), body: body.to_string(), at }
        });
        found.push(Waiting { place, order });
    }
    Ok(())
}

/// Where an order stands in its item's line: places count up from 1 behind the item's number.
pub fn line(connection: &Connection, order: OrderId) -> rusqlite::Result<Option<Line>> {
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
    Ok(Some(Line { ahead, passed }))
}

pub fn bury(tx: &Connection, letter: &DeadLetter) -> rusqlite::Result<()> {
    let id = letter.order_id.as_bytes();
    let buried = tx
        .prepare_cached("UPDATE orders SET state = ? WHERE id = ? AND state = 10")?
        .execute(params![state::DEAD_LETTERED, id])?;
    tx.prepare_cached("UPDATE totals SET dead = dead + ?")?.execute([buried as i64])?;
    tx.prepare_cached("INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?, ?)")?
        .execute(params![id, letter.reason, letter.body, letter.at.0])?;
    Ok(())
}

/// Queues a dead-lettered order again, as a new arrival; `false` when its letter is gone.
pub fn redrive(tx: &Connection, order: &Order) -> rusqlite::Result<bool> {
    let id = order.id.as_bytes();
    if !drop_letter(tx, order.id)? {
        return Ok(false);
    }
    let old = tx
        .prepare_cached("DELETE FROM orders WHERE id = ? AND state = ? RETURNING place >> 32")?
        .query_row(params![id, state::DEAD_LETTERED], |row| row.get::<_, i64>(0))
        .optional()?;
    let (accepted, dead) = if old.is_some() { (0, 1) } else { (1, 0) };
    tx.prepare_cached("UPDATE items SET moved = moved + 1 WHERE no = ?")?.execute([old])?;
    let place = take_places(tx, item_no(tx, order.item.as_str())?, 1)?;
    insert_order(tx, place, order)?;
    tx.prepare_cached("UPDATE totals SET accepted = accepted + ?, dead = dead - ?")?
        .execute([accepted, dead])?;
    Ok(true)
}

/// Whether there was one.
pub fn drop_letter(tx: &Connection, order: OrderId) -> rusqlite::Result<bool> {
    let mut drop = tx.prepare_cached("DELETE FROM dead_letters WHERE order_id = ?")?;
    Ok(drop.execute([order.as_bytes()])? > 0)
}
