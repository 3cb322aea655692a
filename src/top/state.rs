//! The received data, and which part of it is on the screen.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::dashboard::{PlotPoint, Snapshot};
use super::feed::FeedEvent;
use crate::client::Address;

/// Points of the plots, one per second: more than a terminal has columns.
const POINTS_MAX: usize = 600;
/// Data older than this is marked as stale.
pub const STALE_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Overview,
    Items,
    Workers,
    Decisions,
    DeadLetters,
}

impl Tab {
    pub const ALL: [Tab; 5] =
        [Tab::Overview, Tab::Items, Tab::Workers, Tab::Decisions, Tab::DeadLetters];

    pub fn title(self) -> &'static str {
        match self {
            Tab::Overview => "Overview",
            Tab::Items => "Items",
            Tab::Workers => "Workers",
            Tab::Decisions => "Decisions",
            Tab::DeadLetters => "Dead letters",
        }
    }

    pub fn index(self) -> usize {
        Tab::ALL.iter().position(|tab| *tab == self).unwrap_or(0)
    }
}

#[derive(Debug)]
pub struct AppState {
    pub address: String,
    /// Oldest first, at most [`POINTS_MAX`].
    pub points: VecDeque<PlotPoint>,
    pub snapshot: Option<Snapshot>,
    pub received_at: Option<Instant>,
    /// The reason why there is no connection; `None` if there is one.
    pub error: Option<String>,
    pub tab: Tab,
    /// Number of the list's rows above the screen.
    pub scrolled: usize,
    pub help: bool,
}

/// The command of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserCommand {
    Tab(Tab),
    /// This many tabs to the right, or to the left if negative.
    MoveTab(isize),
    /// This many rows down, or up if negative.
    Scroll(isize),
    Help,
    /// Closes the help if it is open, else quits.
    Back,
    Quit,
}

impl AppState {
    pub fn of(address: &Address) -> AppState {
        AppState {
            address: address.to_string(),
            points: VecDeque::new(),
            snapshot: None,
            received_at: None,
            error: None,
            tab: Tab::Overview,
            scrolled: 0,
            help: false,
        }
    }

    pub fn update(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::History(points) => {
                self.points = points.into();
                self.error = None;
            }
            FeedEvent::Snapshot(snapshot) => {
                let point = snapshot.point();
                if self.points.back().is_none_or(|last| last.at_ms < point.at_ms) {
                    self.points.push_back(point);
                }
                self.snapshot = Some(*snapshot);
                self.received_at = Some(Instant::now());
                self.error = None;
            }
            FeedEvent::Disconnected(error) => self.error = Some(error),
        }
        let surplus = self.points.len().saturating_sub(POINTS_MAX);
        self.points.drain(..surplus);
    }

    /// The age of the snapshot, if it is stale or the connection is lost.
    pub fn stale(&self) -> Option<Duration> {
        let age = self.received_at?.elapsed();
        (age > STALE_AFTER || self.error.is_some()).then_some(age)
    }

    /// Applies a command. Returns `false` to quit.
    pub fn apply(&mut self, command: UserCommand) -> bool {
        match command {
            UserCommand::Tab(tab) => self.open(tab),
            UserCommand::MoveTab(by) => {
                let tabs = Tab::ALL.len() as isize;
                let next = (self.tab.index() as isize + by).rem_euclid(tabs);
                self.open(Tab::ALL[next as usize]);
            }
            UserCommand::Scroll(by) => {
                let last = self.rows().saturating_sub(1);
                self.scrolled = self.scrolled.saturating_add_signed(by).min(last);
            }
            UserCommand::Help => self.help = !self.help,
            UserCommand::Back if self.help => self.help = false,
            UserCommand::Back | UserCommand::Quit => return false,
        }
        true
    }

    fn open(&mut self, tab: Tab) {
        self.tab = tab;
        self.scrolled = 0;
    }

    /// Number of rows in the tab's list.
    fn rows(&self) -> usize {
        let Some(snapshot) = &self.snapshot else { return 0 };
        match self.tab {
            Tab::Overview => 0,
            Tab::Items => snapshot.items.len(),
            Tab::Workers => snapshot.workers.as_ref().map_or(0, Vec::len),
            Tab::Decisions => snapshot.last.len(),
            Tab::DeadLetters => snapshot.dead_letters.len(),
        }
    }
}
