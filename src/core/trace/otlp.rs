//! Spans to a collector, by OTLP over HTTP in JSON (OpenTelemetry Protocol 1.x, "OTLP/HTTP").
//!
//! Whatever the collector does, nobody waits for it: spans gather in a bounded queue, one request
//! at a time takes them from there, and what finds no room is left out and counted.

mod json;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Span, Spans};
use crate::core::connection::web::Web;

/// Spans that wait to be sent, at most (P8): some 4 MB.
const WAITING_MAX: usize = 8_192;
/// Spans in one request: some 400 KB.
const BATCH_MAX: usize = 512;
/// How long the first span of a request waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long a request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 4 * 1024;
/// Tries at a request that the collector may take later, and the pause before the second, which is
/// doubled for each further one.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is said that spans were left out.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Where spans go, and whose they are.
#[derive(Debug)]
pub struct OtlpSettings {
    /// The URL of the collector's traces, an absolute one.
    pub url: Uri,
    /// Sent with each request. Secrets: marked as such, so that `Debug` does not show them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `service.name`.
    pub service: String,
    /// Names this process: `service.instance.id`.
    pub instance: String,
}

/// Reads `name=value,name=value`, the values percent-encoded where they have to be (OpenTelemetry
/// Protocol Exporter, "Specifying headers via environment variables"). `None` if it is not that.
pub fn parse_headers(text: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::try_from(name.trim()).ok()?;
        let mut value = HeaderValue::from_bytes(&percent_decoded(value.trim())?).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    pairs.map(pair).collect()
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(rest.as_bytes());
    }
    Some(decoded)
}

#[derive(Debug)]
pub struct Otlp {
    waiting: mpsc::Sender<Span>,
    left_out: Arc<AtomicU64>,
}

impl Otlp {
    /// An exporter, and the future that sends. It ends when `finish` is cancelled, after one last
    /// request with what is left, which may take `last`.
    pub fn start(
        web: Web,
        settings: OtlpSettings,
        finish: CancellationToken,
        last: Duration,
    ) -> (Arc<Otlp>, BoxFuture<'static, ()>) {
        let (waiting, spans) = mpsc::channel(WAITING_MAX);
        let left_out = Arc::<AtomicU64>::default();
        let said = Said { left_out: left_out.clone(), all: 0, next: Instant::now() };
        let sender = Sender { web, settings, spans, finish, said };
        (Arc::new(Otlp { waiting, left_out }), Box::pin(sender.run(last)))
    }
}

impl Spans for Otlp {
    fn record(&self, span: Span) {
        if self.waiting.try_send(span).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Why spans did not get there.
enum Failed {
    /// The same may be taken later.
    Later(String),
    Never(String),
}

struct Sender {
    web: Web,
    settings: OtlpSettings,
    spans: mpsc::Receiver<Span>,
    finish: CancellationToken,
    said: Said,
}

impl Sender {
    async fn run(mut self, last: Duration) {
        let finish = self.finish.clone();
        let mut batch = Vec::new();
        // What is on its way when it is time to finish is sent again with the rest.
        while finish.run_until_cancelled(self.send_next(&mut batch)).await.is_some() {}
        let end = Instant::now() + last;
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            let sent = timeout_at(end, self.post(&batch)).await;
            let sent = sent.unwrap_or_else(|_| Err(Failed::Never("no time was left".to_owned())));
            if let Err(Failed::Later(why) | Failed::Never(why)) = sent {
                self.said.count(batch.len() + self.spans.len());
                self.said.say(&why);
                break;
            }
            batch.clear();
        }
    }

    /// Gathers a batch and sends it; empties it in the end.
    async fn send_next(&mut self, batch: &mut Vec<Span>) {
        if self.spans.recv_many(batch, BATCH_MAX).await == 0 {
            // Nobody is left who could record any.
            return self.finish.cancelled().await;
        }
        let full = async {
            while batch.len() < BATCH_MAX
                && self.spans.recv_many(batch, BATCH_MAX - batch.len()).await > 0
            {}
        };
        let _gathered = timeout(GATHER, full).await;
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.post(batch).await {
                Ok(()) => break,
                Err(Failed::Later(why)) if attempt < ATTEMPTS => {
                    self.said.say(&why);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(Failed::Later(why) | Failed::Never(why)) => {
                    self.said.count(batch.len());
                    self.said.say(&why);
                }
            }
        }
        batch.clear();
    }

    async fn post(&self, batch: &[Span]) -> Result<(), Failed> {
        let body = Full::new(json::request(batch, &self.settings).into());
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.settings.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.settings.headers.iter().cloned());
        let answer = self.web.send(request, ANSWER_WITHIN, ANSWER_BYTES).await;
        match answer.map_err(|e| Failed::Later(e.to_string()))?.status {
            status if status.is_success() => Ok(()),
            // OTLP 1.x, "Retryable response codes".
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => Err(Failed::Later(format!("it answers {status}"))),
            status => Err(Failed::Never(format!("it answers {status}"))),
        }
    }
}

/// What was said of spans that were left out, and when there may be more of it.
struct Said {
    left_out: Arc<AtomicU64>,
    all: u64,
    next: Instant,
}

impl Said {
    fn count(&self, spans: usize) {
        self.left_out.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// Once in a while, in one line.
    fn say(&mut self, why: &dyn fmt::Display) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        self.all += left_out;
        self.next = now + SAY_EVERY;
        tracing::warn!(
            left_out,
            all = self.all,
            "the collector of traces does not take them: {why}"
        );
    }
}
