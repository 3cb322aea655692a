//! Removes one safety guard at a time: the auditor must then report a broken promise.

use flux::core::engine::failpoints as pipeline;

use super::scenario;

/// Seeds tried for each removed guard. It must be found in at least one of them.
pub const SEEDS: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Version,
    OrderUndecided,
    FinalNo,
    AckAfterCommit,
    DurableBefore202,
    SoldOutReread,
    Fingerprint,
    EntryByEntry,
    RepeatDropped,
    RequestCompared,
    OrderIdKept,
    OutboxBeforeAck,
    OutboxForDecided,
    DroppedFirst,
}

impl Guard {
    pub const ALL: [Guard; 14] = {
        use Guard::*;
        [
            Version,
            OrderUndecided,
            FinalNo,
            AckAfterCommit,
            DurableBefore202,
            SoldOutReread,
            Fingerprint,
            EntryByEntry,
            RepeatDropped,
            RequestCompared,
            OrderIdKept,
            OutboxBeforeAck,
            OutboxForDecided,
            DroppedFirst,
        ]
    };

    /// The rule that the guard enforces.
    pub fn rule(self) -> &'static str {
        match self {
            Guard::Version => "a commit requires the item to have the version that was read",
            Guard::OrderUndecided => "a decision requires the order to be undecided",
            Guard::FinalNo => "a rejection is as final as a sale",
            Guard::AckAfterCommit => "an order is acknowledged only after the commit",
            Guard::DurableBefore202 => "an order is durable before its 202",
            Guard::SoldOutReread => "\"sold out\" is read after the batch was received",
            Guard::Fingerprint => "a reused key is compared with its first request",
            Guard::EntryByEntry => "the results of a batch call are checked entry by entry",
            Guard::RepeatDropped => "a repeated order is dropped before the commit",
            Guard::RequestCompared => "an apparent repeat is compared with the stored order",
            Guard::OrderIdKept => "an order keeps its id in the dead-letter queue",
            Guard::OutboxBeforeAck => "a webhook is in the outbox before its order is acknowledged",
            Guard::OutboxForDecided => "an order that was already decided also gets a webhook",
            Guard::DroppedFirst => {
                "an order is decided as dropped before its dead letter is deleted"
            }
        }
    }

    /// The switch in the pipeline; `None` for guards that are in the simulated services.
    pub fn in_pipeline(self) -> Option<pipeline::Failpoint> {
        match self {
            Guard::AckAfterCommit => Some(pipeline::Failpoint::AckAfterCommit),
            Guard::DurableBefore202 => Some(pipeline::Failpoint::DurableBefore202),
            Guard::RepeatDropped => Some(pipeline::Failpoint::RepeatDropped),
            Guard::RequestCompared => Some(pipeline::Failpoint::RequestCompared),
            Guard::OutboxBeforeAck => Some(pipeline::Failpoint::OutboxBeforeAck),
            Guard::OutboxForDecided => Some(pipeline::Failpoint::OutboxForDecided),
            Guard::DroppedFirst => Some(pipeline::Failpoint::DroppedFirst),
            _ => None,
        }
    }
}

/// The first seed in which the auditor finds that the guard is missing.
pub fn first_found(guard: Guard) -> Option<u64> {
    (0..SEEDS).find(|seed| !scenario::run(*seed, Some(guard)).wrong.is_empty())
}

/// A Markdown table: for each removed guard, the number of seeds in which it is found.
pub fn table() -> String {
    let mut rows = vec![
        "| removed guard | found in seeds | the auditor's first message |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for guard in Guard::ALL {
        let reports = (0..SEEDS).map(|seed| scenario::run(seed, Some(guard)).wrong);
        let found: Vec<String> = reports.filter_map(|wrong| wrong.into_iter().next()).collect();
        let count = found.len();
        let message = found.first().map_or("nothing", String::as_str);
        rows.push(format!("| {} | {count} of {SEEDS} | {message} |", guard.rule()));
    }
    rows.join("\n")
}
