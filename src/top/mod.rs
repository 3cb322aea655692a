//! `flux top`: shows a running sale in the terminal, from `GET /events`.

mod dashboard;
mod events;
mod feed;
mod format;
mod plain;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::io;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::Address;
use feed::{Feed, FeedEvent};
use state::AppState;
use view::Theme;

/// How long `--once` waits for the first data.
const FIRST_DATA_TIMEOUT: Duration = Duration::from_secs(15);

/// A server to watch.
#[derive(Debug)]
pub struct Top {
    /// With the admin key, buyers' names are shown.
    pub address: Address,
}

impl Top {
    /// Shows the sale until the user quits or `stop` is cancelled. Reconnects when the connection is
    /// lost. The terminal is restored at the end, also after a panic.
    pub async fn watch(self, colour: bool, stop: CancellationToken) -> io::Result<()> {
        let state = AppState::of(&self.address);
        screen::run(state, Feed::start(self.address), Theme { colour }, stop).await
    }

    /// Returns the current state as text. The error is the reason why there is no data.
    pub async fn once(self) -> Result<String, String> {
        let mut state = AppState::of(&self.address);
        let mut feed = Feed::start(self.address);
        let first_snapshot = async {
            while state.snapshot.is_none() {
                match feed.next().await {
                    FeedEvent::Disconnected(error) => return Err(error),
                    event => state.update(event),
                }
            }
            Ok(())
        };
        let timed_out = || format!("no data within {} s", FIRST_DATA_TIMEOUT.as_secs());
        timeout(FIRST_DATA_TIMEOUT, first_snapshot).await.map_err(|_| timed_out())??;
        Ok(plain::page(&state))
    }
}
