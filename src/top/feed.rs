//! Reads `GET /events`, and reconnects when the connection is lost.

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
/// The server sends data every second. Without data for this time, the connection counts as lost.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Events that are received but not shown yet.
const EVENT_BUFFER: usize = 16;

#[derive(Debug)]
pub enum FeedEvent {
    History(Vec<PlotPoint>),
    Snapshot(Box<Snapshot>),
    /// The reason why there is no connection. The feed reconnects.
    Disconnected(String),
}

/// The events of a server. Stops when dropped.
#[derive(Debug)]
pub struct Feed {
    events: Receiver<FeedEvent>,
    following: JoinHandle<()>,
}

impl Feed {
    pub fn start(address: Address) -> Feed {
        let (sender, events) = channel(EVENT_BUFFER);
        Feed { events, following: tokio::spawn(follow(address, sender)) }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> FeedEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only when the receiver is dropped, or by a panic.
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

/// Reads events on one connection. Returns why the connection ended.
async fn follow_once(address: &Address, sender: &Sender<FeedEvent>) -> String {
    let accept = (ACCEPT, HeaderValue::from_static("text/event-stream"));
    let mut streamed = match stream(address, PATH, HeaderMap::from_iter([accept])).await {
        Ok(streamed) if streamed.status == StatusCode::OK => streamed,
        Ok(streamed) => return refused(streamed.status),
        Err(e) => return format!("no connection ({e})"),
    };
    let mut parser = EventParser::default();
    loop {
        let bytes = match next_bytes(&mut streamed).await {
            Ok(bytes) => bytes,
            Err(reason) => return reason,
        };
        let Ok(events) = parser.parse(&bytes) else { return "the event is too long".to_owned() };
        for event in events {
            let event = match feed_event(&event) {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(e) => return format!("the event cannot be parsed ({e})"),
            };
            if sender.send(event).await.is_err() {
                return "the receiver is closed".to_owned();
            }
        }
    }
}

async fn next_bytes(streamed: &mut Streamed) -> Result<hyper::body::Bytes, String> {
    match timeout(SILENCE_TIMEOUT, streamed.body.frame()).await {
        Err(_) => Err(format!("no data for {} s", SILENCE_TIMEOUT.as_secs())),
        Ok(None) => Err("the server closed the connection".to_owned()),
        Ok(Some(Err(e))) => Err(format!("connection lost ({e})")),
        Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
    }
}

fn refused(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("{status}: give a valid key with --key-file or FLUX_ADMIN_KEY")
        }
        StatusCode::NOT_FOUND => {
            format!("{status}: {PATH} not found; the server is not flux, or an old version")
        }
        status => format!("the server returned {status}"),
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
