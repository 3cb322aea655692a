//! The AWS SDK: credentials, region, endpoints, timeouts, and the classification of errors.
//!
//! The SDK's own retries are disabled. Whether a call may be repeated, and what its outcome is
//! then, depends on the operation: [`repeat`] and its callers decide that.

mod credentials;
mod proxy;
mod usage_meter;

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
pub use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::Instant;

use crate::core::model::{IdSource, SystemIdSource};
use crate::core::ports::usage::{Calls, Service};
use credentials::WithLogin;
use usage_meter::Meter;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// One HTTP attempt, from its start to the last byte of the response.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest wait of one SQS receive (Amazon SQS Developer Guide, "Message quotas").
pub const LONGEST_POLL: Duration = Duration::from_secs(20);

/// Attempts that [`repeat`] makes at most.
const ATTEMPTS: u32 = 8;
/// Time after which [`repeat`] starts no further attempt.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest pause before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Overrides of the SDK's configuration. For `None` the SDK reads its usual sources: `AWS_REGION`,
/// `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL_DYNAMODB`, profiles.
#[derive(Debug, Clone, Default)]
pub struct AwsSettings {
    pub region: Option<String>,
    pub endpoint_url: Option<String>,
    pub endpoint_url_sqs: Option<String>,
    pub endpoint_url_dynamodb: Option<String>,
    pub credentials: Option<Credentials>,
}

/// A loaded configuration. Clients made from it share its connections.
#[derive(Debug, Clone)]
pub struct Aws {
    sdk: SdkConfig,
    settings: AwsSettings,
    calls: Arc<Calls>,
}

impl Aws {
    /// Reads the configuration. Credentials are loaded at the first call; no SQS or DynamoDB call
    /// is made here. The error is one line that names what to set.
    pub async fn load(settings: AwsSettings, calls: Arc<Calls>) -> Result<Self, String> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(proxy::http_client()?)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts(ATTEMPT_TIMEOUT));
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(credentials) = &settings.credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        if let Some(url) = &settings.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let sdk = loader.load().await;
        if sdk.region().is_none() {
            let profile = std::env::var("AWS_PROFILE").unwrap_or_default();
            let or = match profile.as_str() {
                "" => String::new(),
                name => format!(", or a region for profile {name:?} in ~/.aws/config"),
            };
            return Err(format!(
                "no AWS region is set: set AWS_REGION, for example to eu-central-1{or}"
            ));
        }
        let sdk = match sdk.credentials_provider() {
            Some(found) if settings.credentials.is_none() => {
                let provider = SharedCredentialsProvider::new(WithLogin::new(found));
                sdk.into_builder().credentials_provider(provider).build()
            }
            _ => sdk,
        };
        Ok(Self { sdk, settings, calls })
    }

    /// The region; empty if none is set.
    pub fn region(&self) -> &str {
        self.sdk.region().map_or("", Region::as_ref)
    }

    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        self.sqs_within(ATTEMPT_TIMEOUT)
    }

    /// A client for receives, whose responses may take as long as the longest poll.
    pub fn sqs_polling(&self) -> aws_sdk_sqs::Client {
        self.sqs_within(LONGEST_POLL + ATTEMPT_TIMEOUT)
    }

    fn sqs_within(&self, limit: Duration) -> aws_sdk_sqs::Client {
        let mut config = aws_sdk_sqs::config::Builder::from(&self.sdk)
            .timeout_config(timeouts(limit))
            .interceptor(self.meter(Service::Sqs));
        if let Some(url) = &self.settings.endpoint_url_sqs {
            config = config.endpoint_url(url);
        }
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::config::Builder::from(&self.sdk)
            .interceptor(self.meter(Service::Dynamodb));
        if let Some(url) = &self.settings.endpoint_url_dynamodb {
            config = config.endpoint_url(url);
        }
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    fn meter(&self, service: Service) -> Meter {
        Meter { calls: self.calls.clone(), service }
    }
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(attempt)
        .operation_timeout(attempt + CONNECT_TIMEOUT)
        .build()
}

/// A failed call, by what it means for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Rejected for now; nothing was done.
    Busy(String),
    /// No response, or one that leaves it open: the call may have been applied.
    Unknown(String),
    /// Rejected for good; nothing was done.
    Refused(Refusal, String),
}

/// Why a service rejected a call for good, by its error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The queue or table does not exist.
    NotFound,
    /// The table exists already, or is being changed.
    InUse,
    ConditionFailed,
    AccessDenied,
    /// The request does not fit the table or queue.
    Invalid,
    Other,
}

impl Refusal {
    pub(super) fn of(code: &str) -> Refusal {
        match base_code(code) {
            "ResourceNotFoundException" => Refusal::NotFound,
            "NonExistentQueue" | "QueueDoesNotExist" => Refusal::NotFound,
            "ResourceInUseException" => Refusal::InUse,
            "ConditionalCheckFailedException" => Refusal::ConditionFailed,
            "AccessDenied" | "AccessDeniedException" => Refusal::AccessDenied,
            "ValidationException" => Refusal::Invalid,
            _ => Refusal::Other,
        }
    }
}

/// Codes by which SQS and DynamoDB reject a call for now (Amazon DynamoDB Developer Guide, "Error
/// handling with DynamoDB"; Amazon SQS API Reference, "Common Errors").
const BUSY_CODES: [&str; 12] = [
    "ThrottlingException",
    "Throttling",
    "ThrottlingError",
    "RequestThrottled",
    "ThrottledException",
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",
    "RequestLimitExceeded",
    "KmsThrottled",
    "OverLimit",
    "TransactionConflictException",
    "TransactionConflict",
];

/// True for a code that means: rejected for now, nothing was done.
pub fn is_busy_code(code: &str) -> bool {
    BUSY_CODES.contains(&base_code(code))
}

/// A code without its namespace: `OverLimit` of `AWS.SimpleQueueService.OverLimit`.
fn base_code(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

impl Fault {
    /// Classifies an SDK error by the service's error code and HTTP status.
    pub fn of<E>(error: &SdkError<E, Response>) -> Fault
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let SdkError::ServiceError(service) = error else {
            return Fault::before_the_service(error);
        };
        let code = service.err().code().unwrap_or("an error without a code");
        let status = service.raw().status().as_u16();
        let why = match service.err().message() {
            Some(message) => format!("{code}: {message}"),
            None => format!("{code} (HTTP status {status})"),
        };
        match status {
            _ if is_busy_code(code) => Fault::Busy(why),
            429 => Fault::Busy(why),
            500.. => Fault::Unknown(why),
            _ => Fault::Refused(Refusal::of(code), why),
        }
    }

    /// A fault that no service has reported, such as missing credentials.
    pub(super) fn refused(why: String) -> Fault {
        Fault::Refused(Refusal::Other, why)
    }

    /// The text of the error, for a log line.
    pub fn into_text(self) -> String {
        let (Fault::Busy(why) | Fault::Unknown(why) | Fault::Refused(_, why)) = self;
        why
    }

    /// Classifies an error that occurred before a service responded.
    fn before_the_service<E>(error: &SdkError<E, Response>) -> Fault
    where
        E: Error + Send + Sync + 'static,
    {
        if let Some(fault) = credentials::fault(error) {
            return fault;
        }
        match error {
            SdkError::ConstructionFailure(_) => Fault::refused(chain(error)),
            SdkError::DispatchFailure(_) => Fault::Unknown(format!(
                "no connection ({}): check the network, HTTPS_PROXY, AWS_REGION and \
                 AWS_ENDPOINT_URL",
                root_cause(error)
            )),
            _ => Fault::Unknown(chain(error)),
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !chain.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        cause = error.source();
    }
    chain.replace('\n', " ")
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string().replace('\n', " ")
}

/// Repeats an idempotent call until it succeeds or is rejected for good: at most [`ATTEMPTS`] times
/// and for [`PATIENCE`], with full jitter (M. Brooker, "Exponential Backoff And Jitter").
///
/// Returns `Busy` only if no attempt can have been applied: after one lost response the outcome
/// stays `Unknown`, even if the last attempt was throttled. Cancel safe if the call is.
pub async fn repeat<T, Fut>(call: impl FnMut() -> Fut) -> Result<T, Fault>
where
    Fut: Future<Output = Result<T, Fault>>,
{
    repeat_at_most(ATTEMPTS, call).await
}

/// [`repeat`] with fewer attempts, for a caller that has its own retries.
pub async fn repeat_at_most<T, Fut>(
    attempts: u32,
    mut call: impl FnMut() -> Fut,
) -> Result<T, Fault>
where
    Fut: Future<Output = Result<T, Fault>>,
{
    let begun = Instant::now();
    let mut unknown = false;
    let mut attempt = 1;
    loop {
        let fault = match call().await {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        unknown |= matches!(fault, Fault::Unknown(_));
        let (Fault::Busy(why) | Fault::Unknown(why)) = fault else {
            return Err(fault);
        };
        if attempt >= attempts || begun.elapsed() > PATIENCE {
            return Err(if unknown { Fault::Unknown(why) } else { Fault::Busy(why) });
        }
        pause(attempt).await;
        attempt += 1;
    }
}

/// Sleeps after the `attempt`th attempt (from 1) for a random part of its backoff.
pub async fn pause(attempt: u32) {
    let span = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
    let drawn = SystemIdSource.next_id() as u32;
    tokio::time::sleep(span.mul_f64(f64::from(drawn) / f64::from(u32::MAX))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lost_response_stays_unknown_after_throttling() {
        let mut attempts = 0;
        let outcome: Result<(), Fault> = repeat(|| {
            attempts += 1;
            let first = attempts == 1;
            async move {
                Err(if first { Fault::Unknown("lost".into()) } else { Fault::Busy("full".into()) })
            }
        })
        .await;
        assert_eq!(outcome, Err(Fault::Unknown("full".into())));
        assert_eq!(attempts, ATTEMPTS);
    }

    #[tokio::test]
    async fn refused_call_is_not_repeated() {
        let mut attempts = 0;
        let outcome: Result<(), Fault> = repeat(|| {
            attempts += 1;
            async { Err(Fault::refused("no".into())) }
        })
        .await;
        assert_eq!((outcome, attempts), (Err(Fault::refused("no".into())), 1));
    }

    #[test]
    fn error_codes_are_read_without_their_namespace() {
        for (code, refusal) in [
            ("ResourceNotFoundException", Refusal::NotFound),
            ("AWS.SimpleQueueService.NonExistentQueue", Refusal::NotFound),
            ("com.amazonaws.sqs#QueueDoesNotExist", Refusal::NotFound),
            ("ResourceInUseException", Refusal::InUse),
            ("ConditionalCheckFailedException", Refusal::ConditionFailed),
            ("AccessDenied", Refusal::AccessDenied),
            ("AccessDeniedException", Refusal::AccessDenied),
            ("ValidationException", Refusal::Invalid),
            ("TransactionCanceledException", Refusal::Other),
        ] {
            assert_eq!(Refusal::of(code), refusal, "{code}");
        }
        assert!(is_busy_code("AWS.SimpleQueueService.OverLimit"));
    }
}
