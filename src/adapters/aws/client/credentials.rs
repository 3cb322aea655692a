//! Credentials, and what is said when they are not there or cannot be used. Nothing was sent then,
//! whatever the call was.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::credential_process::CredentialProcessProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use super::{Fault, chain};

const FILES: &str = "check AWS_PROFILE, ~/.aws/config and ~/.aws/credentials";
/// What the SDK says of each such failure.
const NOISE: [&str; 3] = [
    "the credentials provider was not properly configured: ",
    "ProfileFile provider could not be built: ",
    "an error occurred while loading credentials: ",
];

fn profile() -> Option<String> {
    std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty())
}

/// The failure, if it is one of credentials.
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
        CredentialsError::CredentialsNotLoaded(_) => Fault::Broken(match profile() {
            None => "no AWS credentials were found: set AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                .to_owned(),
            Some(name) => format!("no AWS credentials were found for profile {name}: {FILES}"),
        }),
        CredentialsError::ProviderError(_) | CredentialsError::ProviderTimedOut(_) => Fault::Busy(
            format!("AWS credentials cannot be loaded ({why}): log in again, or check AWS_PROFILE"),
        ),
        // The SDK gives the cause once only.
        _ if why.contains("already taken") => Fault::Broken(cannot_be_used("see above")),
        _ => Fault::Broken(cannot_be_used(&why)),
    })
}

fn cannot_be_used(why: &str) -> String {
    format!("AWS credentials cannot be used ({why}): {FILES}")
}

/// What the SDK names as missing for a profile that signs in by `aws login`: reading such a session
/// takes 19 crates more, an elliptic curve among them.
const LOGIN: &str = "credentials-login";

/// Credentials as the SDK finds them; those of an `aws login` session from the AWS CLI, which made
/// the session and keeps it fresh.
#[derive(Debug)]
pub struct WithLogin {
    found: SharedCredentialsProvider,
    session: CredentialProcessProvider,
    /// The SDK names the cause of its failure once only.
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
