//! Results of SQS calls and of the entries of its batch requests.

use aws_sdk_sqs::types::BatchResultErrorEntry;

use super::queue_name;
use crate::adapters::aws::client::{Fault, Refusal, is_busy_code};
use crate::core::ports::queue::QueueError;

pub fn queue_error(url: &str, fault: Fault) -> QueueError {
    match fault {
        Fault::Busy(why) => QueueError::Busy(why),
        Fault::Unknown(why) => QueueError::OutcomeUnknown(why),
        Fault::Refused(Refusal::NotFound, _) => {
            QueueError::Broken(format!("there is no queue {url}: run `flux provision`"))
        }
        Fault::Refused(_, why) => {
            QueueError::Broken(format!("SQS queue {}: {why}", queue_name(url)))
        }
    }
}

pub fn entry_error(failed: &BatchResultErrorEntry) -> QueueError {
    let why = format!("{}: {}", failed.code(), failed.message().unwrap_or_default());
    match failed.sender_fault() {
        _ if is_busy_code(failed.code()) => QueueError::Busy(why),
        true => QueueError::Broken(why),
        false => QueueError::OutcomeUnknown(why),
    }
}

/// Results of a batch request's entries, whose ids are their indices. An entry that the response
/// does not mention may have been applied: its outcome is unknown.
pub fn batch_results<'a>(
    count: usize,
    done: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<Result<(), QueueError>> {
    let missing = QueueError::OutcomeUnknown("the response does not mention the entry".to_owned());
    let mut results = vec![Err(missing); count];
    let done = done.map(|id| (id, Ok(())));
    let failed = failed.iter().map(|entry| (entry.id(), Err(entry_error(entry))));
    for (id, result) in done.chain(failed) {
        if let Some(slot) = id.parse().ok().and_then(|n: usize| results.get_mut(n)) {
            *slot = result;
        }
    }
    results
}
