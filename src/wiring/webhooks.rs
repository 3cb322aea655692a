//! Webhooks, built from the settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::UsageError;
use crate::adapters::http_client::HttpClient;
use crate::adapters::sqlite::store::Store;
use crate::adapters::sqlite::webhook_outbox::SqliteOutbox;
use crate::config::{Backend, Settings};
use crate::core::engine::Ports;
use crate::core::model::{Clock, SystemClock};
use crate::core::ports::webhook_outbox::WebhookOutbox;
use crate::webhooks::sender::{PAUSES, Sender};
use crate::webhooks::{EndpointUrl, Secrets, WebhookEndpoint};

/// The shop's endpoint; `None` if webhook_url is not set.
pub fn endpoint(settings: &Settings) -> Option<WebhookEndpoint> {
    let url = settings.webhook_url.as_ref()?;
    let secret = settings.webhook_secret.as_ref()?;
    let checked = "the settings were checked";
    Some(WebhookEndpoint {
        http: HttpClient::new(),
        url: EndpointUrl::parse(url.expose_secret()).expect(checked),
        secrets: Secrets::parse(secret.expose_secret()).expect(checked),
        timeout: Duration::from_millis(settings.webhook_timeout_ms),
    })
}

/// Sends the events of the outbox until stopped. Returns at once if webhook_url is not set.
pub async fn send(settings: &Settings, ports: &Ports, stop: CancellationToken) {
    let Some(endpoint) = endpoint(settings) else { return };
    let Some(webhooks) = ports.webhooks.clone() else { return };
    let sender = Sender {
        webhooks,
        endpoint,
        pauses: PAUSES.to_vec(),
        clock: ports.clock.clone(),
        ids: ports.ids.clone(),
        drain: Duration::from_millis(settings.grace_ms) * 2 / 3,
        metrics: ports.metrics.clone(),
    };
    sender.run(stop).await;
}

/// The outbox, whether or not webhook_url is set.
pub async fn outbox(settings: &Settings) -> Result<Arc<dyn WebhookOutbox>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if settings.backend() == Backend::Embedded {
        let store = Store::open(&settings.data).map_err(|e| UsageError(e.to_string()))?;
        return Ok(open(settings, &store, &clock).await?);
    }
    super::aws::webhook_outbox(settings, clock).await
}

pub(super) async fn embedded(
    settings: &Settings,
    store: &Store,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<dyn WebhookOutbox>>> {
    if settings.webhook_url.is_some() {
        return Ok(Some(open(settings, store, clock).await?));
    }
    if SqliteOutbox::is_on(store).await.map_err(|e| UsageError(e.to_string()))? {
        tracing::warn!(
            "this store collects webhook events, but this process does not send them: set \
             webhook_url, or disable webhooks with `flux webhooks off`"
        );
    }
    Ok(None)
}

async fn open(
    settings: &Settings,
    store: &Store,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn WebhookOutbox>, UsageError> {
    let opened =
        SqliteOutbox::open(store.clone(), clock.clone(), super::event_kinds(settings)).await;
    Ok(Arc::new(opened.map_err(|e| UsageError(e.to_string()))?))
}
