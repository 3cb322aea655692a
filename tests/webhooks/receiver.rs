//! A webhook endpoint: a real HTTP server that checks signatures with the library of the Standard
//! Webhooks project and responds as the test demands.

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

/// A received request.
#[derive(Debug, Clone)]
pub struct Received {
    pub id: String,
    /// True if the signature is valid.
    pub signed: bool,
    pub event: Value,
}

/// The response to a request.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    Status(u16),
    /// Reads the request and closes the connection without a response.
    HangUp,
    Never,
}

/// The response by the number of the request, its number among the requests of the same event (both from
/// 0), and the event.
pub type Script = Arc<dyn Fn(u64, u64, &Value) -> Reply + Send + Sync>;

struct Endpoint {
    keys: Vec<Webhook>,
    script: Mutex<Script>,
    requests: Mutex<Vec<Received>>,
}

/// A server that runs until it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    endpoint: Arc<Endpoint>,
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
    /// Starts on a free port. Each request must be signed with all these secrets.
    pub fn open(
        secrets: &[&str],
        script: impl Fn(u64, u64, &Value) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        Self::open_at("127.0.0.1:0".parse().unwrap(), secrets, script)
    }

    pub fn open_at(
        address: SocketAddr,
        secrets: &[&str],
        script: impl Fn(u64, u64, &Value) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        let keys = secrets.iter().map(|secret| Webhook::new(secret).unwrap()).collect();
        let script = Mutex::new(Arc::new(script) as Script);
        let endpoint = Arc::new(Endpoint { keys, script, requests: Mutex::default() });
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, endpoint.clone()));
        Receiver { address, endpoint, running: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks?key=open-sesame", self.address)
    }

    /// Replaces the script.
    pub fn reply_with(&self, script: impl Fn(u64, u64, &Value) -> Reply + Send + Sync + 'static) {
        *self.endpoint.script.lock().unwrap() = Arc::new(script);
    }

    pub fn requests(&self) -> Vec<Received> {
        self.endpoint.requests.lock().unwrap().clone()
    }

    /// Waits until this many requests have arrived; returns all.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        let begun = Instant::now();
        loop {
            let requests = self.requests();
            let n = requests.len();
            if n >= count {
                return requests;
            }
            assert!(begun.elapsed() < PATIENCE, "only {n} of {count}: {requests:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an event of each of these orders has arrived. Checks that all are signed and that
    /// repeated events are equal; returns the events by order.
    pub fn wait_for_orders(&self, orders: &[String]) -> HashMap<String, Value> {
        let begun = Instant::now();
        loop {
            let requests = self.requests();
            let arrived: HashSet<&str> =
                requests.iter().filter_map(|request| request.id.strip_prefix("msg_")).collect();
            let missing = orders.iter().filter(|order| !arrived.contains(order.as_str())).count();
            if missing == 0 {
                return by_order(requests);
            }
            assert!(begun.elapsed() < PATIENCE, "{missing} of {} events are missing", orders.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn by_order(requests: Vec<Received>) -> HashMap<String, Value> {
    let mut events: HashMap<String, Value> = HashMap::new();
    for Received { id, signed, event } in requests {
        assert!(signed, "{id} {event}");
        let order = event["data"]["order_id"].as_str().unwrap().to_owned();
        assert_eq!(id, format!("msg_{order}"));
        if let Some(before) = events.insert(order, event.clone()) {
            assert_eq!(before, event);
        }
    }
    events
}

async fn serve(listener: std::net::TcpListener, endpoint: Arc<Endpoint>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let endpoint = endpoint.clone();
        let service = service_fn(move |request| respond(endpoint.clone(), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn respond(
    endpoint: Arc<Endpoint>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "half a request")?.to_bytes();
    let event: Value = serde_json::from_slice(&body).unwrap();
    let id = text(&head.headers, "webhook-id");
    let signed = endpoint.keys.iter().all(|key| key.verify(&body, &head.headers).is_ok());
    let (n, k) = {
        let mut requests = endpoint.requests.lock().unwrap();
        let n = requests.len() as u64;
        let k = requests.iter().filter(|request| request.id == id).count() as u64;
        requests.push(Received { id, signed, event: event.clone() });
        (n, k)
    };
    let script = endpoint.script.lock().unwrap().clone();
    let response = Response::builder();
    let response = match script(n, k, &event) {
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
