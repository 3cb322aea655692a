//! A small server for the metrics of a process without an API.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::core::engine::Ports;
use crate::http::problem;
use crate::http::problem::Problem;
use crate::http::response::Response;
use crate::http::stream::{Activity, BoundedStream, Timeouts};

/// Maximum open connections (P8); further ones are closed.
const CONNECTIONS_MAX: usize = 16;
/// Maximum time to receive a request head, and maximum wait for a client that does not read.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `/metrics` and `/healthz` until stopped, then closes all connections.
pub async fn serve_metrics(listener: TcpListener, ports: Ports, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!("accept failed on metrics_listen: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let ports = ports.clone();
        connections.spawn(async move {
            let activity = Activity::new();
            let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let end = activity.answering();
                let mut response = respond(request.method(), request.uri().path(), &ports);
                response.body_mut().end_with(end);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let (reader, writer) = stream.into_split();
            let timeouts = Timeouts { idle: TIMEOUT, head: TIMEOUT, write: TIMEOUT };
            let stream = BoundedStream::new(Arc::new(reader), writer, activity.clone(), timeouts);
            let mut http = http1::Builder::new();
            let _cut = http.header_read_timeout(None).serve_connection(stream, service).await;
            drop(permit);
        });
    }
    connections.shutdown().await;
}

fn respond(method: &Method, path: &str, ports: &Ports) -> Response {
    let read = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/metrics" if read => super::process_metrics(ports),
        "/healthz" if read => problem::json(StatusCode::OK, &json!({ "status": "ok" })),
        "/metrics" | "/healthz" => Problem::method_not_allowed("GET, HEAD").into_response(),
        _ => Problem::not_found("path not found; this server has /metrics and /healthz")
            .into_response(),
    }
}
