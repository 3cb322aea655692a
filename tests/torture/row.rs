//! The effect of a fault on a sale, in figures.

use std::fmt;
use std::time::Duration;

/// The row of one fault in the table. `None` where the backend does not report the figure.
#[derive(Debug, Default, Clone)]
pub struct Row {
    pub fault: String,
    pub times: usize,
    /// Orders that got a 202.
    pub orders: usize,
    /// Of those, the ones that are neither decided nor dead-lettered.
    pub lost: usize,
    /// Units.
    pub oversold: u64,
    pub stranded: u64,
    /// Redelivered messages. After a SIGTERM: deliveries that the process left in flight.
    pub redelivered: Option<usize>,
    /// Requests that got a 503, and requests without a response.
    pub refused: u64,
    pub unanswered: u64,
    /// The longest wait for a response.
    pub longest: Duration,
}

impl Row {
    pub const HEAD: &str = "\
| fault | times | orders | lost | oversold | stranded | redelivered | 503 | no answer | longest wait |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

    /// Whether no order was lost, and no unit oversold or stranded.
    pub fn holds(&self) -> bool {
        (self.lost, self.oversold, self.stranded) == (0, 0, 0)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { fault, times, orders, lost, oversold, stranded, refused, unanswered, .. } = self;
        let redelivered = self.redelivered.map_or("-".to_owned(), |count| count.to_string());
        write!(
            f,
            "| {fault} | {times} | {orders} | {lost} | {oversold} | {stranded} | {redelivered} | {refused} \
             | {unanswered} | {:.1} s |",
            self.longest.as_secs_f64()
        )
    }
}
