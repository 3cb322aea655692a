//! What can be done about dead letters: look at them, send them again, drop them.

use super::OrderId;
use crate::core::Ports;
use crate::core::ledger::{LedgerError, OrderRecord, OrderState};
use crate::core::queue::{DeadLetter, QueueError, Redriven};
use crate::core::webhooks::WebhooksError;

/// Letters looked at in one go.
const LETTERS_MAX: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
}

/// Which letters are meant.
#[derive(Debug, Clone)]
pub enum Which {
    All,
    These(Vec<OrderId>),
}

/// What became of a letter that was to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Redriven(Redriven),
    /// The order had its decision; the letter, if there still was one, was dropped.
    AlreadyDecided,
}

/// The letters, at most [`LETTERS_MAX`].
pub async fn list(ports: &Ports) -> Result<Vec<DeadLetter>, DeadLettersError> {
    Ok(ports.queue.dead_letters(LETTERS_MAX).await?)
}

/// Sends letters again under their own order ids, as new arrivals; drops those whose orders are
/// decided. `body` takes the place of the text of the one letter meant. Safe to repeat: a letter
/// that was sent again is gone, and a second decision is impossible.
pub async fn redrive(
    ports: &Ports,
    which: Which,
    body: Option<&str>,
) -> Result<Vec<(OrderId, Fate)>, DeadLettersError> {
    let letters = resolve(ports, which).await?;
    let found = ports.ledger.find(&letters).await?;
    let is_decided = |n: usize| {
        let state = found[n].as_ref().map(|record| record.state);
        matches!(state, Some(OrderState::Decided { .. }))
    };
    let (decided, open): (Vec<usize>, Vec<usize>) =
        (0..letters.len()).partition(|n| is_decided(*n));
    let pick = |places: Vec<usize>| places.into_iter().map(|n| letters[n]).collect::<Vec<_>>();
    let (decided, open) = (pick(decided), pick(open));
    tell(ports, found).await?;
    ports.queue.drop_letters(&decided).await?;
    let sent = ports.queue.redrive(&open, body, ports.clock.now()).await?;
    let fates = sent.into_iter().map(|(id, redriven)| (id, Fate::Redriven(redriven)));
    Ok(fates.chain(decided.into_iter().map(|id| (id, Fate::AlreadyDecided))).collect())
}

/// Whoever decided these may have died before the shop was told, and their letters are dropped.
async fn tell(ports: &Ports, found: Vec<Option<OrderRecord>>) -> Result<(), DeadLettersError> {
    let Some(outbox) = ports.outbox_to_tell() else { return Ok(()) };
    let decided = found.into_iter().flatten().filter_map(OrderRecord::decided);
    Ok(outbox.put(&decided.collect::<Vec<_>>()).await?)
}

/// Drops letters for good; returns how many there were.
pub async fn drop(ports: &Ports, which: Which) -> Result<usize, DeadLettersError> {
    let letters = resolve(ports, which).await?;
    Ok(ports.queue.drop_letters(&letters).await?)
}

async fn resolve(ports: &Ports, which: Which) -> Result<Vec<OrderId>, DeadLettersError> {
    match which {
        Which::These(orders) => Ok(orders),
        Which::All => Ok(list(ports).await?.into_iter().map(|letter| letter.order_id).collect()),
    }
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fate::Redriven(Redriven::Sent) => f.write_str("sent again"),
            Fate::Redriven(Redriven::StillPoison(why)) => write!(f, "kept: {why}"),
            Fate::Redriven(Redriven::Gone) => f.write_str("not in the dead-letter queue"),
            Fate::AlreadyDecided => f.write_str("already decided: not sent again"),
        }
    }
}
