//! Follows `GET /events`, on one connection after another.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::dashboard::{Board, History, Point};
use super::events::{Event, Events};
use crate::client::Address;
use crate::client::stream::{Streamed, stream};

const PATH: &str = "/events";
/// The server tells something every second; after so long without a word it is gone.
const SILENCE: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// News that wait to be shown.
const WAITING: usize = 16;

#[derive(Debug)]
pub enum News {
    History(Vec<Point>),
    Board(Box<Board>),
    /// There is no connection, in a few words; it is tried again.
    Trouble(String),
}

/// Stops following when dropped.
#[derive(Debug)]
pub struct Feed {
    news: Receiver<News>,
    following: JoinHandle<()>,
}

impl Feed {
    pub fn start(address: Address) -> Feed {
        let (teller, news) = channel(WAITING);
        Feed { news, following: tokio::spawn(follow(address, teller)) }
    }

    /// Safe to cancel.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
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

async fn follow(address: Address, teller: Sender<News>) {
    loop {
        let trouble = follow_once(&address, &teller).await;
        if teller.send(News::Trouble(trouble)).await.is_err() {
            return;
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// Why it ended.
async fn follow_once(address: &Address, teller: &Sender<News>) -> String {
    let accept = (ACCEPT, HeaderValue::from_static("text/event-stream"));
    let mut streamed = match stream(address, PATH, HeaderMap::from_iter([accept])).await {
        Ok(streamed) if streamed.status == StatusCode::OK => streamed,
        Ok(streamed) => return refused(streamed.status),
        Err(e) => return format!("no connection: {e}"),
    };
    let mut events = Events::default();
    loop {
        let bytes = match next_bytes(&mut streamed).await {
            Ok(bytes) => bytes,
            Err(why) => return why,
        };
        let Ok(events) = events.take(&bytes) else { return "what it tells is too long".to_owned() };
        for event in events {
            let news = match news(&event) {
                Ok(Some(news)) => news,
                Ok(None) => continue,
                Err(e) => return format!("what it tells of the sale makes no sense: {e}"),
            };
            if teller.send(news).await.is_err() {
                return "nobody listens".to_owned();
            }
        }
    }
}

async fn next_bytes(streamed: &mut Streamed) -> Result<hyper::body::Bytes, String> {
    match timeout(SILENCE, streamed.body.frame()).await {
        Err(_) => Err(format!("silent for {} s", SILENCE.as_secs())),
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

fn news(event: &Event) -> serde_json::Result<Option<News>> {
    fn read<T: DeserializeOwned>(event: &Event) -> serde_json::Result<T> {
        serde_json::from_str(&event.data)
    }
    Ok(match event.name.as_str() {
        "history" => Some(News::History(read::<History>(event)?.points)),
        "board" => Some(News::Board(read(event)?)),
        _ => None,
    })
}
