//! A small sale through the ports with items in all states, and copies of its file.

use std::path::{Path, PathBuf};

use flux::config::Settings;
use flux::core::engine::Ports;
use flux::core::engine::redrive;
use flux::core::engine::redrive::{DlqResult, RedriveOptions};
use flux::core::model::{
    Decided, Decision, ItemChange, ItemId, Order, Quantity, Reason, Timestamp, UserId, decide,
};
use flux::core::ports::dead_letters::{DeadLetter, DlqAction, DlqFilter};
use flux::core::ports::ledger::{Commit, Committed, Expect, LedgerError};
use flux::load::{AuditReport, audit};
use flux::wiring;

pub struct Shop {
    pub ports: Ports,
    pub file: PathBuf,
}

impl Shop {
    pub async fn open(file: PathBuf) -> Shop {
        Shop::try_open(file).await.unwrap()
    }

    pub async fn try_open(file: PathBuf) -> anyhow::Result<Shop> {
        let settings = Settings { data: file.clone(), ..Settings::default() };
        Ok(Shop { ports: wiring::connect(&settings).await?, file })
    }

    pub async fn list(&self, item: &str, stock: u64) {
        self.ports.ledger.set_stock(&ItemId::parse(item).unwrap(), stock).await.unwrap();
    }

    pub fn order(&self, user: &str, item: &str, quantity: u64) -> Order {
        self.order_at(user, item, quantity, self.ports.clock.now())
    }

    pub fn order_at(&self, user: &str, item: &str, quantity: u64, accepted_at: Timestamp) -> Order {
        Order {
            id: self.ports.order_ids.generate(accepted_at),
            user: UserId::parse(user).unwrap(),
            item: ItemId::parse(item).unwrap(),
            quantity: Quantity::new(quantity).unwrap(),
            accepted_at,
            trace: None,
        }
    }

    pub async fn queue(&self, orders: &[Order]) {
        for sent in self.ports.queue.send(orders).await {
            sent.unwrap();
        }
    }

    /// Queues an order of each of these and decides them together.
    pub async fn sell(&self, item: &str, requests: &[(&str, u64)]) -> Result<(), LedgerError> {
        let orders = requests.iter().map(|(user, quantity)| self.order(user, item, *quantity));
        let orders: Vec<Order> = orders.collect();
        for sent in self.ports.queue.send(&orders).await {
            sent.map_err(|e| LedgerError::Broken(e.to_string()))?;
        }
        self.decide(item, orders).await
    }

    pub async fn decide(&self, item: &str, orders: Vec<Order>) -> Result<(), LedgerError> {
        let now = self.ports.clock.now();
        let item = self.ports.ledger.item(&ItemId::parse(item).unwrap()).await?;
        let expect = Expect::Version(item.as_ref().map_or(0, |item| item.version));
        let batch = decide(item.as_ref(), orders, now);
        match batch.item {
            None => self.ports.ledger.record(&batch.decided).await.map(drop),
            Some(item) => {
                let commit = Commit { item, expect, decided: batch.decided };
                let written = self.ports.ledger.commit(&commit).await?;
                assert_eq!(written, Committed::Written);
                Ok(())
            }
        }
    }

    pub async fn audit(&self) -> Result<AuditReport, LedgerError> {
        audit(&*self.ports.ledger, None).await
    }

    /// A whole copy, as `flux backup` makes one.
    pub fn copy_to(&self, file: &Path) {
        let here = rusqlite::Connection::open(&self.file).unwrap();
        here.execute("VACUUM INTO ?", [file.to_str().unwrap()]).unwrap();
    }

    /// The first part of a sale; `end` is the second.
    pub async fn begin(&self) {
        for (item, stock) in [("single", 1), ("other", 1), ("part", 20), ("out", 3), ("shut", 5)] {
            self.list(item, stock).await;
        }
        self.list("line", 9).await;
        self.sell("single", &[("ann", 1)]).await.unwrap();
        self.sell("part", &[("ann", 2), ("bob", 1)]).await.unwrap();
        self.sell("out", &[("ann", 1)]).await.unwrap();
        let [shut, line] = ["shut", "line"].map(|item| ItemId::parse(item).unwrap());
        self.ports.ledger.set_stock(&line, 8).await.unwrap();
        self.ports.ledger.set_stock(&line, 9).await.unwrap();
        self.sell("shut", &[("ann", 1)]).await.unwrap();
        self.ports.ledger.set_item(&shut, ItemChange::closed(true)).await.unwrap();
    }

    /// Queues the order, dead-letters it and drops the letter.
    async fn drop(&self, order: Order) {
        self.queue(std::slice::from_ref(&order)).await;
        let body = r#"{"user_id":"lea","item_id":"left"}"#.to_owned();
        let reason = "received too often".to_owned();
        let letter = DeadLetter { order_id: order.id, reason, body, at: order.accepted_at };
        self.ports.queue.dead_letter(&[letter]).await.unwrap();
        let filter = DlqFilter::These(vec![order.id]);
        let options = RedriveOptions::default();
        let mut report = |_, result| assert_eq!(result, DlqResult::Dropped);
        redrive::act(&self.ports, &filter, DlqAction::Drop, &options, &mut report).await.unwrap();
    }

    /// Adds orders in all states. `waits` is queued already, and is decided here.
    pub async fn end(&self, waits: Order) {
        self.sell("single", &[("bob", 1)]).await.unwrap();
        self.sell("other", &[("dan", 1)]).await.unwrap();
        self.sell("part", &[("cyd", 19), ("dan", 3), ("eve", 2)]).await.unwrap();
        self.sell("out", &[("bob", 2), ("cyd", 1), ("dan", 2)]).await.unwrap();
        self.sell("shut", &[("bob", 1)]).await.unwrap();
        self.decide("line", vec![waits]).await.unwrap();
        let dead = self.order("fay", "line", 1);
        let expired = self.order("gus", "line", 1);
        self.queue(&[dead.clone(), expired.clone()]).await;
        let decided_at = self.ports.clock.now();
        let expired = Decided { order: expired, decision: Decision::Expired, decided_at };
        assert_eq!(self.ports.ledger.record(&[expired]).await.unwrap(), []);
        let body = r#"{"user_id":"fay","item_id":"line"}"#.to_owned();
        let reason = "received too often".to_owned();
        let letter = DeadLetter { order_id: dead.id, reason, body, at: decided_at };
        self.ports.queue.dead_letter(&[letter]).await.unwrap();
        let rejected = self.order("hal", "line", 9);
        self.queue(std::slice::from_ref(&rejected)).await;
        let decision = Decision::Rejected(Reason::NotEnough);
        let rejected = Decided { order: rejected, decision, decided_at };
        assert_eq!(self.ports.ledger.record(&[rejected]).await.unwrap(), []);
        self.queue(&[self.order("ivy", "line", 2), self.order("joe", "line", 1)]).await;
        self.list("left", 1).await;
        self.drop(self.order("lea", "left", 1)).await;
    }
}
