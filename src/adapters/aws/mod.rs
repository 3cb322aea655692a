//! SQS for the queue and the outbox, DynamoDB for the ledger.

pub mod client;
pub mod dynamodb;
pub mod sqs;
pub mod webhook_outbox;

/// What setting up a resource did, or in a dry run would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Made,
    Changed,
    Unchanged,
}
