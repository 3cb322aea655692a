//! Who may do what in the API, by the settings.

use std::io;
use std::time::Duration;

use anyhow::Result;
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use secrecy::SecretString;
use tokio::io::AsyncReadExt;

use super::Usage;
use crate::config::Settings;
use crate::core::connection::web::Web;
use crate::http::{
    AccessRules, KeySet, KeySource, Keys, Origins, Proxies, PublicUrl, Rate, TokenRules,
};

/// The longest set of keys, in bytes.
const SET_MAX: usize = 1024 * 1024;
/// How long an identity provider may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An identity provider is asked for its keys no more often than this.
const ASK_PAUSE: Duration = Duration::from_secs(30);

/// Reads what the settings name: an identity provider that does not answer is asked again when the
/// first token comes, a file that cannot be read is an error.
pub async fn rules(settings: &Settings) -> Result<AccessRules> {
    let keys = |keys: &Option<SecretString>| keys.as_ref().map(Keys::parse).unwrap_or_default();
    let rate = |per_second| Rate::new(per_second as u32, settings.rate_burst as u32);
    Ok(AccessRules {
        admin_keys: keys(&settings.admin_key),
        buy_keys: keys(&settings.buy_key),
        tokens: TokenRules {
            secret: settings.jwt_secret.clone(),
            keys: match &settings.jwt_jwks {
                Some(place) => Some(key_set(place).await?),
                None => None,
            },
            issuer: settings.jwt_issuer.clone(),
            audience: settings.jwt_audience.clone(),
        },
        user_rate: rate(settings.rate_per_user),
        address_rate: rate(settings.rate_per_address),
        trusted_proxies: parsed("trusted_proxies", &settings.trusted_proxies, Proxies::parse)?,
        origins: parsed("cors_origins", &settings.cors_origins, Origins::parse)?,
        public_url: settings.public_url.as_deref().map(public_url).transpose()?,
        listen_host: settings.listen.rsplit_once(':').map(|(host, _)| host.to_owned()),
        connections: None,
    })
}

fn public_url(text: &str) -> Result<PublicUrl, Usage> {
    PublicUrl::parse(text).map_err(|e| Usage(format!("public_url {e}")))
}

fn parsed<T: Default>(
    key: &str,
    text: &Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Usage> {
    let parsed = text.as_deref().map(parse).transpose();
    parsed.map(Option::unwrap_or_default).map_err(|e| Usage(format!("{key}: {e}")))
}

async fn key_set(place: &str) -> Result<std::sync::Arc<KeySet>> {
    let is_url = place.starts_with("https://") || place.starts_with("http://");
    let source = if is_url {
        let url = place.parse().map_err(|e| Usage(format!("jwt_jwks is not a URL: {e}")))?;
        at_url(url)
    } else {
        in_file(place.to_owned())
    };
    let keys = KeySet::new(source, ASK_PAUSE);
    match keys.load().await {
        Ok(count) => tracing::info!("{count} keys for tokens"),
        Err(e) if is_url => tracing::warn!("no keys for tokens yet: jwt_jwks: {e}"),
        Err(e) => return Err(Usage(format!("jwt_jwks: {place}: {e}")).into()),
    }
    Ok(keys)
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
    let web = Web::new();
    Box::new(move || {
        let (web, mut request) = (web.clone(), Request::new(Full::<Bytes>::default()));
        *request.uri_mut() = url.clone();
        let ask = async move {
            let reply = web.send(request, ANSWER_WITHIN, SET_MAX).await;
            let reply = reply.map_err(|e| e.to_string())?;
            match reply.status {
                StatusCode::OK if !reply.cut => Ok(reply.body),
                StatusCode::OK => Err("the answer is longer than 1 MiB".to_owned()),
                status => Err(format!("the answer is {status}")),
            }
        };
        ask.boxed()
    })
}
