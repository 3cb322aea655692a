//! The dead letters of the embedded queue: a table, read oldest first.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::dropped;
use super::rows;
use super::rows::Keys;
use crate::adapters::sqlite::store::Store;
use crate::core::model::{Clock, OrderId, Timestamp};
use crate::core::ports::dead_letters::{
    DeadLetter, DlqCursor, DlqFilter, LetterHandle, LetterPosition, Resolution, Resolved,
};
use crate::core::ports::queue::QueueError;

/// Letters read, or written, in one transaction.
const PAGE: usize = 500;
const LETTER: &str = "SELECT order_id, reason, body, at FROM dead_letters";

/// Returns each letter once; also one written during the pass, if it is behind the last page.
pub struct Cursor<'a> {
    store: &'a Store,
    keys: Keys,
    clock: &'a dyn Clock,
    next: Next,
    /// The orders of the last page.
    page: Vec<OrderId>,
    at_end: bool,
}

/// The letters that are not read yet.
enum Next {
    After(Option<LetterPosition>),
    These(std::vec::IntoIter<OrderId>),
}

impl<'a> Cursor<'a> {
    pub fn new(
        store: &'a Store,
        keys: Keys,
        clock: &'a dyn Clock,
        filter: &DlqFilter,
        after: Option<LetterPosition>,
    ) -> Self {
        let next = match filter {
            DlqFilter::All { .. } => Next::After(after),
            DlqFilter::These(orders) => Next::These(orders.clone().into_iter()),
        };
        Self { store, keys, clock, next, page: Vec::new(), at_end: false }
    }
}

#[async_trait]
impl DlqCursor for Cursor<'_> {
    async fn peek(&mut self, limit: usize) -> Result<Option<Vec<DeadLetter>>, QueueError> {
        let limit = limit.clamp(1, PAGE);
        self.page.clear();
        let letters = match &mut self.next {
            Next::After(position) => {
                let after = *position;
                let letters = self.store.read(move |c| read_after(c, after, limit)).await?;
                let last = letters.last().map(DeadLetter::position);
                self.at_end = last.is_none();
                *position = last.or(after);
                letters
            }
            Next::These(orders) => {
                let wanted: Vec<OrderId> = orders.by_ref().take(limit).collect();
                self.at_end = wanted.is_empty();
                self.store.read(move |c| read_these(c, &wanted)).await?
            }
        };
        self.page.extend(letters.iter().map(|letter| letter.order_id));
        Ok((!self.at_end).then_some(letters))
    }

    /// Resolves all of them in one transaction.
    async fn resolve(
        &mut self,
        work: Vec<(LetterHandle, Resolution)>,
    ) -> Vec<Result<Resolved, QueueError>> {
        let count = work.len();
        let keys = self.keys;
        let now = self.clock.now();
        let orders = self.page.clone();
        let write = move |tx: &Connection| {
            let results = work.iter().map(|(handle, resolution)| match resolution {
                Resolution::Drop => drop_letter(tx, &keys, orders[*handle], now),
                Resolution::Resend(order) => Ok(match rows::redrive(tx, &keys, order)? {
                    true => Resolved::Sent,
                    false => Resolved::Gone,
                }),
            });
            results.collect::<rusqlite::Result<Vec<Resolved>>>()
        };
        match self.store.write(write).await {
            Ok(results) => results.into_iter().map(Ok).collect(),
            Err(e) => vec![Err(QueueError::from(e)); count],
        }
    }

    async fn close(self: Box<Self>) -> bool {
        !self.at_end
    }
}

fn drop_letter(
    tx: &Connection,
    keys: &Keys,
    id: OrderId,
    now: Timestamp,
) -> rusqlite::Result<Resolved> {
    match rows::drop_letter(tx, keys, id)? {
        true => Ok(Resolved::Dropped(dropped::decide(tx, keys, id, now)?)),
        false => Ok(Resolved::Gone),
    }
}

fn read_these(connection: &Connection, orders: &[OrderId]) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut find = connection.prepare_cached(&format!("{LETTER} WHERE order_id = ?"))?;
    let found = orders.iter().map(|id| find.query_row([id.as_bytes()], letter).optional());
    Ok(found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn read_after(
    connection: &Connection,
    after: Option<LetterPosition>,
    limit: usize,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let (at, id) = after.map_or((-1, [0; 16]), |(at, id)| (at.0 as i64, *id.as_bytes()));
    let sql = format!("{LETTER} WHERE (at, order_id) > (?, ?) ORDER BY at, order_id LIMIT ?");
    let mut page = connection.prepare_cached(&sql)?;
    page.query_map(params![at, id, limit as i64], letter)?.collect()
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        order_id: OrderId::from_bytes(row.get(0)?),
        reason: row.get(1)?,
        body: row.get(2)?,
        at: Timestamp(row.get(3)?),
    })
}
