//! Export of spans to a collector: the OpenTelemetry SDK's batch processor with its OTLP exporter, as
//! JSON over HTTP.
//!
//! Nothing blocks on the collector. Spans wait in a bounded queue, from which a thread of the SDK sends
//! one request at a time. Spans that find the queue full are dropped and counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use opentelemetry::trace::{Link, SpanContext, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient as OtelHttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanLinks, SpanProcessor,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::http_client::HttpClient;
use crate::core::model::TraceContext;
use crate::core::model::text::percent_decoded;
use crate::core::ports::tracing::{Span, SpanKind, Spans, Value};

/// Spans in the queue, at most (P8): about 4 MB.
const WAITING_MAX: usize = 8_192;
/// Spans in one request, at most: about 600 KB.
const BATCH_MAX: usize = 512;
/// Time that the first span of a request waits for further ones.
const GATHER: Duration = Duration::from_secs(1);
/// Time limit of a request.
const RESPONSE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a response that are read, at most.
const RESPONSE_BYTES: usize = 4 * 1024;
/// Retries of a request that the collector may accept later.
const RETRIES: usize = 3;
/// Pause before the first retry; doubled for each further one.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(4);
/// Time after which no retry begins, whatever `Retry-After` requests.
const RETRY_WITHIN: Duration = Duration::from_secs(60);
/// The least time between two warnings about the collector.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The collector, and the name of this process.
#[derive(Debug)]
pub struct OtlpSettings {
    /// Absolute URL of the collector's endpoint for traces.
    pub url: Uri,
    /// Headers of each request. The values are marked as sensitive, so that `Debug` does not show them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`, unique per process.
    pub instance: String,
}

/// Reads `name=value,name=value` with percent-encoded values (OpenTelemetry Protocol Exporter,
/// "Specifying headers via environment variables"). `None` if the text is invalid.
pub fn parse_headers(text: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::try_from(name.trim()).ok()?;
        let value: Vec<u8> = percent_decoded(value.trim())?.collect();
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    pairs.map(pair).collect()
}

/// The export of spans to one collector.
#[derive(Debug)]
pub struct Otlp {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    counts: Arc<Counts>,
}

impl Otlp {
    /// Starts the SDK's thread. Makes no connection yet. Must be called on a tokio runtime, which makes
    /// the requests.
    pub fn start(
        http: HttpClient,
        settings: OtlpSettings,
    ) -> Result<Arc<Otlp>, ExporterBuildError> {
        let OtlpSettings { url, headers, service, instance } = settings;
        let counts = Arc::<Counts>::default();
        let endpoint = url.to_string();
        let runtime = Handle::current();
        let collector = Collector { http, url, headers, runtime, counts: counts.clone() };
        let retry = RetryPolicy::recommended()
            .with_max_retries(RETRIES)
            .with_initial_delay(RETRY_PAUSE)
            .with_max_delay(RETRY_PAUSE_MAX);
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(endpoint)
            .with_timeout(RETRY_WITHIN)
            .with_retry_policy(retry)
            .build()?;
        let exporter = Counted { exporter, counts: counts.clone() };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(GATHER)
            .build();
        let mut processor =
            BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let version = env!("CARGO_PKG_VERSION");
        let attributes =
            [("service.version", version.to_owned()), ("service.instance.id", instance)];
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)));
        processor.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("flux").with_version(version).build();
        Ok(Arc::new(Otlp { processor, scope, counts }))
    }

    /// Exports the waiting spans and stops. Blocks for at most `within`. Spans that end later are dropped.
    pub fn finish(&self, within: Duration) {
        if self.processor.shutdown_with_timeout(within).is_err() {
            let waiting = self.counts.waiting.load(Ordering::Relaxed);
            self.counts.dropped.fetch_add(waiting as u64, Ordering::Relaxed);
            self.counts.warn(&"the time limit of the stop was reached");
        }
    }
}

impl Spans for Otlp {
    fn record(&self, span: Span) {
        // Counted here, because the SDK does not report spans that its queue rejects.
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.processor.on_end(span_data(span, self.scope.clone()));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "span times have nanoseconds, the Clock milliseconds"
)]
fn span_data(span: Span, instrumentation_scope: InstrumentationScope) -> SpanData {
    let end_time = SystemTime::now();
    let link = |(trace, span): (u128, u64)| {
        let flags = TraceFlags::SAMPLED;
        let context = SpanContext::new(trace.into(), span.into(), flags, false, TraceState::NONE);
        Link::with_context(context)
    };
    let mut links = SpanLinks::default();
    links.links = span.links.into_iter().map(link).collect();
    SpanData {
        span_context: span_context(&span.context),
        parent_span_id: span.parent.unwrap_or_default().into(),
        parent_span_is_remote: span.kind == SpanKind::Server && span.parent.is_some(),
        span_kind: match span.kind {
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Client => opentelemetry::trace::SpanKind::Client,
            SpanKind::Producer => opentelemetry::trace::SpanKind::Producer,
            SpanKind::Consumer => opentelemetry::trace::SpanKind::Consumer,
        },
        name: span.name.into(),
        start_time: end_time.checked_sub(span.start.elapsed()).unwrap_or(end_time),
        end_time,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope,
    }
}

fn span_context(context: &TraceContext) -> SpanContext {
    let state = context.state().and_then(|state| state.parse().ok()).unwrap_or_default();
    SpanContext::new(context.trace.into(), context.span.into(), TraceFlags::SAMPLED, false, state)
}

fn attribute((key, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Whole(number) => KeyValue::new(key, number),
    }
}

/// The HTTP client of the SDK's exporter.
#[derive(Debug)]
struct Collector {
    http: HttpClient,
    url: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Runtime of the requests, because the SDK's thread has none.
    runtime: Handle,
    counts: Arc<Counts>,
}

#[async_trait]
impl OtelHttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter's own headers are dropped: it reads them unchecked from the environment.
        let mut post = Request::new(Full::new(request.into_body()));
        *post.method_mut() = Method::POST;
        *post.uri_mut() = self.url.clone();
        post.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        post.headers_mut().extend(self.headers.iter().cloned());
        let http = self.http.clone();
        let sent = async move { http.send(post, RESPONSE_WITHIN, RESPONSE_BYTES).await };
        let reply = self.runtime.spawn(sent).await?;
        let reply = reply.inspect_err(|e| self.counts.warn(e))?;
        if !reply.status.is_success() {
            self.counts.warn(&format_args!("HTTP status {}", reply.status));
        }
        let mut response = Response::new(reply.body.into());
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        Ok(response)
    }
}

/// The SDK's exporter, with a count of the spans that it could not deliver.
#[derive(Debug)]
struct Counted {
    exporter: opentelemetry_otlp::SpanExporter,
    counts: Arc<Counts>,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        match &exported {
            Ok(()) => self.counts.warn_of_overflow(),
            Err(e) => {
                self.counts.dropped.fetch_add(spans as u64, Ordering::Relaxed);
                self.counts.warn(e);
            }
        }
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// Spans in the SDK's queue and in its request.
    waiting: AtomicUsize,
    /// Spans that were not delivered, since the start.
    dropped: AtomicU64,
    /// Time of the last warning, and `dropped` at that time.
    warned: Mutex<Option<(Instant, u64)>>,
}

impl Counts {
    /// Warns if the queue was full since the last warning although the collector accepts requests.
    fn warn_of_overflow(&self) {
        let warned = *self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if self.dropped.load(Ordering::Relaxed) > warned.map_or(0, |(_, dropped)| dropped) {
            self.warn(&"the collector is too slow");
        }
    }

    /// Logs a warning, at most one per [`WARN_EVERY`].
    fn warn(&self, why: &dyn fmt::Display) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_some_and(|(at, _)| at.elapsed() < WARN_EVERY) {
            return;
        }
        let total = self.dropped.load(Ordering::Relaxed);
        let dropped = total - warned.map_or(0, |(_, before)| before);
        *warned = Some((Instant::now(), total));
        tracing::warn!(dropped, total, "trace export failed: {why}");
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    const EXCESS: usize = 100;

    /// Records [`EXCESS`] more spans than the queue holds.
    fn overflowing(collector: &TcpListener) -> Arc<Otlp> {
        let url = format!("http://{}/v1/traces", collector.local_addr().unwrap()).parse().unwrap();
        let instance = String::new();
        let settings = OtlpSettings { url, headers: vec![], service: "flux".into(), instance };
        let otlp = Otlp::start(HttpClient::new(), settings).unwrap();
        let span = Span {
            context: TraceContext::begin(1, 1).unwrap(),
            parent: None,
            name: "buy",
            kind: SpanKind::Server,
            start: Instant::now(),
            attributes: vec![],
            links: vec![],
            error: None,
        };
        (0..WAITING_MAX + EXCESS).for_each(|_| otlp.record(span.clone()));
        otlp
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_beyond_the_bound_are_dropped_and_counted() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let otlp = overflowing(&mute);
        let dropped = || otlp.counts.dropped.load(Ordering::Relaxed);
        assert_eq!(dropped(), EXCESS as u64);
        otlp.finish(Duration::ZERO);
        assert_eq!(dropped(), (WAITING_MAX + EXCESS) as u64);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn dropped_spans_are_reported_while_the_collector_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let otlp = overflowing(&listener);
        tokio::spawn(async move {
            let answer = async |request: Request<Incoming>| {
                request.into_body().collect().await.map(|_| Response::new(String::from("{}")))
            };
            while let Ok((stream, _)) = listener.accept().await {
                let serving = http1::Builder::new();
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        otlp.finish(Duration::from_secs(60));
        assert_eq!(otlp.counts.waiting.load(Ordering::Relaxed), 0);
        let warned = otlp.counts.warned.lock().unwrap();
        assert_eq!(warned.map(|(_, dropped)| dropped), Some(EXCESS as u64));
    }
}
