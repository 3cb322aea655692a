//! Credentials, and the errors for missing or unusable ones. In each of these cases the call was
//! not sent.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::credential_process::CredentialProcessProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use super::{Fault, chain};

const FILES: &str = "check AWS_PROFILE, ~/.aws/config and ~/.aws/credentials";
/// Phrases of the SDK's error texts that carry no information.
const NOISE: [&str; 3] = [
    "the credentials provider was not properly configured: ",
    "ProfileFile provider could not be built: ",
    "an error occurred while loading credentials: ",
];

fn profile() -> Option<String> {
    std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty())
}

/// The fault, if credentials caused the error.
pub fn fault(error: &(dyn Error + 'static)) -> Option<Fault> {
    let mut cause = Some(error);
    let failed = loop {
        match cause?.downcast_ref::<CredentialsError>() {
            Some(failed) => break failed,
            None => cause = cause?.source(),
        }
    };
    let why = NOISE.iter().fold(chain(failed), |why, noise| why.replace(noise, ""));
    Some(match failed {
        CredentialsError::CredentialsNotLoaded(_) => Fault::refused(match profile() {
            None => "no AWS credentials were found: set AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                .to_owned(),
            Some(name) => format!("no AWS credentials were found for profile {name}: {FILES}"),
        }),
        CredentialsError::ProviderError(_) | CredentialsError::ProviderTimedOut(_) => Fault::Busy(
            format!("AWS credentials cannot be loaded ({why}): log in again, or check AWS_PROFILE"),
        ),
        // The SDK reports the cause at the first call only, and later calls by this text. It has no
        // type for either.
        _ if why.contains("already taken") => Fault::refused(cannot_be_used("see above")),
        _ => Fault::refused(cannot_be_used(&why)),
    })
}

fn cannot_be_used(why: &str) -> String {
    format!("AWS credentials cannot be used ({why}): {FILES}")
}

/// The cargo feature that the SDK reports as missing for a profile that signs in by `aws login`. The
/// feature would add 19 crates, so the AWS CLI reads the session instead. The SDK passes its typed
/// error on as text, so the text is what can be matched.
const LOGIN: &str = "credentials-login";

/// The SDK's credentials chain, and the AWS CLI for an `aws login` session, which the CLI created
/// and refreshes.
#[derive(Debug)]
pub struct WithLogin {
    found: SharedCredentialsProvider,
    session: CredentialProcessProvider,
    /// True once the chain has reported an `aws login` session. It reports that at the first call
    /// only.
    is_session: AtomicBool,
}

impl WithLogin {
    pub fn new(found: SharedCredentialsProvider) -> Self {
        let profile = profile().unwrap_or_else(|| "default".to_owned()).replace('\'', r"'\''");
        let export =
            format!("aws configure export-credentials --format process --profile '{profile}'");
        let session = CredentialProcessProvider::new(export);
        Self { found, session, is_session: AtomicBool::new(false) }
    }

    async fn provide(&self) -> Result<Credentials, CredentialsError> {
        if !self.is_session.load(Ordering::Relaxed) {
            match self.found.provide_credentials().await {
                Err(e) if chain(&e).contains(LOGIN) => {
                    self.is_session.store(true, Ordering::Relaxed)
                }
                other => return other,
            }
        }
        self.session.provide_credentials().await
    }
}

impl ProvideCredentials for WithLogin {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }
}
