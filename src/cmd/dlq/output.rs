//! What `flux dlq` prints of dead letters.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::core::engine::Ports;
use crate::core::engine::redrive;
use crate::core::engine::redrive::{Course, Deed, Fate};
use crate::core::model::OrderId;
use crate::core::model::text::visible;
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::dead_letters::Which;
use crate::telemetry::{remark, say};

/// Characters of a letter's text that a person is shown.
const SHOWN: usize = 200;

/// Prints each letter, in full as a line of JSON if asked for.
pub async fn list(ports: &Ports, reason: Option<&str>, json: bool) -> Result<()> {
    let mut printed = Ok(());
    let mut shown = 0_u64;
    let mut show = |letter: &DeadLetter| {
        shown += 1;
        if printed.is_ok() {
            printed = print(letter, json);
        }
    };
    let unseen = redrive::list(ports, reason, &mut show).await?;
    printed?;
    if shown == 0 && unseen == 0 {
        remark(if reason.is_some() { "no such dead letters" } else { "no dead letters" });
    }
    if unseen > 0 {
        tracing::warn!(
            "about {unseen} letters more are there: too many for one look, or somebody else is \
             looking at them and gives them back within half a minute"
        );
    }
    Ok(())
}

fn print(letter: &DeadLetter, json: bool) -> Result<()> {
    if json {
        say(serde_json::to_string(letter)?)?;
        return Ok(());
    }
    let DeadLetter { order_id, reason, body, .. } = letter;
    let cut = body.char_indices().nth(SHOWN).map_or(body.len(), |(end, _)| end);
    let more = if cut < body.len() { "…" } else { "" };
    say(format_args!("{order_id} {}: {}{more}", visible(reason), visible(&body[..cut])))?;
    Ok(())
}

#[derive(Serialize)]
struct JsonLine<'a> {
    order_id: OrderId,
    #[serde(flatten)]
    fate: &'a Fate,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

#[derive(Debug, Default)]
struct ResultCounts {
    sent: u64,
    decided: u64,
    dropped: u64,
    kept: u64,
    gone: u64,
    failed: u64,
}

/// Does it, and prints what became of each letter, then the counts, unless it is all JSON. Whether
/// nothing failed, and no letter that was named by its id was kept.
pub async fn act(
    ports: &Ports,
    which: &Which,
    deed: &Deed,
    course: &Course,
    json: bool,
) -> Result<bool> {
    let dry_run = course.dry_run;
    let mut counts = ResultCounts::default();
    let mut printed = Ok(());
    let mut tell = |order_id: OrderId, fate: Fate| {
        counts.add(&fate);
        // Goes on when nobody reads it any more: what was begun is done.
        let line = if json {
            say(serde_json::to_string(&JsonLine { order_id, fate: &fate, dry_run })
                .unwrap_or_default())
        } else {
            let words = ResultText { fate: &fate, dry_run }.to_string();
            say(format_args!("{order_id} {}", visible(&words)))
        };
        if line.is_err() && printed.is_ok() {
            course.stop.cancel();
            printed = line;
        }
    };
    let ended = redrive::act(ports, which, deed, course, &mut tell).await;
    printed?;
    if !json {
        say(format_args!("{counts}{}", if dry_run { " (dry run: nothing was done)" } else { "" }))?;
    }
    let cut = ended?;
    if course.stop.is_cancelled() {
        tracing::warn!("interrupted: the same command again goes on from there");
    } else if cut {
        tracing::warn!("not all letters were met; the same command again goes on from there");
    }
    let named = matches!(which, Which::These(_));
    Ok(counts.failed == 0 && !(named && counts.kept > 0))
}

/// A fate, or what it would be.
struct ResultText<'a> {
    fate: &'a Fate,
    dry_run: bool,
}

impl fmt::Display for ResultText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.fate, self.dry_run) {
            (Fate::SentAgain, false) => f.write_str("sent again"),
            (Fate::SentAgain, true) => f.write_str("would be sent again"),
            (Fate::AlreadyDecided, false) => f.write_str("already decided: not sent again"),
            (Fate::AlreadyDecided, true) => f.write_str("already decided: would be dropped"),
            (Fate::Dropped, false) => f.write_str("dropped"),
            (Fate::Dropped, true) => f.write_str("would be dropped"),
            (Fate::Kept(why), false) => write!(f, "kept: {why}"),
            (Fate::Kept(why), true) => write!(f, "would be kept: {why}"),
            (Fate::Gone, _) => f.write_str("not in the dead-letter queue"),
            (Fate::Failed(why), _) => write!(f, "failed, and is still there: {why}"),
        }
    }
}

impl ResultCounts {
    fn add(&mut self, fate: &Fate) {
        let count = match fate {
            Fate::SentAgain => &mut self.sent,
            Fate::AlreadyDecided => &mut self.decided,
            Fate::Dropped => &mut self.dropped,
            Fate::Kept(_) => &mut self.kept,
            Fate::Gone => &mut self.gone,
            Fate::Failed(_) => &mut self.failed,
        };
        *count += 1;
    }
}

impl fmt::Display for ResultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ResultCounts { sent, decided, dropped, kept, gone, failed } = *self;
        let counts = [
            (sent, "sent again"),
            (dropped, "dropped"),
            (decided, "already decided"),
            (kept, "kept"),
            (gone, "not there"),
            (failed, "failed"),
        ];
        let mut said = counts.iter().filter(|(count, _)| *count > 0).peekable();
        if said.peek().is_none() {
            return f.write_str("no such letters");
        }
        let said: Vec<String> = said.map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&said.join(", "))
    }
}
