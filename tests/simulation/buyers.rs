//! Simulated buyers: they send requests, retry without a response, repeat accepted ones, and
//! sometimes reuse a key for another request.

use std::sync::Arc;
use std::time::Duration;

use flux::core::engine::intake::{OrderRequest, Refused};
use flux::core::model::{IdempotencyKey, ItemId, Order, Quantity, UserId};
use tokio::time::sleep;

use super::auditor::Requested;
use super::scenario::{ApiProcess, Sale};

const ATTEMPTS: u32 = 6;

pub async fn buy(sale: Arc<Sale>, number: u64) {
    let world = &sale.world;
    sleep(Duration::from_millis(world.below(sale.plan.length.min(sale.plan.rush)))).await;
    let user = format!("user-{}", world.below(sale.plan.buyers));
    let key = if world.one_in(2) { Some(format!("key-{}", world.below(2))) } else { None };
    let mut request = random_request(&sale, &user);
    for _ in 0..ATTEMPTS {
        let Some(running_api) = sale.running_api() else {
            sleep(Duration::from_millis(500)).await;
            continue;
        };
        if let Some(key) = &key {
            world.audit(|auditor| auditor.tried(key, &request));
        }
        world.trace(format_args!(
            "buyer {number} asks {} for {request:?} {key:?}",
            running_api.process.name
        ));
        match send(&running_api, &request, key.as_deref()).await {
            Some(Ok(order)) => {
                world.trace(format_args!("buyer {number} has a 202 for {}", order.id));
                world.audit(|auditor| auditor.promised(&order, key.as_deref()));
                if key.is_none() || world.one_in(2) {
                    return;
                }
                if world.one_in(2) {
                    request = random_request(&sale, &user);
                }
            }
            Some(Err(Refused::KeyReused)) => {
                world.trace(format_args!("buyer {number} is refused"));
                let key = key.as_deref().unwrap_or_default();
                return world.audit(|auditor| auditor.refused(key, &request));
            }
            Some(Err(Refused::Overloaded(_) | Refused::Unconfirmed { .. })) | None => {}
        }
        sleep(world.span((1, 3_000))).await;
    }
}

fn random_request(sale: &Sale, user: &str) -> Requested {
    let world = &sale.world;
    let units = if world.one_in(3) { world.between((2, 5)) } else { 1 };
    (user.to_owned(), world.pick(&sale.plan.items).to_string(), units)
}

/// The response of the API; `None` if its process is killed first.
async fn send(
    running_api: &ApiProcess,
    request: &Requested,
    key: Option<&str>,
) -> Option<Result<Order, Refused>> {
    let request = OrderRequest {
        user: UserId::parse(&request.0).unwrap(),
        item: ItemId::parse(&request.1).unwrap(),
        quantity: Quantity::new(request.2).unwrap(),
        key: key.map(|key| IdempotencyKey::parse(key.as_bytes()).unwrap()),
        trace: None,
    };
    let answer = async {
        running_api.process.wait_while_paused().await;
        let answer = running_api.intake.accept(request).await;
        running_api.process.wait_while_paused().await;
        answer
    };
    tokio::select! {
        biased;
        () = running_api.process.died() => None,
        answer = answer => Some(answer),
    }
}
