//! A shop's end of the webhooks: a real HTTP server, that checks each request's signature with the
//! library of the Standard WebhookOutbox project and answers as it is told.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;

pub const PATIENCE: Duration = Duration::from_secs(90);

/// A request as it came, and whether its signature is right.
#[derive(Debug, Clone)]
pub struct Got {
    pub id: String,
    pub signed: bool,
    pub event: Value,
}

/// What the shop does about the n-th request (from 0), of which this is the k-th of its event
/// (from 0).
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    Status(u16),
    /// Takes it, and hangs up without an answer.
    HangUp,
    Never,
}

pub type Tale = Arc<dyn Fn(u64, u64, &Value) -> Reply + Send + Sync>;

struct Shop {
    keys: Vec<Webhook>,
    tale: Mutex<Tale>,
    got: Mutex<Vec<Got>>,
}

/// Receives until it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    shop: Arc<Shop>,
    running: Option<tokio::runtime::Runtime>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

impl Receiver {
    /// On a free port; its signatures may be made with any of these secrets.
    pub fn open(
        secrets: &[&str],
        tale: impl Fn(u64, u64, &Value) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        Self::open_at("127.0.0.1:0".parse().unwrap(), secrets, tale)
    }

    pub fn open_at(
        address: SocketAddr,
        secrets: &[&str],
        tale: impl Fn(u64, u64, &Value) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        let keys = secrets.iter().map(|secret| Webhook::new(secret).unwrap()).collect();
        let shop = Arc::new(Shop { keys, tale: Mutex::new(Arc::new(tale)), got: Mutex::default() });
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, shop.clone()));
        Receiver { address, shop, running: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks?key=open-sesame", self.address)
    }

    /// Answers so from now on.
    pub fn tell(&self, tale: impl Fn(u64, u64, &Value) -> Reply + Send + Sync + 'static) {
        *self.shop.tale.lock().unwrap() = Arc::new(tale);
    }

    pub fn got(&self) -> Vec<Got> {
        self.shop.got.lock().unwrap().clone()
    }

    /// Waits until this many requests came, and returns all.
    pub fn wait_for(&self, count: usize) -> Vec<Got> {
        let begun = Instant::now();
        loop {
            let got = self.got();
            if got.len() >= count {
                return got;
            }
            assert!(begun.elapsed() < PATIENCE, "only {} of {count}: {got:#?}", got.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an event of each of these orders came, and checks that all were signed and that
    /// none says two things; returns what each says.
    pub fn wait_for_orders(&self, orders: &[String]) -> HashMap<String, Value> {
        let begun = Instant::now();
        loop {
            let got = self.got();
            let heard: HashSet<&str> =
                got.iter().filter_map(|g| g.id.strip_prefix("msg_")).collect();
            let missing = orders.iter().filter(|order| !heard.contains(order.as_str())).count();
            if missing == 0 {
                return by_order(got);
            }
            assert!(begun.elapsed() < PATIENCE, "{missing} of {} were not told", orders.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn by_order(got: Vec<Got>) -> HashMap<String, Value> {
    let mut told: HashMap<String, Value> = HashMap::new();
    for Got { id, signed, event } in got {
        assert!(signed, "{id} {event}");
        let order = event["data"]["order_id"].as_str().unwrap().to_owned();
        assert_eq!(id, format!("msg_{order}"));
        if let Some(before) = told.insert(order, event.clone()) {
            assert_eq!(before, event);
        }
    }
    told
}

async fn serve(listener: std::net::TcpListener, shop: Arc<Shop>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shop = shop.clone();
        let service = service_fn(move |request| answer(shop.clone(), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    shop: Arc<Shop>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "half a request")?.to_bytes();
    let event: Value = serde_json::from_slice(&body).unwrap();
    let id = text(&head.headers, "webhook-id");
    let signed = shop.keys.iter().all(|key| key.verify(&body, &head.headers).is_ok());
    let (n, k) = {
        let mut got = shop.got.lock().unwrap();
        let place = (got.len() as u64, got.iter().filter(|g| g.id == id).count() as u64);
        got.push(Got { id, signed, event: event.clone() });
        place
    };
    let tale = shop.tale.lock().unwrap().clone();
    let response = Response::builder();
    let response = match tale(n, k, &event) {
        Reply::Status(status) => response.status(status),
        Reply::HangUp => return Err("hangs up"),
        Reply::Never => {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
    };
    Ok(response.body(Full::from("thank you")).unwrap())
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
