//! The dead letters of the embedded queue: a table, oldest first.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::dropped;
use super::rows;
use super::rows::Keys;
use crate::adapters::sqlite::store::Store;
use crate::core::model::{Clock, OrderId, Timestamp};
use crate::core::ports::dead_letters::{
    Became, DeadLetter, LetterPlace, LetterVisitor, Letters, Wish,
};
use crate::core::ports::queue::QueueError;

/// Letters read, or written, in one go.
const PAGE: usize = 500;
const LETTER: &str = "SELECT order_id, reason, body, at FROM dead_letters";

/// See `Queue::walk_letters`. Meets all there are, in pages; one that is written meanwhile may be
/// met too.
pub async fn walk(
    store: &Store,
    keys: Keys,
    clock: &dyn Clock,
    letters: &Letters,
    visitor: &mut dyn LetterVisitor,
) -> Result<bool, QueueError> {
    let (mut place, mut ids) = match letters {
        Letters::After(place) => (*place, None),
        Letters::These(orders) => (None, Some(orders.as_slice())),
    };
    loop {
        let Some(most) = visitor.more().await else { return Ok(true) };
        let most = most.clamp(1, PAGE);
        let page = match &mut ids {
            Some([]) => return Ok(false),
            Some(left) => {
                let now;
                (now, *left) = left.split_at(most.min(left.len()));
                let now = now.to_vec();
                store.read(move |c| these(c, &now)).await?
            }
            None => store.read(move |c| behind(c, place, most)).await?,
        };
        if ids.is_none() {
            match page.last() {
                Some(last) => place = Some(last.place()),
                None => return Ok(false),
            }
        }
        let wishes = visitor.judge(&page).await?;
        let work: Vec<(OrderId, Wish)> =
            page.iter().map(|letter| letter.order_id).zip(wishes).collect();
        do_all(store, keys, clock.now(), work, visitor).await?;
    }
}

fn these(connection: &Connection, orders: &[OrderId]) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut find = connection.prepare_cached(&format!("{LETTER} WHERE order_id = ?"))?;
    let found = orders.iter().map(|id| find.query_row([id.as_bytes()], letter).optional());
    Ok(found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn behind(
    connection: &Connection,
    place: Option<LetterPlace>,
    most: usize,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let (at, id) = place.map_or((-1, [0; 16]), |(at, id)| (at.0 as i64, *id.as_bytes()));
    let sql = format!("{LETTER} WHERE (at, order_id) > (?, ?) ORDER BY at, order_id LIMIT ?");
    let mut page = connection.prepare_cached(&sql)?;
    page.query_map(params![at, id, most as i64], letter)?.collect()
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        order_id: OrderId::from_bytes(row.get(0)?),
        reason: row.get(1)?,
        body: row.get(2)?,
        at: Timestamp(row.get(3)?),
    })
}

/// All in one transaction, or none.
async fn do_all(
    store: &Store,
    keys: Keys,
    now: Timestamp,
    mut work: Vec<(OrderId, Wish)>,
    visitor: &mut dyn LetterVisitor,
) -> Result<(), QueueError> {
    work.retain(|(_, wish)| *wish != Wish::Keep);
    if work.is_empty() {
        return Ok(());
    }
    let orders: Vec<OrderId> = work.iter().map(|(id, _)| *id).collect();
    let write = move |tx: &Connection| {
        let done = work.iter().map(|(id, wish)| do_one(tx, &keys, now, *id, wish));
        done.collect::<rusqlite::Result<Vec<_>>>()
    };
    match store.write(write).await {
        Ok(became) => {
            orders.into_iter().zip(became).for_each(|(id, became)| visitor.became(id, became));
            Ok(())
        }
        Err(e) => {
            let failed = QueueError::from(e);
            orders.into_iter().for_each(|id| visitor.became(id, Became::Failed(failed.clone())));
            Err(failed)
        }
    }
}

fn do_one(
    tx: &Connection,
    keys: &Keys,
    now: Timestamp,
    id: OrderId,
    wish: &Wish,
) -> rusqlite::Result<Became> {
    match wish {
        Wish::Keep => Ok(Became::Gone),
        Wish::Drop => match rows::drop_letter(tx, keys, id)? {
            true => Ok(Became::Dropped(dropped::decide(tx, keys, id, now)?)),
            false => Ok(Became::Gone),
        },
        Wish::Send(order) => match rows::redrive(tx, keys, order)? {
            true => Ok(Became::Sent),
            false => Ok(Became::Gone),
        },
    }
}
