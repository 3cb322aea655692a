//! What a fault did to a sale, in figures.

use std::fmt;
use std::time::Duration;

/// One fault's row of the table. `None` where the backend does not say.
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
    /// Deliveries that came again. After a SIGTERM: what the process left in its hands.
    pub redelivered: Option<usize>,
    /// Requests that were told to come again (503), and those that got no answer.
    pub refused: u64,
    pub unanswered: u64,
    /// The longest that anybody waited for an answer.
    pub longest: Duration,
}

impl Row {
    pub const HEAD: &str = "\
| fault | times | orders | lost | oversold | stranded | redelivered | 503 | no answer | longest wait |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

    /// Whether the promises that are counted here held.
    pub fn is_well(&self) -> bool {
        (self.lost, self.oversold, self.stranded) == (0, 0, 0)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { fault, times, orders, lost, oversold, stranded, refused, unanswered, .. } = self;
        let again = self.redelivered.map_or("-".to_owned(), |count| count.to_string());
        write!(
            f,
            "| {fault} | {times} | {orders} | {lost} | {oversold} | {stranded} | {again} | {refused} \
             | {unanswered} | {:.1} s |",
            self.longest.as_secs_f64()
        )
    }
}
