//! What SQS's answers mean for what was asked.

use aws_sdk_sqs::types::BatchResultErrorEntry;

use super::queue_name;
use crate::adapters::aws::client::{Fault, is_busy_code};
use crate::core::ports::queue::QueueError;

pub fn queue_error(url: &str, fault: Fault) -> QueueError {
    match fault {
        Fault::Busy(said) => QueueError::Busy(said),
        Fault::Unknown(said) => QueueError::OutcomeUnknown(said),
        Fault::Broken(said)
            if said.contains("NonExistentQueue") || said.contains("QueueDoesNotExist") =>
        {
            QueueError::Broken(format!("there is no queue {url}: run `flux provision`"))
        }
        Fault::Broken(said) => QueueError::Broken(format!("SQS queue {}: {said}", queue_name(url))),
    }
}

pub fn entry_error(failed: &BatchResultErrorEntry) -> QueueError {
    let said = format!("{}: {}", failed.code(), failed.message().unwrap_or_default());
    match failed.sender_fault() {
        _ if is_busy_code(failed.code()) => QueueError::Busy(said),
        true => QueueError::Broken(said),
        false => QueueError::OutcomeUnknown(said),
    }
}

/// The answers to a batch request's entries, whose ids are their places in it. What it does not
/// mention may have been done.
pub fn batch_results<'a>(
    count: usize,
    done: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<Result<(), QueueError>> {
    let silent = QueueError::OutcomeUnknown("the answer does not mention it".to_owned());
    let mut answers = vec![Err(silent); count];
    let done = done.map(|id| (id, Ok(())));
    let failed = failed.iter().map(|entry| (entry.id(), Err(entry_error(entry))));
    for (id, answer) in done.chain(failed) {
        if let Some(place) = id.parse().ok().and_then(|n: usize| answers.get_mut(n)) {
            *place = answer;
        }
    }
    answers
}
