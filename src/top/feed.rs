//! Follows `GET /events`, on one connection after another.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::dashboard::{History, PlotPoint, Snapshot};
use super::events::{Event, EventParser};
use crate::client::Address;
use crate::client::stream::{Streamed, stream};

const PATH: &str = "/events";
/// The server sends something every second; after this long without data it is taken for gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Events that wait to be shown.
const EVENTS_WAITING: usize = 16;

#[derive(Debug)]
pub enum FeedEvent {
    History(Vec<PlotPoint>),
    Snapshot(Box<Snapshot>),
    /// There is no connection, in a few words; it is tried again.
    Disconnected(String),
}

/// Stops following when dropped.
#[derive(Debug)]
pub struct Feed {
    events: Receiver<FeedEvent>,
    following: JoinHandle<()>,
}

impl Feed {
    pub fn start(address: Address) -> Feed {
        let (sender, events) = channel(EVENTS_WAITING);
        Feed { events, following: tokio::spawn(follow(address, sender)) }
    }

    /// Safe to cancel.
    pub async fn next(&mut self) -> FeedEvent {
        match self.events.recv().await {
            Some(event) => event,
            // It follows for as long as anybody listens, unless it panicked.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.following.abort();
    }
}

async fn follow(address: Address, sender: Sender<FeedEvent>) {
    loop {
        let error = follow_once(&address, &sender).await;
        if sender.send(FeedEvent::Disconnected(error)).await.is_err() {
            return;
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Why it ended.
async fn follow_once(address: &Address, sender: &Sender<FeedEvent>) -> String {
    let accept = (ACCEPT, HeaderValue::from_static("text/event-stream"));
    let mut streamed = match stream(address, PATH, HeaderMap::from_iter([accept])).await {
        Ok(streamed) if streamed.status == StatusCode::OK => streamed,
        Ok(streamed) => return refused(streamed.status),
        Err(e) => return format!("no connection: {e}"),
    };
    let mut parser = EventParser::default();
    loop {
        let bytes = match next_bytes(&mut streamed).await {
            Ok(bytes) => bytes,
            Err(why) => return why,
        };
        let Ok(events) = parser.take(&bytes) else { return "what it tells is too long".to_owned() };
        for event in events {
            let event = match feed_event(&event) {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(e) => return format!("what it tells of the sale makes no sense: {e}"),
            };
            if sender.send(event).await.is_err() {
                return "nobody listens".to_owned();
            }
        }
    }
}

async fn next_bytes(streamed: &mut Streamed) -> Result<hyper::body::Bytes, String> {
    match timeout(SILENCE_TIMEOUT, streamed.body.frame()).await {
        Err(_) => Err(format!("silent for {} s", SILENCE_TIMEOUT.as_secs())),
        Ok(None) => Err("the server closed the connection".to_owned()),
        Ok(Some(Err(e))) => Err(format!("connection lost: {e}")),
        Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
    }
}

fn refused(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("{status}: give the right key with --key-file or FLUX_ADMIN_KEY")
        }
        StatusCode::NOT_FOUND => format!("{status}: no flux, or an old one, without {PATH}"),
        status => format!("it answers {status}"),
    }
}

fn feed_event(event: &Event) -> serde_json::Result<Option<FeedEvent>> {
    fn read<T: DeserializeOwned>(event: &Event) -> serde_json::Result<T> {
        serde_json::from_str(&event.data)
    }
    Ok(match event.name.as_str() {
        "history" => Some(FeedEvent::History(read::<History>(event)?.points)),
        "board" => Some(FeedEvent::Snapshot(read(event)?)),
        _ => None,
    })
}
