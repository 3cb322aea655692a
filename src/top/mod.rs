//! `flux top`: a running sale in a terminal, fed by `GET /events`.

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

/// How long a first look may take.
const FIRST_WITHIN: Duration = Duration::from_secs(15);

/// A sale to look at.
#[derive(Debug)]
pub struct Top {
    /// With the admin's key it shows who bought, too.
    pub address: Address,
}

impl Top {
    /// Shows the sale on this terminal until the person leaves or `stop`; the terminal is then as
    /// it was before, after a panic too. Lost connections are opened again.
    pub async fn watch(self, colour: bool, stop: CancellationToken) -> io::Result<()> {
        let state = AppState::of(&self.address);
        screen::run(state, Feed::start(self.address), Theme { colour }, stop).await
    }

    /// What is known now, as text for a person or a script; the error says why there is nothing.
    pub async fn once(self) -> Result<String, String> {
        let mut state = AppState::of(&self.address);
        let mut feed = Feed::start(self.address);
        let looking = async {
            while state.snapshot.is_none() {
                match feed.next().await {
                    FeedEvent::Disconnected(error) => return Err(error),
                    event => state.update(event),
                }
            }
            Ok(())
        };
        let late = || format!("no data within {} s", FIRST_WITHIN.as_secs());
        timeout(FIRST_WITHIN, looking).await.map_err(|_| late())??;
        Ok(plain::page(&state))
    }
}
