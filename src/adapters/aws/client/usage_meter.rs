//! Usage of SQS and DynamoDB in the units that AWS bills, computed from requests and responses.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemOutput;
use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
use aws_sdk_dynamodb::operation::scan::ScanOutput;
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsError, TransactWriteItemsInput, TransactWriteItemsOutput,
};
use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity};
use aws_sdk_sqs::operation::receive_message::ReceiveMessageOutput;
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchInput;
use aws_sdk_sqs::types::MessageAttributeValue;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, Error,
    FinalizerInterceptorContextRef, Input, Output,
};
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use crate::core::ports::usage::{Calls, Service, Usage};

/// SQS bills one request for each started chunk of this size (Amazon SQS pricing, "How are Amazon
/// SQS requests priced").
const BILLED_BYTES: usize = 64 * 1024;
/// Size of a write unit (Amazon DynamoDB Developer Guide, "DynamoDB read and write operations").
const WRITE_UNIT_BYTES: usize = 1024;
/// Write units of a write in a transaction: one to prepare it, one to commit it (the same guide,
/// "Capacity management for transactions"). The guide does not say what a cancelled transaction
/// costs: it is counted as if it had been applied.
const UNITS_IN_TRANSACTION: f64 = 2.0;

/// Counts every HTTP attempt as one round trip, with its billed units.
#[derive(Debug)]
pub struct Meter {
    pub calls: Arc<Calls>,
    pub service: Service,
}

/// Billed units that follow from the request alone.
#[derive(Debug)]
struct RequestCost {
    requests: u64,
    /// Write units, used if the response does not contain them.
    write_units: f64,
}

impl Storable for RequestCost {
    type Storer = StoreReplace<Self>;
}

impl Meter {
    fn count(&self, cfg: &ConfigBag, usage: Usage) {
        self.calls.count(self.service, operation(cfg), usage);
    }
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state().store_put(request_cost(context.input()));
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let requests = cfg.load::<RequestCost>().map_or(1, |cost| cost.requests);
        self.count(cfg, Usage { round_trips: 1, requests, ..Usage::default() });
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let write_units = cfg.load::<RequestCost>().map_or(0.0, |cost| cost.write_units);
        match context.output_or_error() {
            Some(Ok(output)) => self.count(cfg, response_cost(output, write_units)),
            Some(Err(error)) => {
                if may_have_cost(error) {
                    self.count(cfg, Usage { write_units, ..Usage::default() });
                }
                if !is_cancelled(error) {
                    self.calls.failed(self.service, operation(cfg));
                }
            }
            None => {}
        }
        Ok(())
    }
}

fn request_cost(input: &Input) -> RequestCost {
    if let Some(send) = input.downcast_ref::<SendMessageBatchInput>() {
        let size = |entry: &aws_sdk_sqs::types::SendMessageBatchRequestEntry| {
            entry.message_body().len() + attributes_size(entry.message_attributes())
        };
        let bytes = send.entries().iter().map(size).sum();
        return RequestCost { requests: billed_requests(bytes), write_units: 0.0 };
    }
    let write_units = match input.downcast_ref::<TransactWriteItemsInput>() {
        Some(transaction) => {
            let puts = transaction.transact_items().iter().filter_map(|action| action.put());
            let units: usize =
                puts.map(|put| item_size(put.item()).div_ceil(WRITE_UNIT_BYTES)).sum();
            units as f64 * UNITS_IN_TRANSACTION
        }
        None => 0.0,
    };
    RequestCost { requests: 1, write_units }
}

/// Units that the response adds to those counted for its request.
fn response_cost(output: &Output, requested_write_units: f64) -> Usage {
    if let Some(received) = output.downcast_ref::<ReceiveMessageOutput>() {
        let size = |message: &aws_sdk_sqs::types::Message| {
            message.body().map_or(0, str::len) + attributes_size(message.message_attributes())
        };
        let bytes = received.messages().iter().map(size).sum();
        return Usage { requests: billed_requests(bytes) - 1, ..Usage::default() };
    }
    let mut usage = Usage::default();
    if let Some(written) = output.downcast_ref::<TransactWriteItemsOutput>() {
        for consumed in written.consumed_capacity() {
            // A repeated token is billed as reads only.
            let read = consumed.read_capacity_units();
            usage.read_units += read.unwrap_or(0.0);
            let total = consumed.capacity_units().unwrap_or(0.0);
            usage.write_units +=
                consumed.write_capacity_units().unwrap_or(total - read.unwrap_or(0.0));
        }
        if written.consumed_capacity().is_empty() {
            usage.write_units = requested_write_units;
        }
    }
    let single = output.downcast_ref::<GetItemOutput>().and_then(|got| got.consumed_capacity());
    let scan = output.downcast_ref::<ScanOutput>().and_then(|got| got.consumed_capacity());
    let batch = output.downcast_ref::<BatchGetItemOutput>().map(|got| got.consumed_capacity());
    let read = single.into_iter().chain(scan).chain(batch.into_iter().flatten());
    usage.read_units += read.filter_map(ConsumedCapacity::capacity_units).sum::<f64>();
    usage
}

/// True if a failed attempt is counted as a write: it was cancelled, or may have been applied.
fn may_have_cost(error: &OrchestratorError<Error>) -> bool {
    match error.as_operation_error() {
        Some(_) => is_cancelled(error),
        None => error.is_timeout_error() || error.is_response_error(),
    }
}

/// True if the transaction was cancelled, in most cases by its conditions.
fn is_cancelled(error: &OrchestratorError<Error>) -> bool {
    let refused = error.as_operation_error().and_then(|e| e.downcast_ref());
    refused.is_some_and(TransactWriteItemsError::is_transaction_canceled_exception)
}

fn operation(cfg: &ConfigBag) -> &str {
    cfg.load::<Metadata>().map_or("unknown", Metadata::name)
}

fn billed_requests(bytes: usize) -> u64 {
    bytes.div_ceil(BILLED_BYTES).max(1) as u64
}

fn attributes_size(attributes: Option<&HashMap<String, MessageAttributeValue>>) -> usize {
    let size = |(name, value): (&String, &MessageAttributeValue)| {
        name.len() + value.data_type().len() + value.string_value().map_or(0, str::len)
    };
    attributes.into_iter().flatten().map(size).sum()
}

/// Approximate size in bytes of an item of texts and numbers (Amazon DynamoDB Developer Guide,
/// "DynamoDB item sizes and formats").
fn item_size(item: &HashMap<String, AttributeValue>) -> usize {
    let size = |(name, value): (&String, &AttributeValue)| {
        name.len()
            + match value {
                AttributeValue::S(text) => text.len(),
                AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
                _ => 1,
            }
    };
    item.iter().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqs_bills_each_started_64_kib() {
        let sizes = [0, 1, 65_536, 65_537, 1_048_576];
        assert_eq!(sizes.map(billed_requests), [1, 1, 1, 2, 16]);
    }

    #[test]
    fn item_size_includes_attribute_names() {
        let item = HashMap::from([
            ("order_id".to_owned(), AttributeValue::S("x".repeat(32))),
            ("quantity".to_owned(), AttributeValue::N("100".to_owned())),
        ]);
        assert_eq!(item_size(&item), 8 + 32 + 8 + 3);
    }
}
