//! Who may do what in the API, by the settings.

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

/// The longest set of keys, in bytes.
const SET_MAX: usize = 1024 * 1024;
/// How long an identity provider may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An identity provider is asked for its keys no more often than this.
const ASK_PAUSE: Duration = Duration::from_secs(30);

/// The key set in force, which a reload goes on with.
#[derive(Debug, Clone)]
pub struct Jwks {
    /// The value of `jwt_jwks`.
    place: String,
    keys: Arc<KeySet>,
}

/// Reads what the settings name. At the start an identity provider that does not answer is asked
/// again when the first token comes, and a file that cannot be read is an error. At a reload
/// `known` keeps its keys while the same place cannot be read; another place that cannot be read is
/// an error. After an error `known` is as before.
pub async fn rules(settings: &Settings, known: &mut Option<Jwks>) -> Result<AccessRules> {
    let keys = |keys: &Option<SecretString>| keys.as_ref().map(Keys::parse).unwrap_or_default();
    let rate = |per_second| Rate::new(per_second as u32, settings.rate_burst as u32);
    let trusted_proxies = parsed("trusted_proxies", &settings.trusted_proxies, Proxies::parse)?;
    let origins = parsed("cors_origins", &settings.cors_origins, Origins::parse)?;
    let public_url = settings.public_url.as_deref().map(public_url).transpose()?;
    let jwks = match &settings.jwt_jwks {
        Some(place) => Some(key_set(place, known.as_ref()).await?),
        None => None,
    };
    if settings.jwt_audience.is_none() && (settings.jwt_secret.is_some() || jwks.is_some()) {
        tracing::warn!(
            "jwt_audience is not set: a token that was made for another service is accepted here \
             too; set it to what the tokens of this service have as `aud`"
        );
    }
    known.clone_from(&jwks);
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

async fn key_set(place: &str, known: Option<&Jwks>) -> Result<Jwks> {
    let same = known.filter(|known| known.place == place);
    let jwks = match same {
        Some(known) => known.clone(),
        None => Jwks { place: place.to_owned(), keys: KeySet::new(source(place)?, ASK_PAUSE) },
    };
    match jwks.keys.load().await {
        Ok(count) => tracing::info!("{count} keys for tokens"),
        Err(e) if same.is_some() => {
            let count = jwks.keys.count();
            tracing::warn!("JWKS refresh failed; keeping {count} cached keys: jwt_jwks: {e}");
        }
        Err(e) if known.is_none() && is_url(place) => {
            tracing::warn!("no keys for tokens yet: jwt_jwks: {e}");
        }
        Err(e) => return Err(UsageError(format!("jwt_jwks: {place}: {e}")).into()),
    }
    Ok(jwks)
}

fn is_url(place: &str) -> bool {
    place.contains("://")
}

fn source(place: &str) -> Result<KeySource, UsageError> {
    if !is_url(place) {
        return Ok(in_file(place.to_owned()));
    }
    let url = place.parse().map_err(|e| UsageError(format!("jwt_jwks is not a URL: {e}")))?;
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
        let ask = async move {
            let reply = http.send(request, ANSWER_WITHIN, SET_MAX).await;
            let reply = reply.map_err(|e| e.to_string())?;
            match reply.status {
                StatusCode::OK if !reply.cut => Ok(reply.body),
                StatusCode::OK => Err("the answer is longer than 1 MiB".to_owned()),
                status if status.is_redirection() => {
                    Err(format!("the answer is {status}, and redirects are not followed"))
                }
                status => Err(format!("the answer is {status}")),
            }
        };
        ask.boxed()
    })
}
