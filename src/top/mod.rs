//! `flux top`: a running sale in a terminal, fed by `GET /events`.

mod dashboard;
mod events;
mod feed;
mod plain;
mod screen;
mod sight;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::io;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::Address;
use feed::{Feed, News};
use sight::Sight;
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
        let sight = Sight::of(&self.address);
        screen::run(sight, Feed::start(self.address), Theme { colour }, stop).await
    }

    /// What is known now, as text for a person or a script; the error says why there is nothing.
    pub async fn once(self) -> Result<String, String> {
        let mut sight = Sight::of(&self.address);
        let mut feed = Feed::start(self.address);
        let looking = async {
            while sight.board.is_none() {
                match feed.next().await {
                    News::Trouble(trouble) => return Err(trouble),
                    news => sight.take(news),
                }
            }
            Ok(())
        };
        let late = || format!("no board within {} s", FIRST_WITHIN.as_secs());
        timeout(FIRST_WITHIN, looking).await.map_err(|_| late())??;
        Ok(plain::page(&sight))
    }
}
