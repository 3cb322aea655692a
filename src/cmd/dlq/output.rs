//! The output of `flux dlq`.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::core::engine::Ports;
use crate::core::engine::redrive;
use crate::core::engine::redrive::{DlqResult, RedriveOptions};
use crate::core::model::OrderId;
use crate::core::model::text::visible;
use crate::core::ports::dead_letters::{DeadLetter, DlqAction, DlqFilter};
use crate::telemetry::{remark, say};

/// Characters of a letter's text that are printed unless the output is JSON.
const SHOWN: usize = 200;

/// Prints each letter in one line, with `json` as JSON with its whole text.
pub async fn list(ports: &Ports, reason: Option<&str>, json: bool) -> Result<()> {
    let mut printed = Ok(());
    let mut shown = 0_u64;
    let mut show = |letter: &DeadLetter| {
        shown += 1;
        if printed.is_ok() {
            printed = print(letter, json);
        }
    };
    let unread = redrive::list(ports, reason, &mut show).await?;
    printed?;
    if shown == 0 && unread == 0 {
        remark(if reason.is_some() { "no such dead letters" } else { "no dead letters" });
    }
    if unread > 0 {
        tracing::warn!(
            "about {unread} more letters not listed: more than one listing reads, or another \
             process is reading them; those are visible again within 30 s"
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

/// Redrives or drops letters and prints the result for each, then, unless the output is JSON, their
/// counts. Returns true if nothing failed and no letter selected by its id was kept.
pub async fn act(
    ports: &Ports,
    filter: &DlqFilter,
    action: DlqAction,
    options: &RedriveOptions,
    json: bool,
) -> Result<bool> {
    let dry_run = options.dry_run;
    let mut counts = ResultCounts::default();
    let mut printed = Ok(());
    let mut report = |order_id: OrderId, result: DlqResult| {
        counts.add(&result);
        // If stdout is closed, the page being processed is completed before the command stops.
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
    let ended = redrive::act(ports, filter, action, options, &mut report).await;
    printed?;
    if !json {
        say(format_args!("{counts}{}", if dry_run { " (dry run: nothing was done)" } else { "" }))?;
    }
    let more = ended?;
    if options.stop.is_cancelled() {
        tracing::warn!("interrupted; run the same command again to continue");
    } else if more {
        tracing::warn!("not all letters were read; run the same command again to continue");
    }
    let by_id = matches!(filter, DlqFilter::These(_));
    Ok(counts.failed == 0 && !(by_id && counts.kept > 0))
}

/// A result, or in a dry run the predicted one, as text.
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
        let mut nonzero = counts.iter().filter(|(count, _)| *count > 0).peekable();
        if nonzero.peek().is_none() {
            return f.write_str("no such letters");
        }
        let parts: Vec<String> = nonzero.map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}
