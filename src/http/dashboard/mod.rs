//! The feed of the dashboard (`GET /events`). Once a second it takes a sample of the sale, keeps it
//! for the plots, and sends it to all subscribers.

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

/// Number of samples kept for the plots: five minutes.
const HISTORY: usize = 300;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long after a scrape of `/metrics` the samples include reads that cost money.
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
    subscribers: Vec<Subscriber>,
    /// Oldest first.
    points: VecDeque<PlotPoint>,
    /// The event `history` with these points; `None` until it is requested.
    history: Option<Bytes>,
    latest: Option<Arc<Sample>>,
    scraped_at: Option<Instant>,
    is_closed: bool,
}

#[derive(Debug)]
struct Subscriber {
    events: EventStream,
    session: Session,
}

impl Dashboard {
    pub fn new(ports: Ports, access: Arc<Access>, backend: &'static str, started: Instant) -> Self {
        Self { ports, access, backend, started, state: Mutex::default() }
    }

    /// Takes samples until stopped, then ends all streams.
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
        state.is_closed = true;
        state.subscribers.clear();
    }

    /// Takes a sample. Keeps the streams alive while that takes long.
    async fn sample(&self, sampler: &mut Sampler) -> Sample {
        let is_watched = {
            let state = self.state();
            let is_scraped = state.scraped_at.is_some_and(|at| at.elapsed() < SCRAPED_WITHIN);
            is_scraped || !state.subscribers.is_empty()
        };
        let mut sampling = std::pin::pin!(sampler.sample(is_watched));
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
        let mut with_names = None;
        let mut without_names = None;
        self.send(|can_see_names| {
            let text = if can_see_names { &mut with_names } else { &mut without_names };
            let text = text.get_or_insert_with(|| {
                let text = text::dashboard(&sample, self.backend, uptime, can_see_names);
                event_stream::event("board", None, &text)
            });
            text.clone()
        });
        self.state().latest = Some(Arc::new(sample));
    }

    /// Sends an event to all subscribers and removes those that are gone. Keys are compared for each
    /// event, so a withdrawn key shows no more names.
    fn send(&self, mut event: impl FnMut(bool) -> Bytes) {
        self.state().subscribers.retain(|subscriber| {
            let can_see_names = self.access.shows_names_to(subscriber.session.credential());
            subscriber.events.offer(event(can_see_names))
        });
    }

    /// Sends a client the history, then a sample once a second. Ends the stream at once if the server
    /// is stopping.
    fn subscribe(&self, events: EventStream, session: Session) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        let DashboardState { points, history, .. } = &mut *state;
        let first = history
            .get_or_insert_with(|| event_stream::event("history", None, &text::history(points)));
        if events.offer(first.clone()) {
            state.subscribers.push(Subscriber { events, session });
        }
    }

    /// The latest sample, for `/metrics`. Also records the scrape, so that the next samples are
    /// complete.
    pub fn sample_for_metrics(&self) -> Option<Arc<Sample>> {
        let mut state = self.state();
        state.scraped_at = Some(Instant::now());
        state.latest.clone()
    }

    fn state(&self) -> MutexGuard<'_, DashboardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
