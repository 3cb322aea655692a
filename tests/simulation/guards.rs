//! Can the proof fail? Each guard of safety can be taken out, and then the auditor must complain.

use flux::core::order::guards as pipeline;

use super::scenario;

/// Runs in which the loss of a guard must be found at least once.
pub const SEEDS: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Version,
    OrderUnseen,
    FinalNo,
    AckAfterCommit,
    DurableBefore202,
    FreshSoldOut,
    Fingerprint,
    EntryByEntry,
    RepeatDropped,
    RequestCompared,
    OrderIdKept,
    ToldBeforeAck,
    SeenToldToo,
}

impl Guard {
    pub const ALL: [Guard; 13] = {
        use Guard::*;
        [
            Version,
            OrderUnseen,
            FinalNo,
            AckAfterCommit,
            DurableBefore202,
            FreshSoldOut,
            Fingerprint,
            EntryByEntry,
            RepeatDropped,
            RequestCompared,
            OrderIdKept,
            ToldBeforeAck,
            SeenToldToo,
        ]
    };

    /// What it says when it is there.
    pub fn rule(self) -> &'static str {
        match self {
            Guard::Version => "a commit needs the item's version as read",
            Guard::OrderUnseen => "a decision needs the order undecided",
            Guard::FinalNo => "a \"no\" is as final as a sale",
            Guard::AckAfterCommit => "acknowledged only after the commit",
            Guard::DurableBefore202 => "durable before the 202",
            Guard::FreshSoldOut => "\"sold out\" is read after the batch was received",
            Guard::Fingerprint => "a reused key is compared with its first request",
            Guard::EntryByEntry => "a batch's answers are read entry by entry",
            Guard::RepeatDropped => "a repeat is dropped before the commit",
            Guard::RequestCompared => "what looks like a repeat is compared with its order",
            Guard::OrderIdKept => "an order keeps its id through the dead-letter queue",
            Guard::ToldBeforeAck => "its webhook is in the outbox before it is acknowledged",
            Guard::SeenToldToo => "an order found decided has its webhook put too",
        }
    }

    /// The switch in the pipeline, for those that do not stand in the simulated services.
    pub fn in_pipeline(self) -> Option<pipeline::Guard> {
        match self {
            Guard::AckAfterCommit => Some(pipeline::Guard::AckAfterCommit),
            Guard::DurableBefore202 => Some(pipeline::Guard::DurableBefore202),
            Guard::RepeatDropped => Some(pipeline::Guard::RepeatDropped),
            Guard::RequestCompared => Some(pipeline::Guard::RequestCompared),
            Guard::ToldBeforeAck => Some(pipeline::Guard::ToldBeforeAck),
            Guard::SeenToldToo => Some(pipeline::Guard::SeenToldToo),
            _ => None,
        }
    }
}

/// The first seed in which the guard's loss is found.
pub fn first_found(guard: Guard) -> Option<u64> {
    (0..SEEDS).find(|seed| !scenario::run(*seed, Some(guard)).wrong.is_empty())
}

/// A table of all guards and in how many seeds the loss of each is found, as Markdown.
pub fn table() -> String {
    let mut rows = vec![
        "| guard taken out | found in seeds | what the auditor says first |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for guard in Guard::ALL {
        let reports = (0..SEEDS).map(|seed| scenario::run(seed, Some(guard)).wrong);
        let found: Vec<String> = reports.filter_map(|wrong| wrong.into_iter().next()).collect();
        let (count, said) = (found.len(), found.first().map_or("nothing", String::as_str));
        rows.push(format!("| {} | {count} of {SEEDS} | {said} |", guard.rule()));
    }
    rows.join("\n")
}
