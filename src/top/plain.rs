//! The sale as plain text, without a terminal.

use std::fmt::Write;

use super::dashboard::Board;
use super::sight::Sight;
use super::words::{age, clock, count, known, rate, shown, time};

/// Longer names are cut.
const NAME: usize = 128;

/// A page of what is known, without a line's end at its end.
pub fn page(sight: &Sight) -> String {
    let Some(board) = &sight.board else { return String::new() };
    let mut page = String::new();
    // Writing to a text cannot fail.
    let _ok = write_head(&mut page, board, &sight.address);
    let _ok = write_lists(&mut page, board);
    page.truncate(page.trim_end().len());
    page
}

fn write_head(page: &mut String, board: &Board, address: &str) -> std::fmt::Result {
    let backend = shown(&board.backend, NAME);
    writeln!(page, "flux at {address}, backend {backend}, up {}", age(board.uptime_s))?;
    let (over, stranded) = (known(board.oversold_units), known(board.stranded_units));
    writeln!(page, "units: {over} oversold, {stranded} stranded")?;
    let rates = &board.rates;
    writeln!(
        page,
        "orders: {} accepted ({}), {} decided ({}), {} sold, {} rejected, {} expired, {} dropped",
        known(board.accepted),
        rate(rates.accepted),
        known(board.decided),
        rate(rates.decided),
        known(board.sold),
        known(board.rejected),
        known(board.expired),
        known(board.dropped),
    )?;
    let reasons = board.rejected_by_reason.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, orders)| format!("{} {}", count(*orders), shown(reason, NAME)))
        .collect();
    if !reasons.is_empty() {
        writeln!(page, "rejected: {}", reasons.join(", "))?;
    }
    let backlog = &board.backlog;
    writeln!(
        page,
        "backlog: {} waiting, the oldest for {}, {} dead letters",
        known(backlog.waiting),
        time(backlog.oldest_ms.map(|ms| ms as f64)),
        known(backlog.dead_letters),
    )?;
    for (what, times) in [("decision", &board.decision_ms), ("acknowledgement", &board.ack_ms)] {
        writeln!(page, "{what}: p50 {}, p99 {}", time(times.p50), time(times.p99))?;
    }
    Ok(())
}

fn write_lists(page: &mut String, board: &Board) -> std::fmt::Result {
    if board.items.is_empty() {
        let known = board.items_known != Some(false);
        writeln!(page, "items: {}", if known { "none" } else { "?" })?;
    }
    for item in &board.items {
        let (id, status) = (shown(&item.item_id, NAME), shown(&item.status, NAME));
        let (sold, held) = (count(item.sold), count(item.held));
        let (free, stock) = (count(item.free), count(item.stock));
        let unlisted = if item.unlisted { ", nobody listed it" } else { "" };
        writeln!(
            page,
            "item {id}: {sold} sold, {held} held, {free} free of {stock} units, {status}{unlisted}"
        )?;
    }
    if board.items_more {
        writeln!(page, "item ...: there are more")?;
    }
    match &board.workers {
        None => writeln!(page, "workers: ?")?,
        Some(workers) if workers.is_empty() => writeln!(page, "workers: none")?,
        Some(_) => {}
    }
    for worker in board.workers.iter().flatten() {
        let (kind, host) = (shown(&worker.kind, NAME), shown(&worker.host, NAME));
        let (pid, decided) = (worker.pid, rate(worker.decided_per_s));
        let in_hand = known(worker.in_hand);
        writeln!(page, "worker {host}:{pid} ({kind}): {decided}, {in_hand} in hand")?;
    }
    for last in &board.last {
        let item = shown(&last.item_id, NAME);
        let user = last.user_id.as_deref().map(|user| format!(" to {}", shown(user, NAME)));
        let reason = last.reason.as_deref().map(|reason| format!(", {}", shown(reason, NAME)));
        writeln!(
            page,
            "decision {} {}: {} of {item}{} {}{}",
            clock(&last.decided_at),
            shown(&last.order_id, NAME),
            last.quantity,
            user.unwrap_or_default(),
            shown(&last.status, NAME),
            reason.unwrap_or_default(),
        )?;
    }
    for letter in &board.dead_letters {
        let (id, reason) = (shown(&letter.order_id, NAME), shown(&letter.reason, NAME));
        writeln!(page, "dead letter {} {id}: {reason}", clock(&letter.at))?;
    }
    Ok(())
}
