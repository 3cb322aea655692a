//! The export of traces, as the settings have it: none unless a collector is named.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hyper::Uri;
use secrecy::ExposeSecret;

use super::UsageError;
use crate::adapters::http_client::HttpClient;
use crate::adapters::otlp::{Otlp, OtlpSettings, parse_headers};
use crate::clear_text::is_private;
use crate::config::Settings;
use crate::core::engine::Ports;
use crate::core::engine::tracer::Tracer;
use crate::core::model::{IdSource, SystemIdSource};

/// Where traces are to go, if anywhere.
pub struct Traces(Option<Collector>);

struct Collector {
    otlp: OtlpSettings,
    ratio: f64,
    /// How long the last request may take.
    last: Duration,
}

/// Spans on their way to the collector, and how long the last of them may take.
pub struct Export(Option<(Arc<Otlp>, Duration)>);

impl Traces {
    /// Reads the settings; connects to nothing.
    pub fn of(settings: &Settings) -> Result<Traces> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(Traces(None)) };
        let headers = settings.otlp_headers.as_ref().map_or("", |headers| headers.expose_secret());
        let wrong = "otlp_headers (OTEL_EXPORTER_OTLP_HEADERS) must be like NAME=VALUE,NAME=VALUE";
        let url = traces_url(endpoint)?;
        let headers = parse_headers(headers).ok_or_else(|| UsageError(wrong.to_owned()))?;
        let is_near = url.scheme_str() == Some("https") || url.host().is_some_and(is_private);
        if !headers.is_empty() && !is_near {
            let key = "otlp_headers (OTEL_EXPORTER_OTLP_HEADERS)";
            let what = "are not sent unencrypted to a host that is not private";
            return Err(UsageError(format!("{key} {what}: use https:// in otlp_endpoint")).into());
        }
        let otlp = OtlpSettings {
            url,
            headers,
            service: settings.service_name.clone(),
            instance: uuid::Uuid::from_u128(SystemIdSource.next_id()).to_string(),
        };
        // The orders have two thirds of the grace period.
        let last = Duration::from_millis(settings.grace_ms) / 6;
        Ok(Traces(Some(Collector { otlp, ratio: settings.trace_ratio, last })))
    }

    /// The same ports, with a tracer if traces are exported.
    pub fn start(self, ports: Ports) -> Result<(Ports, Export)> {
        let Some(Collector { otlp, ratio, last }) = self.0 else {
            return Ok((ports, Export(None)));
        };
        tracing::info!(trace_ratio = ratio, "traces go to {}", otlp.url);
        let otlp = Otlp::start(HttpClient::new(), otlp)?;
        let tracer = Tracer::new(otlp.clone(), ports.ids.clone(), ratio);
        Ok((Ports { tracer, ..ports }, Export(Some((otlp, last)))))
    }
}

impl Export {
    /// Sends what is left, for at most a sixth of the grace period, and ends.
    pub async fn finish(self) {
        if let Some((otlp, last)) = self.0 {
            let _ended = tokio::task::spawn_blocking(move || otlp.finish(last)).await;
        }
    }
}

/// A collector's base URL with the path for traces (OpenTelemetry Protocol Exporter, "EndpointUrl URLs
/// for OTLP/HTTP").
fn traces_url(endpoint: &str) -> Result<Uri> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/')).parse::<Uri>();
    let fits = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
    // It may hold a password, so it is not shown.
    let clean = |url: &Uri| url.authority().is_some_and(|a| !a.as_str().contains('@'));
    Ok(url.ok().filter(fits).filter(clean).ok_or_else(|| {
        let key = "otlp_endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)";
        let like = "a URL like http://127.0.0.1:4318, for OTLP over HTTP";
        UsageError(format!("{key} must be {like}; a password goes into otlp_headers"))
    })?)
}
