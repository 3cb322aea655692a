//! The AWS SDK: credentials, region, addresses, time limits, and what a failed call means.
//!
//! The SDK's own retries are switched off. Whether a call may be repeated, and what its outcome
//! then is, depends on what it does; [`repeat`] and its callers say so.

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
/// One HTTP attempt, from its begin to the last byte of its answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest that SQS lets a receive wait (Amazon SQS Developer Guide, "Message quotas").
pub const LONGEST_POLL: Duration = Duration::from_secs(20);

/// How often [`repeat`] makes a call, and after how long it makes no further one.
const ATTEMPTS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before the second attempt is drawn from 0 to this; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is told instead of being read from the environment. What is `None` the SDK finds where it
/// always does: `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`,
/// `AWS_ENDPOINT_URL_DYNAMODB`, profiles.
#[derive(Debug, Clone, Default)]
pub struct AwsSettings {
    pub region: Option<String>,
    pub endpoint_url: Option<String>,
    pub endpoint_url_sqs: Option<String>,
    pub endpoint_url_dynamodb: Option<String>,
    pub credentials: Option<Credentials>,
}

/// A loaded configuration from which clients are made; they share its connections.
#[derive(Debug, Clone)]
pub struct Aws {
    sdk: SdkConfig,
    settings: AwsSettings,
    calls: Arc<Calls>,
}

impl Aws {
    /// Reads configuration and finds credentials lazily; calls no service of ours. The error is
    /// one line that says what to set.
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
            return Err(format!("no AWS region is set: set AWS_REGION, as to eu-central-1{or}"));
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

    /// The region, as in the names of resources.
    pub fn region(&self) -> &str {
        self.sdk.region().map_or("", Region::as_ref)
    }

    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        self.sqs_within(ATTEMPT_TIMEOUT)
    }

    /// For receiving: an answer may take as long as the longest poll.
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

/// What a failed call means for what it was to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Refused for now; it did nothing.
    Busy(String),
    /// No answer, or one that does not say: it may have been done.
    Unknown(String),
    /// Refused for good.
    Broken(String),
}

/// Codes by which SQS and DynamoDB refuse a call for now (Amazon DynamoDB Developer Guide, "Error
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

/// Whether a code says that the call was refused for now and did nothing.
pub fn is_busy_code(code: &str) -> bool {
    // Some come with a name before them: `AWS.SimpleQueueService.OverLimit`.
    BUSY_CODES.contains(&code.rsplit(['.', '#']).next().unwrap_or(code))
}

impl Fault {
    pub fn of<E>(error: &SdkError<E, Response>) -> Fault
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let SdkError::ServiceError(service) = error else {
            return Fault::before_the_service(error);
        };
        let (code, status) = (service.err().code(), service.raw().status().as_u16());
        let code = code.unwrap_or("an error without a code");
        let said = match service.err().message() {
            Some(message) => format!("{code}: {message}"),
            None => format!("{code} (HTTP status {status})"),
        };
        match status {
            _ if is_busy_code(code) => Fault::Busy(said),
            429 => Fault::Busy(said),
            500.. => Fault::Unknown(said),
            _ => Fault::Broken(said),
        }
    }
}

impl Fault {
    /// Of a call to which no service has answered.
    fn before_the_service<E>(error: &SdkError<E, Response>) -> Fault
    where
        E: Error + Send + Sync + 'static,
    {
        if let Some(fault) = credentials::fault(error) {
            return fault;
        }
        match error {
            SdkError::ConstructionFailure(_) => Fault::Broken(chain(error)),
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
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said.replace('\n', " ")
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string().replace('\n', " ")
}

/// Makes a call that is safe to repeat until it is done or refused for good, at most [`ATTEMPTS`]
/// times and no longer than [`PATIENCE`], with pauses drawn from the whole of a doubling span (M.
/// Brooker, "Exponential Backoff And Jitter": full jitter). `Busy` only when no attempt can have
/// been applied. Safe to cancel as far as the call is.
pub async fn repeat<T, Fut>(call: impl FnMut() -> Fut) -> Result<T, Fault>
where
    Fut: Future<Output = Result<T, Fault>>,
{
    repeat_at_most(ATTEMPTS, call).await
}

/// As [`repeat`], with fewer attempts: for a caller who repeats as well.
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
        let (Fault::Busy(said) | Fault::Unknown(said)) = fault else {
            return Err(fault);
        };
        if attempt >= attempts || begun.elapsed() > PATIENCE {
            return Err(if unknown { Fault::Unknown(said) } else { Fault::Busy(said) });
        }
        pause(attempt).await;
        attempt += 1;
    }
}

/// Waits after the `attempt`th attempt (from 1) for a random part of its span.
pub async fn pause(attempt: u32) {
    let span = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
    let drawn = SystemIdSource.next_id() as u32;
    tokio::time::sleep(span.mul_f64(f64::from(drawn) / f64::from(u32::MAX))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_may_have_been_done_is_not_called_busy_later() {
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
    async fn a_call_refused_for_good_is_not_repeated() {
        let mut attempts = 0;
        let outcome: Result<(), Fault> = repeat(|| {
            attempts += 1;
            async { Err(Fault::Broken("no".into())) }
        })
        .await;
        assert_eq!((outcome, attempts), (Err(Fault::Broken("no".into())), 1));
    }
}
