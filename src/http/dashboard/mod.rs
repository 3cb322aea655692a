//! The dashboard: what can be seen of the sale while it runs. Once a second a sample is taken, kept
//! for the plots, and sent to whoever watches (`GET /events`).

pub(super) mod events;
mod processes;
mod sample;
mod store;
mod text;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::access::{Access, Session};
use super::event_stream;
use super::event_stream::{EventStream, SILENCE_MAX};
use crate::core::engine::Ports;
pub(super) use sample::Sample;
use sample::Sampler;
use text::PlotPoint;

/// Samples that are kept for the plots: five minutes.
const HISTORY: usize = 300;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long after a scrape of the metrics the services are still asked for what costs money.
const SCRAPED_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(super) struct Dashboard {
    ports: Ports,
    access: Arc<Access>,
    backend: &'static str,
    started: Instant,
    state: Mutex<DashboardState>,
}

#[derive(Debug, Default)]
struct DashboardState {
    watchers: Vec<Watcher>,
    /// Oldest first.
    points: VecDeque<PlotPoint>,
    /// The event `history` as it is now, once somebody has asked for it.
    history: Option<Bytes>,
    latest: Option<Arc<Sample>>,
    scraped: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Watcher {
    events: EventStream,
    /// Who it is may change while the stream is open.
    session: Session,
}

impl Dashboard {
    pub fn new(ports: Ports, access: Arc<Access>, backend: &'static str, started: Instant) -> Self {
        Self { ports, access, backend, started, state: Mutex::default() }
    }

    /// Takes samples until stopped; then every watcher's stream ends.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut sampler = Sampler::new(self.ports.clone(), self.backend == "embedded");
        let mut every = interval(SAMPLE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sampling = async {
            loop {
                every.tick().await;
                let sample = self.sample(&mut sampler).await;
                self.publish(sample);
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            never = sampling => match never {},
        }
        let mut state = self.state();
        state.closed = true;
        state.watchers.clear();
    }

    /// A sample, with a sign of life to the watchers for as long as it takes.
    async fn sample(&self, sampler: &mut Sampler) -> Sample {
        let wanted = {
            let state = self.state();
            let scraped = state.scraped.is_some_and(|at| at.elapsed() < SCRAPED_WITHIN);
            scraped || !state.watchers.is_empty()
        };
        let mut sampling = std::pin::pin!(sampler.sample(wanted));
        loop {
            tokio::select! {
                sample = &mut sampling => return sample,
                () = sleep(SILENCE_MAX) => self.send(|_| event_stream::keep_alive()),
            }
        }
    }

    fn publish(&self, sample: Sample) {
        {
            let mut state = self.state();
            state.points.push_back(PlotPoint::of(&sample));
            if state.points.len() > HISTORY {
                state.points.pop_front();
            }
            state.history = None;
        }
        let uptime = self.started.elapsed();
        let mut named = None;
        let mut nameless = None;
        self.send(|sees_names| {
            let text = if sees_names { &mut named } else { &mut nameless };
            let text = text.get_or_insert_with(|| {
                let text = text::dashboard(&sample, self.backend, uptime, sees_names);
                event_stream::event("board", None, &text)
            });
            text.clone()
        });
        self.state().latest = Some(Arc::new(sample));
    }

    /// Sends everybody an event, in texts that they share; whoever is gone is removed. Keys are
    /// compared for each event, so a key that was withdrawn shows no more names.
    fn send(&self, mut event: impl FnMut(bool) -> Bytes) {
        self.state().watchers.retain(|watcher| {
            let sees_names = self.access.shows_names_to(watcher.session.credential());
            watcher.events.offer(event(sees_names))
        });
    }

    /// Sends a client first the history, then a sample once a second. At once over when the server
    /// stops.
    fn subscribe(&self, events: EventStream, session: Session) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let DashboardState { points, history, .. } = &mut *state;
        let first = history
            .get_or_insert_with(|| event_stream::event("history", None, &text::history(points)));
        if events.offer(first.clone()) {
            state.watchers.push(Watcher { events, session });
        }
    }

    /// The latest sample, for the metrics; for a while after this, samples are complete.
    pub fn scraped(&self) -> Option<Arc<Sample>> {
        let mut state = self.state();
        state.scraped = Some(Instant::now());
        state.latest.clone()
    }

    fn state(&self) -> MutexGuard<'_, DashboardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
