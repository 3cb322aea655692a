//! `GET /orders/ID[?wait=SECONDS]`.

use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use super::answer::Answer;
use super::problem::{Problem, json};
use super::query;
use super::server::Server;
use super::timestamp::rfc3339;
use crate::core::ledger::{OrderRecord, OrderState};
use crate::core::order::{OrderId, Reason};

const WAIT_MAX_S: u64 = 30;
/// Hints can be lost, so a waiting buyer's order is looked at this often anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An order as buyers see it: `queued`, `sold`, `rejected` with a reason, `expired`, or
/// `dead_lettered`: it could not be decided, and waits for the seller to send it again.
#[derive(Serialize, Default)]
struct OrderJson<'a> {
    order_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<u64>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<String>,
}

impl Server {
    pub async fn order(&self, id: &str, query: Option<&str>) -> Result<Answer, Problem> {
        let wait = wait(query)?;
        let id = OrderId::parse(id).map_err(|e| Problem::not_found(e.0))?;
        let found = if wait.is_zero() {
            self.look(id).await?
        } else {
            self.wait_for_decision(id, wait).await?
        };
        let shown = match &found {
            Some(record) => shown(record),
            None if self.may_be_queued(id) => {
                OrderJson { order_id: id.to_string(), status: "queued", ..OrderJson::default() }
            }
            None => return Err(Problem::not_found("there is no such order")),
        };
        Ok(json(StatusCode::OK, &shown))
    }

    async fn look(&self, id: OrderId) -> Result<Option<OrderRecord>, Problem> {
        Ok(self.api.ports.ledger.find(&[id]).await?.pop().flatten())
    }

    /// What is known of the order once it is decided, or the time is over, or the server stops,
    /// or waiting is of no use.
    async fn wait_for_decision(
        &self,
        id: OrderId,
        wait: Duration,
    ) -> Result<Option<OrderRecord>, Problem> {
        let deadline = Instant::now() + wait;
        let waiting = self.api.waiters.wait_for(id);
        loop {
            let hint = waiting.hint();
            let found = self.look(id).await?;
            let open = match &found {
                Some(record) => record.state == OrderState::Queued,
                None => self.may_be_queued(id),
            };
            let now = Instant::now();
            if !open || now >= deadline || self.stop.is_cancelled() {
                return Ok(found);
            }
            tokio::select! {
                () = hint => {}
                () = tokio::time::sleep_until(deadline.min(now + LOOK_EVERY)) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Whether an order that the ledger does not know may still be in the queue: only where the
    /// two share no store, and only under a name that flux made.
    fn may_be_queued(&self, id: OrderId) -> bool {
        self.api.backend == "aws" && self.api.ports.names.verify(id)
    }
}

fn wait(query: Option<&str>) -> Result<Duration, Problem> {
    let Some(value) = query::value(query, "wait") else { return Ok(Duration::ZERO) };
    let seconds = value.and_then(|text| text.parse().ok());
    match seconds.filter(|seconds| *seconds <= WAIT_MAX_S) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(Problem::bad_request("wait must be a whole number of seconds, at most 30")),
    }
}

fn shown(record: &OrderRecord) -> OrderJson<'_> {
    let order = &record.order;
    let (status, reason, decided_at) = match record.state {
        OrderState::Queued => ("queued", None, None),
        OrderState::DeadLettered => ("dead_lettered", None, None),
        OrderState::Decided { decision, decided_at } => {
            (decision.status(), decision.reason(), Some(rfc3339(decided_at)))
        }
    };
    OrderJson {
        order_id: order.id.to_string(),
        user_id: Some(order.user.as_str()),
        item_id: Some(order.item.as_str()),
        quantity: Some(order.quantity.units()),
        status,
        reason,
        accepted_at: Some(rfc3339(order.accepted_at)),
        decided_at,
    }
}
