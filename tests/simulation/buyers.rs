//! Buyers: ask, ask again when in doubt, repeat themselves, and sometimes change their mind.

use std::sync::Arc;
use std::time::Duration;

use flux::core::engine::intake::{OrderRequest, Refused};
use flux::core::model::{IdempotencyKey, ItemId, Order, Quantity, UserId};
use tokio::time::sleep;

use super::auditor::Wish;
use super::scenario::{Door, Sale};

const TRIES: u32 = 6;

pub async fn buy(sale: Arc<Sale>, number: u64) {
    let world = &sale.world;
    sleep(Duration::from_millis(world.below(sale.plan.length.min(sale.plan.rush)))).await;
    let user = format!("user-{}", world.below(sale.plan.buyers));
    let key = if world.one_in(2) { Some(format!("key-{}", world.below(2))) } else { None };
    let mut wish = any_wish(&sale, &user);
    for _ in 0..TRIES {
        let Some(door) = sale.door() else {
            sleep(Duration::from_millis(500)).await;
            continue;
        };
        if let Some(key) = &key {
            world.audit(|auditor| auditor.tried(key, &wish));
        }
        world.tell(format_args!("buyer {number} asks {} for {wish:?} {key:?}", door.process.name));
        match ask(&door, &wish, key.as_deref()).await {
            Some(Ok(order)) => {
                world.tell(format_args!("buyer {number} has a 202 for {}", order.id));
                world.audit(|auditor| auditor.promised(&order, key.as_deref()));
                if key.is_none() || world.one_in(2) {
                    return;
                }
                if world.one_in(2) {
                    wish = any_wish(&sale, &user);
                }
            }
            Some(Err(Refused::KeyReused)) => {
                world.tell(format_args!("buyer {number} is refused"));
                let key = key.as_deref().unwrap_or_default();
                return world.audit(|auditor| auditor.refused(key, &wish));
            }
            Some(Err(Refused::Overloaded(_) | Refused::Unconfirmed { .. })) | None => {}
        }
        sleep(world.span((1, 3_000))).await;
    }
}

fn any_wish(sale: &Sale, user: &str) -> Wish {
    let world = &sale.world;
    let units = if world.one_in(3) { world.between((2, 5)) } else { 1 };
    (user.to_owned(), world.pick(&sale.plan.items).to_string(), units)
}

/// What the API answers; nothing when it dies before.
async fn ask(door: &Door, wish: &Wish, key: Option<&str>) -> Option<Result<Order, Refused>> {
    let request = OrderRequest {
        user: UserId::parse(&wish.0).unwrap(),
        item: ItemId::parse(&wish.1).unwrap(),
        quantity: Quantity::new(wish.2).unwrap(),
        key: key.map(|key| IdempotencyKey::parse(key.as_bytes()).unwrap()),
        trace: None,
    };
    let answer = async {
        door.process.turn().await;
        let answer = door.intake.accept(request).await;
        door.process.turn().await;
        answer
    };
    tokio::select! {
        biased;
        () = door.process.died() => None,
        answer = answer => Some(answer),
    }
}
