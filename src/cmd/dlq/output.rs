//! What `flux dlq` prints of dead letters.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::core::engine::Ports;
use crate::core::engine::redrive;
use crate::core::engine::redrive::{DlqAction, DlqResult, RedriveOptions};
use crate::core::model::OrderId;
use crate::core::model::text::visible;
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::dead_letters::DlqFilter;
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
    result: &'a DlqResult,
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
    which: &DlqFilter,
    action: &DlqAction,
    options: &RedriveOptions,
    json: bool,
) -> Result<bool> {
    let dry_run = options.dry_run;
    let mut counts = ResultCounts::default();
    let mut printed = Ok(());
    let mut tell = |order_id: OrderId, result: DlqResult| {
        counts.add(&result);
        // Goes on when nobody reads it any more: what was begun is done.
        let line = if json {
            say(serde_json::to_string(&JsonLine { order_id, result: &result, dry_run })
                .unwrap_or_default())
        } else {
            let words = ResultText { result: &result, dry_run }.to_string();
            say(format_args!("{order_id} {}", visible(&words)))
        };
        if line.is_err() && printed.is_ok() {
            options.stop.cancel();
            printed = line;
        }
    };
    let ended = redrive::act(ports, which, action, options, &mut tell).await;
    printed?;
    if !json {
        say(format_args!("{counts}{}", if dry_run { " (dry run: nothing was done)" } else { "" }))?;
    }
    let cut = ended?;
    if options.stop.is_cancelled() {
        tracing::warn!("interrupted: the same command again goes on from there");
    } else if cut {
        tracing::warn!("not all letters were met; the same command again goes on from there");
    }
    let named = matches!(which, DlqFilter::These(_));
    Ok(counts.failed == 0 && !(named && counts.kept > 0))
}

/// A result, or what it would be.
struct ResultText<'a> {
    result: &'a DlqResult,
    dry_run: bool,
}

impl fmt::Display for ResultText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.result, self.dry_run) {
            (DlqResult::SentAgain, false) => f.write_str("sent again"),
            (DlqResult::SentAgain, true) => f.write_str("would be sent again"),
            (DlqResult::AlreadyDecided, false) => f.write_str("already decided: not sent again"),
            (DlqResult::AlreadyDecided, true) => f.write_str("already decided: would be dropped"),
            (DlqResult::Dropped, false) => f.write_str("dropped"),
            (DlqResult::Dropped, true) => f.write_str("would be dropped"),
            (DlqResult::Kept(why), false) => write!(f, "kept: {why}"),
            (DlqResult::Kept(why), true) => write!(f, "would be kept: {why}"),
            (DlqResult::Gone, _) => f.write_str("not in the dead-letter queue"),
            (DlqResult::Failed(why), _) => write!(f, "failed, and is still there: {why}"),
        }
    }
}

impl ResultCounts {
    fn add(&mut self, result: &DlqResult) {
        let count = match result {
            DlqResult::SentAgain => &mut self.sent,
            DlqResult::AlreadyDecided => &mut self.decided,
            DlqResult::Dropped => &mut self.dropped,
            DlqResult::Kept(_) => &mut self.kept,
            DlqResult::Gone => &mut self.gone,
            DlqResult::Failed(_) => &mut self.failed,
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
