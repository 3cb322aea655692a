//! The sale as plain text, without a terminal.

use std::fmt::Write;

use super::dashboard::Snapshot;
use super::format::{age, clock, count, known, rate, shown, time};
use super::state::AppState;

/// Longer names are cut.
const NAME: usize = 128;

/// A page of what is known, without a line's end at its end.
pub fn page(state: &AppState) -> String {
    let Some(sale) = &state.snapshot else { return String::new() };
    let mut page = String::new();
    // Writing to a text cannot fail.
    let _ok = write_head(&mut page, sale, &state.address);
    let _ok = write_lists(&mut page, sale);
    page.truncate(page.trim_end().len());
    page
}

fn write_head(page: &mut String, sale: &Snapshot, address: &str) -> std::fmt::Result {
    let backend = shown(&sale.backend, NAME);
    writeln!(page, "flux at {address}, backend {backend}, up {}", age(sale.uptime_s))?;
    let oversold = known(sale.oversold_units);
    let stranded = known(sale.stranded_units);
    writeln!(page, "units: {oversold} oversold, {stranded} stranded")?;
    let rates = &sale.rates;
    writeln!(
        page,
        "orders: {} accepted ({}), {} decided ({}), {} sold, {} rejected, {} expired, {} dropped",
        known(sale.accepted),
        rate(rates.accepted),
        known(sale.decided),
        rate(rates.decided),
        known(sale.sold),
        known(sale.rejected),
        known(sale.expired),
        known(sale.dropped),
    )?;
    let reasons = sale.rejected_by_reason.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, orders)| format!("{} {}", count(*orders), shown(reason, NAME)))
        .collect();
    if !reasons.is_empty() {
        writeln!(page, "rejected: {}", reasons.join(", "))?;
    }
    let backlog = &sale.backlog;
    writeln!(
        page,
        "backlog: {} waiting, the oldest for {}, {} dead letters",
        known(backlog.waiting),
        time(backlog.oldest_ms.map(|ms| ms as f64)),
        known(backlog.dead_letters),
    )?;
    for (what, times) in [("decision", &sale.decision_ms), ("acknowledgement", &sale.ack_ms)] {
        writeln!(page, "{what}: p50 {}, p99 {}", time(times.p50), time(times.p99))?;
    }
    Ok(())
}

fn write_lists(page: &mut String, sale: &Snapshot) -> std::fmt::Result {
    if sale.items.is_empty() {
        let known = sale.items_known != Some(false);
        writeln!(page, "items: {}", if known { "none" } else { "?" })?;
    }
    for item in &sale.items {
        writeln!(
            page,
            "item {}: {} sold, {} held, {} free of {} units, {}{}",
            shown(&item.item_id, NAME),
            count(item.sold),
            count(item.held),
            count(item.free),
            count(item.stock),
            shown(&item.status, NAME),
            if item.unlisted { ", nobody listed it" } else { "" },
        )?;
    }
    if sale.items_more {
        writeln!(page, "item ...: there are more")?;
    }
    match &sale.workers {
        None => writeln!(page, "workers: ?")?,
        Some(workers) if workers.is_empty() => writeln!(page, "workers: none")?,
        Some(_) => {}
    }
    for worker in sale.workers.iter().flatten() {
        writeln!(
            page,
            "worker {}:{} ({}): {}, {} in hand",
            shown(&worker.host, NAME),
            worker.pid,
            shown(&worker.kind, NAME),
            rate(worker.decided_per_s),
            known(worker.in_hand),
        )?;
    }
    for last in &sale.last {
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
    for letter in &sale.dead_letters {
        let id = shown(&letter.order_id, NAME);
        let reason = shown(&letter.reason, NAME);
        writeln!(page, "dead letter {} {id}: {reason}", clock(&letter.at))?;
    }
    Ok(())
}
