//! The contract of the ledger.

use std::collections::HashSet;
use std::sync::Arc;

use flux::core::model::{
    Decided, Decision, Item, ItemChange, Listing, MacCheck, Order, OrderId, OrderIds, Reason,
    Timestamp, decide,
};
use flux::core::ports::ledger::{
    AuditedOrder, Commit, Committed, Expect, ItemRemoved, ItemSet, Ledger, OrderState, Page,
};

use super::{fresh_name, ids, item, now, order};

/// A new ledger.
pub struct Bench {
    pub ledger: Arc<dyn Ledger>,
    pub names: Arc<OrderIds>,
}

macro_rules! ledger_contract {
    ($make:path) => {
        $crate::conformance::conform!($make, ledger:
            a_commit_is_read_back,
            commit_on_stale_version_writes_nothing,
            first_commit_needs_a_new_item,
            commit_with_decided_order_writes_nothing,
            repeated_commit_writes_once,
            one_of_two_concurrent_commits_is_refused,
            unconditional_commit_overwrites,
            a_full_commit_fits,
            recorded_rejection_is_final,
            many_rejections_are_recorded,
            stock_cannot_fall_below_taken_units,
            concurrent_stock_changes_succeed,
            nothing_is_sold_after_the_close,
            item_is_listed_closed_restocked_and_reopened,
            removed_item_returns_only_with_new_stock,
            stale_read_cannot_restore_removed_item,
            item_with_sold_units_is_not_removed,
            items_come_in_pages,
            listed_items_come_before_unlisted_ones,
            inventory_lists_owners_of_single_items,
            audit_reads_each_order_once_with_its_mac,
        );
    };
}
pub(crate) use ledger_contract;

/// The commit of a worker that has read the item as `read`.
fn decided_commit(read: &Item, orders: Vec<Order>) -> Commit {
    let batch = decide(Some(read), orders, now());
    Commit {
        item: batch.item.unwrap(),
        expect: Expect::Version(read.version),
        decided: batch.decided,
    }
}

fn orders(bench: &Bench, item: &str, count: usize) -> Vec<Order> {
    (0..count).map(|n| order(&bench.names, item, &format!("user-{n}"))).collect()
}

fn rejected(order: Order) -> Decided {
    Decided { order, decision: Decision::Rejected(Reason::SoldOut), decided_at: now() }
}

async fn written(ledger: &dyn Ledger, commit: &Commit) {
    assert_eq!(ledger.commit(commit).await.unwrap(), Committed::Written);
}

async fn states(ledger: &dyn Ledger, orders: &[OrderId]) -> Vec<Option<OrderState>> {
    let found = ledger.find(orders).await.unwrap();
    found.into_iter().map(|record| record.map(|record| record.state)).collect()
}

fn is_undecided(state: &Option<OrderState>) -> bool {
    !matches!(state, Some(OrderState::Decided { .. }))
}

pub async fn a_commit_is_read_back(bench: Bench) {
    let ledger = &*bench.ledger;
    ledger.check().await.unwrap();
    assert_eq!(ledger.item(&item("one")).await.unwrap(), None);
    let commit = decided_commit(&Item::new(item("one"), 2), orders(&bench, "one", 1));
    written(ledger, &commit).await;
    assert_eq!(ledger.item(&item("one")).await.unwrap(), Some(commit.item.clone()));
    let decided = &commit.decided[0];
    let stranger = bench.names.generate(now());
    let found = ledger.find(&[stranger, decided.order.id]).await.unwrap();
    assert_eq!(found[0], None);
    let record = found[1].clone().unwrap();
    assert_eq!(record.order, decided.order);
    let state = OrderState::Decided { decision: Decision::Sold, decided_at: decided.decided_at };
    assert_eq!(record.state, state);
}

pub async fn commit_on_stale_version_writes_nothing(bench: Bench) {
    let ledger = &*bench.ledger;
    let first = decided_commit(&Item::new(item("x"), 100), orders(&bench, "x", 3));
    written(ledger, &first).await;
    let stale = decided_commit(&Item { version: 7, ..first.item.clone() }, orders(&bench, "x", 3));
    let refused = Committed::Refused { item_changed: true, decided_before: vec![] };
    assert_eq!(ledger.commit(&stale).await.unwrap(), refused);
    let of_nothing = Commit { decided: Vec::new(), ..stale.clone() };
    assert_eq!(ledger.commit(&of_nothing).await.unwrap(), refused);
    assert_eq!(ledger.item(&item("x")).await.unwrap(), Some(first.item));
    let late = stale.decided.iter().map(|d| d.order.id).collect::<Vec<_>>();
    assert!(states(ledger, &late).await.iter().all(is_undecided));
}

pub async fn first_commit_needs_a_new_item(bench: Bench) {
    let ledger = &*bench.ledger;
    ledger.set_stock(&item("x"), 5).await.unwrap();
    let commit = decided_commit(&Item::new(item("x"), 1), orders(&bench, "x", 1));
    let refused = Committed::Refused { item_changed: true, decided_before: vec![] };
    assert_eq!(ledger.commit(&commit).await.unwrap(), refused);
    assert_eq!(ledger.item(&item("x")).await.unwrap().unwrap().stock, 5);
}

pub async fn commit_with_decided_order_writes_nothing(bench: Bench) {
    let ledger = &*bench.ledger;
    let first = decided_commit(&Item::new(item("x"), 100), orders(&bench, "x", 2));
    written(ledger, &first).await;
    let mut batch = orders(&bench, "x", 3);
    batch.insert(1, first.decided[1].order.clone());
    let commit = decided_commit(&first.item, batch);
    let seen = vec![first.decided[1].order.id];
    let refused = Committed::Refused { item_changed: false, decided_before: seen };
    assert_eq!(ledger.commit(&commit).await.unwrap(), refused);
    assert_eq!(ledger.item(&item("x")).await.unwrap(), Some(first.item.clone()));
    assert!(is_undecided(&states(ledger, &[commit.decided[0].order.id]).await[0]));

    let both = Commit { expect: Expect::Version(77), ..commit };
    let refused =
        Committed::Refused { item_changed: true, decided_before: vec![first.decided[1].order.id] };
    assert_eq!(ledger.commit(&both).await.unwrap(), refused);
}

pub async fn repeated_commit_writes_once(bench: Bench) {
    let ledger = &*bench.ledger;
    let commit = decided_commit(&Item::new(item("x"), 100), orders(&bench, "x", 3));
    written(ledger, &commit).await;
    let again = ledger.commit(&commit).await.unwrap();
    let own: HashSet<OrderId> = commit.decided.iter().map(|d| d.order.id).collect();
    match again {
        Committed::Written => {}
        Committed::Refused { decided_before: seen, .. } => {
            assert_eq!(HashSet::from_iter(seen), own)
        }
    }
    assert_eq!(ledger.item(&item("x")).await.unwrap(), Some(commit.item));
}

pub async fn one_of_two_concurrent_commits_is_refused(bench: Bench) {
    let ledger = &*bench.ledger;
    ledger.set_stock(&item("x"), 2).await.unwrap();
    let read = ledger.item(&item("x")).await.unwrap().unwrap();
    let one = decided_commit(&read, orders(&bench, "x", 1));
    let other = decided_commit(&read, orders(&bench, "x", 1));
    let (one, other) = tokio::join!(ledger.commit(&one), ledger.commit(&other));
    let written = [one.unwrap(), other.unwrap()];
    let written = written.iter().filter(|answer| **answer == Committed::Written).count();
    assert_eq!(written, 1);
    let after = ledger.item(&item("x")).await.unwrap().unwrap();
    assert_eq!((after.free, after.sold), (0, 2));
}

pub async fn unconditional_commit_overwrites(bench: Bench) {
    let ledger = &*bench.ledger;
    ledger.set_stock(&item("x"), 2).await.unwrap();
    let read = ledger.item(&item("x")).await.unwrap().unwrap();
    for _ in 0..2 {
        let commit = decided_commit(&read, orders(&bench, "x", 1));
        written(ledger, &Commit { expect: Expect::Anything, ..commit }).await;
    }
    assert_eq!(ledger.item(&item("x")).await.unwrap().unwrap().sold, 2);
}

pub async fn a_full_commit_fits(bench: Bench) {
    let ledger = &*bench.ledger;
    let many = orders(&bench, "x", ledger.max_commit().min(1_000));
    let commit = decided_commit(&Item::new(item("x"), 1_000_000_000_000), many);
    written(ledger, &commit).await;
    let ids: Vec<OrderId> = commit.decided.iter().map(|d| d.order.id).collect();
    assert!(!states(ledger, &ids).await.iter().any(is_undecided));
    let after = ledger.item(&item("x")).await.unwrap().unwrap();
    assert_eq!(after.sold, 2 * ids.len() as u64);
}

pub async fn recorded_rejection_is_final(bench: Bench) {
    let ledger = &*bench.ledger;
    let commit = decided_commit(&Item::new(item("x"), 2), orders(&bench, "x", 1));
    written(ledger, &commit).await;
    let sold = commit.decided[0].order.clone();
    let fresh = orders(&bench, "x", 2);
    let batch: Vec<Decided> =
        [&fresh[0], &sold, &fresh[1]].map(|order| rejected(order.clone())).to_vec();
    assert_eq!(ledger.record(&batch).await.unwrap(), [sold.id]);
    let before = states(ledger, &[sold.id, fresh[0].id]).await;
    assert!(matches!(before[0], Some(OrderState::Decided { decision: Decision::Sold, .. })));

    let again: Vec<Decided> =
        batch.into_iter().map(|d| Decided { decided_at: Timestamp(1), ..d }).collect();
    assert_eq!(ledger.record(&again).await.unwrap().len(), 3);
    assert_eq!(states(ledger, &[sold.id, fresh[0].id]).await, before);
    assert_eq!(ledger.item(&item("x")).await.unwrap(), Some(commit.item));
}

pub async fn many_rejections_are_recorded(bench: Bench) {
    let ledger = &*bench.ledger;
    let many = orders(&bench, "x", 250);
    let batch: Vec<Decided> = many.iter().cloned().map(rejected).collect();
    assert_eq!(ledger.record(&batch).await.unwrap(), []);
    let mut wanted = ids(&many);
    wanted.push(wanted[0]);
    let found = ledger.find(&wanted).await.unwrap();
    let found: Vec<OrderId> = found.into_iter().map(|record| record.unwrap().order.id).collect();
    assert_eq!(found, wanted);
    assert_eq!(ledger.find(&[]).await.unwrap(), []);
}

pub async fn stock_cannot_fall_below_taken_units(bench: Bench) {
    let ledger = &*bench.ledger;
    let x = item("x");
    let Ok(ItemSet::Created(created)) = ledger.set_stock(&x, 10).await else { panic!() };
    assert_eq!((created.stock, created.free), (10, 10));
    assert_eq!(ledger.item(&x).await.unwrap(), Some(created.clone()));
    assert_eq!(ledger.set_stock(&x, 10).await.unwrap(), ItemSet::Unchanged(created.clone()));
    written(ledger, &decided_commit(&created, orders(&bench, "x", 2))).await;
    let Ok(ItemSet::Changed(raised)) = ledger.set_stock(&x, 1_000_000_000_000).await else {
        panic!()
    };
    assert_eq!((raised.free, raised.sold), (999_999_999_996, 4));
    assert!(created.restocked_at.is_none() && raised.restocked_at.is_some());
    assert_eq!(ledger.set_stock(&x, 3).await.unwrap(), ItemSet::BelowTaken(4));
    let Ok(ItemSet::Changed(lowered)) = ledger.set_stock(&x, 4).await else { panic!() };
    assert_eq!((lowered.free, lowered.sold), (0, 4));
    assert_eq!(lowered.restocked_at, raised.restocked_at);
    assert_eq!(ledger.item(&x).await.unwrap(), Some(lowered));
}

pub async fn concurrent_stock_changes_succeed(bench: Bench) {
    let setting = (0..4).map(|n| {
        let ledger = bench.ledger.clone();
        tokio::spawn(async move { ledger.set_stock(&item("x"), 100 + n).await })
    });
    for set in setting.collect::<Vec<_>>() {
        set.await.unwrap().unwrap();
    }
    let after = bench.ledger.item(&item("x")).await.unwrap().unwrap();
    assert!((100..104).contains(&after.stock) && after.free == after.stock);
}

pub async fn nothing_is_sold_after_the_close(bench: Bench) {
    let ledger = &*bench.ledger;
    let x = item("x");
    ledger.set_stock(&x, 10).await.unwrap();
    let read = ledger.item(&x).await.unwrap().unwrap();
    let Ok(ItemSet::Changed(closed)) = ledger.set_item(&x, ItemChange::closed(true)).await else {
        panic!()
    };
    assert_eq!((closed.status(), closed.free), ("closed", 10));
    let refused = Committed::Refused { item_changed: true, decided_before: vec![] };
    let late = decided_commit(&read, orders(&bench, "x", 2));
    assert_eq!(ledger.commit(&late).await.unwrap(), refused);
    assert_eq!(ledger.item(&x).await.unwrap(), Some(closed.clone()));

    let told = decided_commit(&closed, late.decided.iter().map(|one| one.order.clone()).collect());
    assert_eq!(ledger.record(&told.decided).await.unwrap(), []);
    let Ok(ItemSet::Changed(open)) = ledger.set_item(&x, ItemChange::closed(false)).await else {
        panic!()
    };
    assert_eq!((open.status(), open.free), ("open", 10));
    let orders: Vec<Order> = told.decided.iter().map(|one| one.order.clone()).collect();
    let again = ledger.commit(&decided_commit(&open, orders.clone())).await.unwrap();
    assert_eq!(again, Committed::Refused { item_changed: false, decided_before: ids(&orders) });
    let no = Decision::Rejected(Reason::Closed);
    for state in states(ledger, &ids(&orders)).await {
        assert!(matches!(state, Some(OrderState::Decided { decision, .. }) if decision == no));
    }
}

pub async fn item_is_listed_closed_restocked_and_reopened(bench: Bench) {
    let ledger = &*bench.ledger;
    let x = item("x");
    let close = ItemChange::closed(true);
    assert_eq!(ledger.set_item(&x, close).await.unwrap(), ItemSet::Unlisted);
    assert_eq!(ledger.item(&x).await.unwrap(), None);
    let both = ItemChange { stock: Some(5), closed: Some(true) };
    let Ok(ItemSet::Created(closed)) = ledger.set_item(&x, both).await else { panic!() };
    assert_eq!((closed.status(), closed.free), ("closed", 5));
    for same in [both, close, ItemChange::stock(5), ItemChange::default()] {
        assert_eq!(ledger.set_item(&x, same).await.unwrap(), ItemSet::Unchanged(closed.clone()));
    }
    let Ok(ItemSet::Changed(more)) = ledger.set_stock(&x, 9).await else { panic!() };
    assert_eq!((more.free, more.closed_at), (9, closed.closed_at));
    let page = ledger.items(None, 10).await.unwrap();
    assert_eq!(page.rows, [more]);
    let open = ItemChange { stock: Some(7), closed: Some(false) };
    let Ok(ItemSet::Changed(open)) = ledger.set_item(&x, open).await else { panic!() };
    assert_eq!((open.status(), open.free, open.closed_at), ("open", 7, None));
    assert_eq!(ledger.item(&x).await.unwrap(), Some(open));
}

pub async fn removed_item_returns_only_with_new_stock(bench: Bench) {
    let ledger = &*bench.ledger;
    let x = item("x");
    assert_eq!(ledger.remove_item(&x).await.unwrap(), ItemRemoved::Unlisted);
    ledger.set_item(&x, ItemChange { stock: Some(5), closed: Some(true) }).await.unwrap();
    let Ok(ItemRemoved::Removed(removed)) = ledger.remove_item(&x).await else { panic!() };
    assert_eq!((removed.status(), removed.stock, removed.free), ("removed", 0, 0));
    assert_eq!(ledger.remove_item(&x).await.unwrap(), ItemRemoved::Already);
    assert_eq!(ledger.item(&x).await.unwrap(), Some(removed.clone()));
    assert_eq!(ledger.items(None, 10).await.unwrap().rows, []);
    let opened = ledger.set_item(&x, ItemChange::closed(false)).await.unwrap();
    assert_eq!(opened, ItemSet::Unlisted);

    let batch = decide(Some(&removed), orders(&bench, "x", 2), now());
    let no = Decision::Rejected(Reason::UnknownItem);
    assert!(batch.decided.iter().all(|one| one.decision == no));
    assert_eq!(ledger.record(&batch.decided).await.unwrap(), []);
    let Ok(ItemSet::Created(listed)) = ledger.set_stock(&x, 3).await else { panic!() };
    assert_eq!((listed.status(), listed.free, listed.listing), ("open", 3, Listing::Listed));
    assert_eq!(listed.version, removed.version + 1);
    assert_eq!(ledger.items(None, 10).await.unwrap().rows, [listed]);
}

pub async fn stale_read_cannot_restore_removed_item(bench: Bench) {
    let ledger = &*bench.ledger;
    let x = item("x");
    // A worker that read no row, and one that read the item.
    let unlisted = decided_commit(&Item::unlisted(x.clone(), 1), orders(&bench, "x", 1));
    ledger.set_stock(&x, 5).await.unwrap();
    let read = ledger.item(&x).await.unwrap().unwrap();
    let known = decided_commit(&read, orders(&bench, "x", 1));
    let Ok(ItemRemoved::Removed(removed)) = ledger.remove_item(&x).await else { panic!() };
    let refused = Committed::Refused { item_changed: true, decided_before: vec![] };
    for late in [unlisted, known] {
        assert_eq!(ledger.commit(&late).await.unwrap(), refused);
        assert!(is_undecided(&states(ledger, &[late.decided[0].order.id]).await[0]));
    }
    assert_eq!(ledger.item(&x).await.unwrap(), Some(removed));
}

pub async fn item_with_sold_units_is_not_removed(bench: Bench) {
    let ledger = &*bench.ledger;
    ledger.set_stock(&item("x"), 5).await.unwrap();
    let read = ledger.item(&item("x")).await.unwrap().unwrap();
    let sold = decided_commit(&read, orders(&bench, "x", 1));
    written(ledger, &sold).await;
    assert_eq!(ledger.remove_item(&item("x")).await.unwrap(), ItemRemoved::HasOrders);
    assert_eq!(ledger.item(&item("x")).await.unwrap(), Some(sold.item));
}

pub async fn listed_items_come_before_unlisted_ones(bench: Bench) {
    let ledger = &*bench.ledger;
    for n in 0..7 {
        let name = format!("a-{n}");
        let unlisted = Item::unlisted(item(&name), 9);
        written(ledger, &decided_commit(&unlisted, orders(&bench, &name, 1))).await;
    }
    for name in ["m", "z-1", "z-2", "gone"] {
        ledger.set_stock(&item(name), 3).await.unwrap();
    }
    ledger.remove_item(&item("gone")).await.unwrap();
    // Setting the stock of an item lists it.
    let Ok(ItemSet::Changed(listed)) = ledger.set_stock(&item("a-3"), 9).await else { panic!() };
    assert_eq!(listed.listing, Listing::Listed);
    for limit in [1, 3, 4, 100] {
        let mut found = Vec::new();
        let mut next = None;
        loop {
            let page = ledger.items(next.as_deref(), limit).await.unwrap();
            assert!(page.rows.len() <= limit);
            found.extend(page.rows.into_iter().map(|item| (item.listing, item.id.to_string())));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let (first, rest) = found.split_at(4);
        assert!(first.iter().all(|(listing, _)| *listing == Listing::Listed), "{found:?}");
        assert!(rest.iter().all(|(listing, _)| *listing == Listing::Unlisted), "{found:?}");
        let names: HashSet<&String> = found.iter().map(|(_, name)| name).collect();
        assert_eq!((found.len(), names.len()), (10, 10));
    }
    assert!(matches!(ledger.unlisted_items().await.unwrap(), None | Some(6)));
}

pub async fn items_come_in_pages(bench: Bench) {
    let ledger = &*bench.ledger;
    let all: HashSet<String> = (0..25).map(|n| format!("item-{n}")).collect();
    for name in &all {
        ledger.set_stock(&item(name), 3).await.unwrap();
    }
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let page = ledger.items(next.as_deref(), 10).await.unwrap();
        assert!(page.rows.len() <= 10);
        found.extend(page.rows.into_iter().map(|item| item.id.to_string()));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 25);
    assert_eq!(HashSet::from_iter(found), all);
    let Page { rows, next } = ledger.audit_items(None).await.unwrap();
    assert!(rows.iter().all(|row| row.item.is_ok() && row.mac == MacCheck::Fits));
    assert_eq!((rows.len(), next), (25, None));
}

pub async fn inventory_lists_owners_of_single_items(bench: Bench) {
    let ledger = &*bench.ledger;
    ledger.set_stock(&item("unsold"), 1).await.unwrap();
    written(ledger, &decided_commit(&Item::new(item("many"), 50), orders(&bench, "many", 1))).await;
    let mut single = orders(&bench, "single", 1);
    single[0].quantity = flux::core::model::Quantity::ONE;
    written(ledger, &decided_commit(&Item::new(item("single"), 1), single)).await;
    let page = ledger.inventory(None, 100).await.unwrap();
    let rows: Vec<_> = page.rows.iter().map(|(i, u)| (i.as_str(), u.as_str())).collect();
    assert_eq!(rows, [("single", "user-0")]);
}

pub async fn audit_reads_each_order_once_with_its_mac(bench: Bench) {
    let ledger = &*bench.ledger;
    let x = fresh_name("x");
    let y = fresh_name("y");
    written(ledger, &decided_commit(&Item::new(item(&x), 500), orders(&bench, &x, 90))).await;
    let rest: Vec<Decided> = orders(&bench, &y, 120).into_iter().map(rejected).collect();
    ledger.record(&rest).await.unwrap();
    let audited = |name: Option<String>| {
        let ledger = bench.ledger.clone();
        async move {
            let mut rows = Vec::<AuditedOrder>::new();
            let mut next = None;
            let only = name.as_deref().map(item);
            loop {
                let page = ledger.audit_orders(only.as_ref(), next.as_deref()).await.unwrap();
                rows.extend(page.rows);
                next = page.next;
                if next.is_none() {
                    return rows;
                }
            }
        }
    };
    let all = audited(None).await;
    assert!(all.iter().all(|row| row.mac == MacCheck::Fits));
    assert_eq!(
        all.iter().map(|r| r.record.as_ref().unwrap().order.id).collect::<HashSet<_>>().len(),
        210
    );
    assert_eq!((all.len(), audited(Some(x)).await.len()), (210, 90));
}
