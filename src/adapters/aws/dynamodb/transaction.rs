//! One transaction: its actions, its token, and its result.

use std::fmt;
use std::hash::Hasher;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{CancellationReason, Put, TransactWriteItem};
use aws_smithy_runtime_api::http::Response;
use siphasher::sip128::{Hasher128, SipHasher24};

use super::rows;
use super::rows::{ITEM_ID, ORDER_ID, VERSION, number};
use super::{DynamoLedger, Expect, LedgerError, UNITS};
use crate::adapters::aws::client::{Fault, Refusal, is_busy_code, repeat};
use crate::core::model::{Decided, Item};

/// The result of a transaction.
pub(super) enum Written {
    Done,
    /// The conditions of the actions with these indices failed; nothing was written.
    Refused(Vec<usize>),
    /// The token was used for another request; nothing was written.
    TokenTaken,
}

impl DynamoLedger {
    /// Writes all actions or none. Repeats use the same bytes and the same token, so a transaction
    /// whose response was lost is applied once.
    pub(super) async fn write(
        &self,
        actions: &[TransactWriteItem],
        token: &str,
    ) -> Result<Written, LedgerError> {
        let written = repeat(|| {
            let request = self.client.transact_write_items().client_request_token(token);
            let request = request.return_consumed_capacity(UNITS);
            let request = request.set_transact_items(Some(actions.to_vec()));
            async move {
                match request.send().await {
                    Ok(_) => Ok(Written::Done),
                    Err(e) => refusal(&e),
                }
            }
        });
        written.await.map_err(|fault| self.error(fault))
    }

    pub(super) fn put_order(&self, decided: &Decided) -> TransactWriteItem {
        let put = Put::builder()
            .table_name(&self.orders)
            .set_item(Some(rows::order_row(decided, &self.keys)))
            .condition_expression("attribute_not_exists(#order)")
            .expression_attribute_names("#order", ORDER_ID)
            .build()
            .expect("table and row are set");
        TransactWriteItem::builder().put(put).build()
    }

    pub(super) fn put_item(&self, item: &Item, expect: Expect) -> TransactWriteItem {
        let put =
            Put::builder().table_name(&self.items).set_item(Some(rows::item_row(item, &self.keys)));
        let put = match expect {
            Expect::Anything => put,
            Expect::Version(0) => put
                .condition_expression("attribute_not_exists(#item)")
                .expression_attribute_names("#item", ITEM_ID),
            Expect::Version(read) => put
                .condition_expression("#version = :read")
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":read", number(read)),
        };
        let put = put.build().expect("table and row are set");
        TransactWriteItem::builder().put(put).build()
    }

    /// A hash of the request's content and round: equal requests have equal tokens.
    pub(super) fn token(&self, content: &impl fmt::Debug, round: u32) -> String {
        let mut hasher = SipHasher24::new_with_key(b"flux commit toke");
        hasher.write(format!("{round} {} {content:?}", self.orders).as_bytes());
        format!("{:032x}", hasher.finish128().as_u128())
    }
}

/// Classifies a failed transaction by its error and the reasons of its actions.
fn refusal(error: &SdkError<TransactWriteItemsError, Response>) -> Result<Written, Fault> {
    use TransactWriteItemsError as E;
    match error.as_service_error() {
        Some(E::TransactionCanceledException(canceled)) => {
            cancellation(canceled.cancellation_reasons())
        }
        Some(E::TransactionInProgressException(_)) => {
            Err(Fault::Unknown("the same transaction is still in progress".to_owned()))
        }
        Some(E::IdempotentParameterMismatchException(_)) => Ok(Written::TokenTaken),
        _ => Err(Fault::of(error)),
    }
}

fn cancellation(reasons: &[CancellationReason]) -> Result<Written, Fault> {
    let code = |reason: &CancellationReason| reason.code().unwrap_or("None").to_owned();
    let codes: Vec<String> = reasons.iter().map(code).collect();
    let unmet = codes.iter().enumerate().filter(|(_, code)| *code == "ConditionalCheckFailed");
    let unmet: Vec<usize> = unmet.map(|(index, _)| index).collect();
    if !unmet.is_empty() {
        return Ok(Written::Refused(unmet));
    }
    match reasons.iter().find(|r| code(r) != "None" && !is_busy_code(&code(r))) {
        Some(other) => {
            let code = code(other);
            let why = format!("{code}: {}", other.message().unwrap_or_default());
            Err(Fault::Refused(Refusal::of(&code), why))
        }
        None => {
            let cause = codes.iter().find(|code| *code != "None");
            let cause = cause.map_or("no reason given", String::as_str);
            Err(Fault::Busy(format!("the transaction was cancelled: {cause}")))
        }
    }
}
