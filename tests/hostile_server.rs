//! Servers that break the API's promises: `flux stress --target` must report them, and must tolerate busy
//! responses and broken connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flux::core::model::ItemId;
use flux::load::{Address, AuditResult, LoadPlan, Report, Stress, Target};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The response to the n-th request, counted from 0: a status, and an order's number (`POST /buy`) or a
/// body. `None` closes the connection.
type Script = fn(n: u64, url: &str, key: Option<&str>) -> Option<(u16, Value)>;

const SOLD_OUT: [u64; 4] = [1, 0, 0, 1];

fn item([stock, free, held, sold]: [u64; 4]) -> Value {
    json!({"stock": stock, "free": free, "held": held, "sold": sold})
}

fn sold_out() -> Value {
    json!({"status": "rejected", "reason": "sold_out"})
}

async fn respond(
    script: Script,
    n: u64,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let key = request.headers().get("idempotency-key").and_then(|k| k.to_str().ok());
    let reply = script(n, &request.uri().to_string(), key);
    let _body = request.into_body().collect().await;
    let (status, value) = reply.ok_or("hang up")?;
    let mut response = Response::builder().status(status).header("retry-after", "0");
    if let Some(order) = value.as_u64() {
        response = response.header("location", format!("/orders/{order:032x}"));
    }
    Ok(response.body(Full::from(value.to_string())).unwrap())
}

async fn serve(listener: TcpListener, script: Script) -> Infallible {
    let count = Arc::new(AtomicU64::new(0));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let count = count.clone();
        let service =
            service_fn(move |r| respond(script, count.fetch_add(1, Ordering::Relaxed), r));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn stress(script: Script) -> Report {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let item = ItemId::parse("ticket_001").unwrap();
    let plan = LoadPlan {
        item,
        stock: None,
        users: 40,
        connections: 4,
        rate: None,
        duplicates: 0.5,
        seed: 1,
    };
    let stress = Stress { plan, target: Target { address, own: None } }.run();
    tokio::select! {
        report = stress => report.unwrap(),
        never = serve(listener, script) => match never {},
    }
}

/// The order's number for a request: equal for equal keys, which end with the buyer's number.
fn order(n: u64, key: Option<&str>) -> Value {
    let buyer = key.and_then(|k| k.rsplit('-').next()?.parse::<u64>().ok());
    json!(buyer.unwrap_or(1_000 + n))
}

#[tokio::test]
async fn busy_responses_and_broken_connections_are_tolerated() {
    let report = stress(|n, path, key| match (path, n % 5) {
        ("/buy", 1) => Some((503, json!({}))),
        ("/buy", 2) => Some((429, json!({}))),
        ("/buy", 3) => None,
        ("/buy", _) => Some((202, order(n, key))),
        ("/items/ticket_001", _) => Some((200, item([1, 0, 0, 1]))),
        _ => Some((200, sold_out())),
    })
    .await;
    assert_eq!(report.faults, [""; 0]);
    assert!(report.refused > 10 && report.connection_errors > 5);
    assert_eq!((report.accepted, report.rejected), (40, 40));
}

async fn fault(script: Script) -> String {
    let report = stress(script).await;
    assert_eq!(report.verdict, AuditResult::Fail);
    report.faults.join("; ")
}

#[tokio::test]
async fn repeat_with_another_order_id_is_reported() {
    let fault = fault(|n, path, _| match path {
        "/buy" => Some((202, json!(1_000 + n))),
        "/items/ticket_001" => Some((200, item(SOLD_OUT))),
        _ => Some((200, sold_out())),
    });
    assert!(fault.await.contains("repeats with another order id"));
}

#[tokio::test]
async fn changed_decision_is_reported() {
    let fault = fault(|n, path, key| match path {
        "/buy" => Some((202, order(n, key))),
        "/items/ticket_001" => Some((200, item(SOLD_OUT))),
        path if path.ends_with("wait=30") => Some((200, json!({"status": "sold"}))),
        _ => Some((200, sold_out())),
    });
    assert_eq!(fault.await, "2 decisions changed after they were first read");
}

#[tokio::test]
async fn oversold_and_stranded_units_are_reported() {
    let oversold = fault(|n, path, key| match path {
        "/buy" => Some((202, order(n, key))),
        "/items/ticket_001" => Some((200, item(SOLD_OUT))),
        _ => Some((200, json!({"status": "sold"}))),
    });
    assert!(oversold.await.starts_with("39 oversold units"));
    let stranded = fault(|n, path, key| match path {
        "/buy" => Some((202, order(n, key))),
        "/items/ticket_001" => Some((200, item([3, 2, 0, 1]))),
        _ => Some((200, sold_out())),
    });
    assert!(stranded.await.starts_with("2 stranded units"));
}

#[tokio::test]
async fn unexpected_response_is_quoted() {
    let fault = fault(|_, path, _| match path {
        "/buy" => Some((500, json!("the shop burnt down"))),
        _ => Some((404, json!({}))),
    });
    let fault = fault.await;
    assert!(fault.contains("unexpected responses") && fault.contains("burnt down"), "{fault}");
    assert!(fault.contains("no order was accepted"));
}
