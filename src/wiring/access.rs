//! The API's access rules, built from the settings.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use secrecy::SecretString;
use tokio::io::AsyncReadExt;

use super::UsageError;
use crate::adapters::http_client::HttpClient;
use crate::config::Settings;
use crate::http::{
    AccessRules, KeySet, KeySource, Keys, Origins, Proxies, PublicUrl, Rate, TokenRules,
};

/// The largest key set, in bytes.
const SET_MAX: usize = 1024 * 1024;
/// Time limit for a response of an identity provider.
const RESPONSE_WITHIN: Duration = Duration::from_secs(5);
/// The least time between two requests for an identity provider's keys.
const REFRESH_PAUSE: Duration = Duration::from_secs(30);

/// The key set in use, which a reload keeps or replaces.
#[derive(Debug, Clone)]
pub struct Jwks {
    /// The value of `jwt_jwks`.
    source: String,
    keys: Arc<KeySet>,
}

/// Builds the rules, and reads the key set of `jwt_jwks`.
///
/// `current` is `None` at the start of the process. Then a file that cannot be read is an error, and an
/// identity provider that does not respond is asked again at the first token. At a reload an unchanged
/// `jwt_jwks` that cannot be read keeps its cached keys, and a changed one is an error. An error leaves
/// `current` unchanged.
pub async fn rules(settings: &Settings, current: &mut Option<Jwks>) -> Result<AccessRules> {
    let keys = |keys: &Option<SecretString>| keys.as_ref().map(Keys::parse).unwrap_or_default();
    let rate = |per_second| Rate::new(per_second as u32, settings.rate_burst as u32);
    let trusted_proxies = parsed("trusted_proxies", &settings.trusted_proxies, Proxies::parse)?;
    let origins = parsed("cors_origins", &settings.cors_origins, Origins::parse)?;
    let public_url = settings.public_url.as_deref().map(public_url).transpose()?;
    let jwks = match &settings.jwt_jwks {
        Some(source) => Some(key_set(source, current.as_ref()).await?),
        None => None,
    };
    if settings.jwt_audience.is_none() && (settings.jwt_secret.is_some() || jwks.is_some()) {
        tracing::warn!(
            "jwt_audience is not set: tokens that were issued for other services are accepted too; \
             set it to the `aud` of this service's tokens"
        );
    }
    current.clone_from(&jwks);
    Ok(AccessRules {
        admin_keys: keys(&settings.admin_key),
        buy_keys: keys(&settings.buy_key),
        tokens: TokenRules {
            secret: settings.jwt_secret.clone(),
            keys: jwks.map(|jwks| jwks.keys),
            issuer: settings.jwt_issuer.clone(),
            audience: settings.jwt_audience.clone(),
        },
        user_rate: rate(settings.rate_per_user),
        address_rate: rate(settings.rate_per_address),
        trusted_proxies,
        origins,
        public_url,
        listen_host: settings.listen.rsplit_once(':').map(|(host, _)| host.to_owned()),
        connections: None,
    })
}

fn public_url(text: &str) -> Result<PublicUrl, UsageError> {
    PublicUrl::parse(text).map_err(|e| UsageError(format!("public_url {e}")))
}

fn parsed<T: Default>(
    key: &str,
    text: &Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, UsageError> {
    let parsed = text.as_deref().map(parse).transpose();
    parsed.map(Option::unwrap_or_default).map_err(|e| UsageError(format!("{key}: {e}")))
}

async fn key_set(source: &str, current: Option<&Jwks>) -> Result<Jwks> {
    let unchanged = current.filter(|current| current.source == source);
    let jwks = match unchanged {
        Some(current) => current.clone(),
        None => Jwks {
            source: source.to_owned(),
            keys: KeySet::new(key_source(source)?, REFRESH_PAUSE),
        },
    };
    match jwks.keys.load().await {
        Ok(count) => tracing::info!(count, "JWKS read"),
        Err(e) if unchanged.is_some() => {
            let count = jwks.keys.count();
            tracing::warn!("JWKS refresh failed; keeping {count} cached keys: jwt_jwks: {e}");
        }
        Err(e) if current.is_none() && is_url(source) => {
            tracing::warn!("JWKS not read; retrying at the first token: jwt_jwks: {e}");
        }
        Err(e) => return Err(UsageError(format!("jwt_jwks: {source}: {e}")).into()),
    }
    Ok(jwks)
}

fn is_url(source: &str) -> bool {
    source.contains("://")
}

fn key_source(source: &str) -> Result<KeySource, UsageError> {
    if !is_url(source) {
        return Ok(in_file(source.to_owned()));
    }
    let url = source.parse().map_err(|e| UsageError(format!("jwt_jwks is not a URL: {e}")))?;
    Ok(at_url(url))
}

fn in_file(file: String) -> KeySource {
    Box::new(move || {
        let file = file.clone();
        let read = async move {
            let file = tokio::fs::File::open(&file).await?;
            let mut text = Vec::new();
            file.take(SET_MAX as u64).read_to_end(&mut text).await?;
            Ok(text)
        };
        read.map(|read: io::Result<_>| read.map_err(|e| e.to_string())).boxed()
    })
}

fn at_url(url: Uri) -> KeySource {
    let http = HttpClient::new();
    Box::new(move || {
        let http = http.clone();
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = url.clone();
        let fetch = async move {
            let reply = http.send(request, RESPONSE_WITHIN, SET_MAX).await;
            let reply = reply.map_err(|e| e.to_string())?;
            match reply.status {
                StatusCode::OK if !reply.truncated => Ok(reply.body),
                StatusCode::OK => Err("the response is larger than 1 MiB".to_owned()),
                status if status.is_redirection() => {
                    Err(format!("the response is {status}, and redirects are not followed"))
                }
                status => Err(format!("the response is {status}")),
            }
        };
        fetch.boxed()
    })
}
