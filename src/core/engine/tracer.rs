//! Opens spans, and decides which traces are recorded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::model::{IdSource, Order, TraceContext};
use crate::core::ports::tracing::{Span, SpanKind, Spans, Value};

/// The most traces per second that a process records, its own and its clients' (P8). The context
/// of further ones is only passed on.
const TRACES_PER_SECOND: u32 = 1_000;
/// The most links of one span; the OpenTelemetry SDKs have the same bound.
const LINKS_MAX: usize = 128;

/// Opens spans. Cheap to clone. A disabled tracer opens none and passes callers' contexts on.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    spans: Arc<dyn Spans>,
    ids: Arc<dyn IdSource>,
    /// Fraction of the requests without a trace that begin one, 0 to 1.
    ratio: f64,
    requests: RateLimit,
    decisions: RateLimit,
}

impl Tracer {
    /// `ratio`: fraction of the requests without a trace that begin one, 0 to 1.
    pub fn new(spans: Arc<dyn Spans>, ids: Arc<dyn IdSource>, ratio: f64) -> Tracer {
        let requests = RateLimit::default();
        let decisions = RateLimit::default();
        Tracer(Some(Arc::new(Recorder { spans, ids, ratio, requests, decisions })))
    }

    pub fn off() -> Tracer {
        Tracer(None)
    }

    /// Opens the span of a request, in its caller's trace or in a new one. Also returns the context
    /// for the order.
    pub fn request(
        &self,
        name: &'static str,
        caller: Option<TraceContext>,
    ) -> (Option<Box<TraceContext>>, OpenSpan) {
        let Some(recorder) = &self.0 else { return (caller.map(Box::new), OpenSpan::none()) };
        let (context, parent) = match caller {
            Some(caller) if !caller.is_sampled() => {
                return (Some(Box::new(caller)), OpenSpan::none());
            }
            Some(caller) if !recorder.requests.take() => {
                // Not sampled, so that later steps do not record a trace without this span.
                return (Some(Box::new(caller.at(recorder.span(), false))), OpenSpan::none());
            }
            Some(caller) => (caller.at(recorder.span(), true), Some(caller.span)),
            None if fastrand::f64() >= recorder.ratio || !recorder.requests.take() => {
                return (None, OpenSpan::none());
            }
            None => (recorder.new_trace(), None),
        };
        let open = recorder.open(name, SpanKind::Server, context.clone(), parent);
        (Some(Box::new(context)), open)
    }

    /// Opens the span of a step that handles many orders, if any of them is recorded. The span is
    /// in the first one's trace and linked to the traces of all.
    pub fn batch<'a>(
        &self,
        name: &'static str,
        kind: SpanKind,
        orders: impl Iterator<Item = &'a Order>,
    ) -> OpenSpan {
        let Some(recorder) = &self.0 else { return OpenSpan::none() };
        let mut contexts = orders.filter_map(recorded).peekable();
        let Some(first) = contexts.peek() else { return OpenSpan::none() };
        let mut batch = recorder.child_of(first, name, kind);
        contexts.for_each(|context| batch.link(context));
        batch
    }

    /// Opens the span of a step that handles one order, as a child of its request's span, if that
    /// is recorded.
    pub fn decision(&self, name: &'static str, order: &Order) -> OpenSpan {
        let (Some(recorder), Some(context)) = (&self.0, recorded(order)) else {
            return OpenSpan::none();
        };
        match recorder.decisions.take() {
            true => recorder.child_of(context, name, SpanKind::Consumer),
            false => OpenSpan::none(),
        }
    }
}

fn recorded(order: &Order) -> Option<&TraceContext> {
    order.trace.as_deref().filter(|context| context.is_sampled())
}

impl Recorder {
    fn new_trace(&self) -> TraceContext {
        let context = TraceContext::begin(self.ids.next_id(), self.span());
        context.expect("random ids are never 0")
    }

    fn span(&self) -> u64 {
        (self.ids.next_id() as u64).max(1)
    }

    fn child_of(
        self: &Arc<Self>,
        parent: &TraceContext,
        name: &'static str,
        kind: SpanKind,
    ) -> OpenSpan {
        self.open(name, kind, parent.at(self.span(), true), Some(parent.span))
    }

    fn open(
        self: &Arc<Self>,
        name: &'static str,
        kind: SpanKind,
        context: TraceContext,
        parent: Option<u64>,
    ) -> OpenSpan {
        let start = Instant::now();
        let attributes = Vec::new();
        let links = Vec::new();
        let span = Span { context, parent, name, kind, start, attributes, links, error: None };
        OpenSpan(Some(Box::new((span, self.clone()))))
    }
}

/// A span that ends when it is dropped, or no span, which costs nothing.
#[derive(Debug)]
pub struct OpenSpan(Option<Box<(Span, Arc<Recorder>)>>);

impl OpenSpan {
    pub fn none() -> OpenSpan {
        OpenSpan(None)
    }

    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Sets an attribute. `value` is called only if there is a span.
    pub fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(open) = &mut self.0 {
            open.0.attributes.push((name, value().into()));
        }
    }

    pub fn fail(&mut self, why: impl FnOnce() -> String) {
        if let Some(open) = &mut self.0 {
            open.0.error = Some(why());
        }
    }

    /// Sets an earlier start.
    pub fn since(&mut self, start: Instant) {
        if let Some(open) = &mut self.0 {
            open.0.start = start;
        }
    }

    pub fn link(&mut self, context: &TraceContext) {
        if let Some(open) = &mut self.0
            && open.0.links.len() < LINKS_MAX
        {
            open.0.links.push((context.trace, context.span));
        }
    }

    /// Links another span to this one.
    pub fn link_to(&mut self, other: &OpenSpan) {
        if let Some(other) = &other.0 {
            self.link(&other.0.context);
        }
    }

    /// Awaits `call`. It gets a child span if the log filter enables `flux::calls=debug`.
    pub async fn call<T>(&self, name: &'static str, call: impl Future<Output = T>) -> T {
        let _child = match &self.0 {
            Some(open) if tracing::enabled!(target: "flux::calls", tracing::Level::DEBUG) => {
                open.1.child_of(&open.0.context, name, SpanKind::Client)
            }
            _ => OpenSpan::none(),
        };
        call.await
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let (span, recorder) = *open;
            recorder.spans.record(span);
        }
    }
}

/// Allows [`TRACES_PER_SECOND`].
#[derive(Debug, Default)]
struct RateLimit(Mutex<Option<(Instant, u32)>>);

impl RateLimit {
    /// Counts one trace; false if it is over the limit.
    fn take(&self) -> bool {
        let now = Instant::now();
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, taken) = match &mut *second {
            Some(current) if now < current.0 + Duration::from_secs(1) => current,
            past => past.insert((now, 0)),
        };
        *taken += 1;
        *taken <= TRACES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::SystemIdSource;

    #[derive(Debug, Default)]
    struct Recorded(Mutex<Vec<Span>>);

    impl Spans for Recorded {
        fn record(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    fn tracer(ratio: f64) -> (Tracer, Arc<Recorded>) {
        let kept = Arc::<Recorded>::default();
        (Tracer::new(kept.clone(), Arc::new(SystemIdSource), ratio), kept)
    }

    fn caller(flags: &str) -> Option<TraceContext> {
        let parent = format!("00-{}-{}-{flags}", "4b".repeat(16), "0f".repeat(8));
        TraceContext::parse(parent.as_bytes(), Some("a=1"))
    }

    #[tokio::test(start_paused = true)]
    async fn ratio_of_requests_without_a_trace_begins_one() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.1, 50, 150), (1.0, 1_000, 1_000)] {
            let (tracer, kept) = tracer(ratio);
            (0..1_000).for_each(|_| drop(tracer.request("buy", None)));
            let begun = kept.0.lock().unwrap().len();
            assert!((least..=most).contains(&begun), "{ratio}: {begun}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sampled_callers_trace_is_recorded_and_others_pass_through() {
        let (tracer, kept) = tracer(1.0);
        let (carried, open) = tracer.request("buy", caller("00"));
        assert!(carried.as_deref() == caller("00").as_ref() && !open.is_open());
        let (carried, open) = tracer.request("buy", caller("01"));
        drop(open);
        let span = kept.0.lock().unwrap().remove(0);
        assert_eq!(carried.as_deref(), Some(&span.context));
        assert_eq!(
            (span.context.trace, span.parent),
            (u128::from_be_bytes([0x4b; 16]), Some(0x0f0f_0f0f_0f0f_0f0f))
        );
        assert_eq!(span.context.state(), Some("a=1"));
        assert_ne!(Some(span.context.span), span.parent);
    }

    #[tokio::test(start_paused = true)]
    async fn traces_over_the_rate_limit_are_not_recorded() {
        let (tracer, kept) = tracer(1.0);
        let carried: Vec<_> = (0..1_500).map(|_| tracer.request("buy", caller("01")).0).collect();
        let sampled = carried.iter().flatten().filter(|context| context.is_sampled()).count();
        assert_eq!((sampled, kept.0.lock().unwrap().len()), (1_000, 1_000));
        assert!(carried.iter().all(|c| c.as_ref().unwrap().trace == caller("01").unwrap().trace));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tracer.request("buy", None).1.is_open());
    }
}
