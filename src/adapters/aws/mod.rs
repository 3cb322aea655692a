//! SQS for the queue and the outbox, DynamoDB for the ledger.

pub mod client;
pub mod dynamodb;
pub mod sqs;
pub mod webhook_outbox;

/// The change that setting up a resource made, or in a dry run would make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Made,
    Changed,
    Unchanged,
}
