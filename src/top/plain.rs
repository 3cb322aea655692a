//! The dashboard as plain text.

use std::fmt::Write;

use super::dashboard::Snapshot;
use super::format::{age, clock, count, count_or_unknown, rate, sanitized, time};
use super::state::AppState;

/// Longest name; longer ones are cut.
const NAME_CHARS: usize = 128;

/// One fact per line, without a newline at the end.
pub fn page(state: &AppState) -> String {
    let Some(sale) = &state.snapshot else { return String::new() };
    let mut page = String::new();
    // Writing to a `String` cannot fail.
    let _ok = write_totals(&mut page, sale, &state.address);
    let _ok = write_lists(&mut page, sale);
    page.truncate(page.trim_end().len());
    page
}

fn write_totals(page: &mut String, sale: &Snapshot, address: &str) -> std::fmt::Result {
    let backend = sanitized(&sale.backend, NAME_CHARS);
    writeln!(page, "flux at {address}, backend {backend}, up {}", age(sale.uptime_s))?;
    let oversold = count_or_unknown(sale.oversold_units);
    let stranded = count_or_unknown(sale.stranded_units);
    writeln!(page, "units: {oversold} oversold, {stranded} stranded")?;
    let rates = &sale.rates;
    writeln!(
        page,
        "orders: {} accepted ({}), {} decided ({}), {} sold, {} rejected, {} expired, {} dropped",
        count_or_unknown(sale.accepted),
        rate(rates.accepted),
        count_or_unknown(sale.decided),
        rate(rates.decided),
        count_or_unknown(sale.sold),
        count_or_unknown(sale.rejected),
        count_or_unknown(sale.expired),
        count_or_unknown(sale.dropped),
    )?;
    let reasons = sale.rejected_by_reason.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, orders)| format!("{} {}", count(*orders), sanitized(reason, NAME_CHARS)))
        .collect();
    if !reasons.is_empty() {
        writeln!(page, "rejected: {}", reasons.join(", "))?;
    }
    let backlog = &sale.backlog;
    writeln!(
        page,
        "backlog: {} waiting, the oldest for {}, {} dead letters",
        count_or_unknown(backlog.waiting),
        time(backlog.oldest_ms.map(|ms| ms as f64)),
        count_or_unknown(backlog.dead_letters),
    )?;
    for (name, latency) in [("decision", &sale.decision_ms), ("acknowledgement", &sale.ack_ms)] {
        writeln!(page, "{name}: p50 {}, p99 {}", time(latency.p50), time(latency.p99))?;
    }
    Ok(())
}

fn write_lists(page: &mut String, sale: &Snapshot) -> std::fmt::Result {
    if sale.items.is_empty() {
        let is_known = sale.items_known != Some(false);
        writeln!(page, "items: {}", if is_known { "none" } else { "?" })?;
    }
    for item in &sale.items {
        writeln!(
            page,
            "item {}: {} sold, {} held, {} free of {} units, {}{}",
            sanitized(&item.item_id, NAME_CHARS),
            count(item.sold),
            count(item.held),
            count(item.free),
            count(item.stock),
            sanitized(&item.status, NAME_CHARS),
            if item.unlisted { ", not listed by anybody" } else { "" },
        )?;
    }
    if sale.items_more {
        writeln!(page, "item ...: more items exist")?;
    }
    match &sale.workers {
        None => writeln!(page, "workers: ?")?,
        Some(workers) if workers.is_empty() => writeln!(page, "workers: none")?,
        Some(_) => {}
    }
    for worker in sale.workers.iter().flatten() {
        writeln!(
            page,
            "worker {}:{} ({}): {}, {} in flight",
            sanitized(&worker.host, NAME_CHARS),
            worker.pid,
            sanitized(&worker.kind, NAME_CHARS),
            rate(worker.decided_per_s),
            count_or_unknown(worker.in_flight),
        )?;
    }
    for last in &sale.last {
        let item = sanitized(&last.item_id, NAME_CHARS);
        let user =
            last.user_id.as_deref().map(|user| format!(" to {}", sanitized(user, NAME_CHARS)));
        let reason =
            last.reason.as_deref().map(|reason| format!(", {}", sanitized(reason, NAME_CHARS)));
        writeln!(
            page,
            "decision {} {}: {} of {item}{} {}{}",
            clock(&last.decided_at),
            sanitized(&last.order_id, NAME_CHARS),
            last.quantity,
            user.unwrap_or_default(),
            sanitized(&last.status, NAME_CHARS),
            reason.unwrap_or_default(),
        )?;
    }
    for letter in &sale.dead_letters {
        let id = sanitized(&letter.order_id, NAME_CHARS);
        let reason = sanitized(&letter.reason, NAME_CHARS);
        writeln!(page, "dead letter {} {id}: {reason}", clock(&letter.at))?;
    }
    Ok(())
}
