//! What is known of the sale, and what of it the person looks at.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::dashboard::{Board, Point};
use super::feed::News;
use crate::client::Address;

/// Seconds that the plots remember: more than a terminal has columns.
const POINTS_MAX: usize = 600;
/// What is older than this is no longer the present.
pub const STALE_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Overview,
    Items,
    Workers,
    Decisions,
    DeadLetters,
}

impl Page {
    pub const ALL: [Page; 5] =
        [Page::Overview, Page::Items, Page::Workers, Page::Decisions, Page::DeadLetters];

    pub fn title(self) -> &'static str {
        match self {
            Page::Overview => "Overview",
            Page::Items => "Items",
            Page::Workers => "Workers",
            Page::Decisions => "Decisions",
            Page::DeadLetters => "Dead letters",
        }
    }

    pub fn index(self) -> usize {
        Page::ALL.iter().position(|page| *page == self).unwrap_or(0)
    }
}

#[derive(Debug)]
pub struct Sight {
    pub address: String,
    /// Oldest first, at most [`POINTS_MAX`].
    pub points: VecDeque<Point>,
    pub board: Option<Board>,
    /// When the board came.
    pub heard: Option<Instant>,
    /// Why there is no connection now.
    pub trouble: Option<String>,
    pub page: Page,
    /// Rows of the page's list that are above the screen.
    pub scrolled: usize,
    pub help: bool,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Page(Page),
    /// So many pages on, or back.
    Turn(isize),
    /// So many rows down, or up.
    Scroll(isize),
    Help,
    /// Away with the help, or the end.
    Leave,
    End,
}

impl Sight {
    pub fn of(address: &Address) -> Sight {
        Sight {
            address: address.to_string(),
            points: VecDeque::new(),
            board: None,
            heard: None,
            trouble: None,
            page: Page::Overview,
            scrolled: 0,
            help: false,
        }
    }

    pub fn take(&mut self, news: News) {
        match news {
            News::History(points) => {
                self.points = points.into();
                self.trouble = None;
            }
            News::Board(board) => {
                let point = board.point();
                if self.points.back().is_none_or(|last| last.at_ms < point.at_ms) {
                    self.points.push_back(point);
                }
                self.board = Some(*board);
                self.heard = Some(Instant::now());
                self.trouble = None;
            }
            News::Trouble(trouble) => self.trouble = Some(trouble),
        }
        let surplus = self.points.len().saturating_sub(POINTS_MAX);
        self.points.drain(..surplus);
    }

    /// How old the board is, if it is older than it should be.
    pub fn stale(&self) -> Option<Duration> {
        let age = self.heard?.elapsed();
        (age > STALE_AFTER || self.trouble.is_some()).then_some(age)
    }

    /// Does as wished; `false` to leave.
    pub fn wish(&mut self, wish: Wish) -> bool {
        match wish {
            Wish::Page(page) => (self.page, self.scrolled) = (page, 0),
            Wish::Turn(by) => {
                let pages = Page::ALL.len();
                let next = (self.page.index() as isize + by).rem_euclid(pages as isize);
                (self.page, self.scrolled) = (Page::ALL[next as usize], 0);
            }
            Wish::Scroll(by) => {
                let last = self.rows().saturating_sub(1);
                self.scrolled = self.scrolled.saturating_add_signed(by).min(last);
            }
            Wish::Help => self.help = !self.help,
            Wish::Leave if self.help => self.help = false,
            Wish::Leave | Wish::End => return false,
        }
        true
    }

    /// Rows of the page's list.
    fn rows(&self) -> usize {
        let Some(board) = &self.board else { return 0 };
        match self.page {
            Page::Overview => 0,
            Page::Items => board.items.len(),
            Page::Workers => board.workers.as_ref().map_or(0, Vec::len),
            Page::Decisions => board.last.len(),
            Page::DeadLetters => board.dead_letters.len(),
        }
    }
}
