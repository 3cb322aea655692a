//! The export of traces, if the settings name a collector.

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

/// The collector of traces, if the settings name one.
pub struct Traces(Option<Collector>);

struct Collector {
    otlp: OtlpSettings,
    ratio: f64,
    /// Time limit for the last export at a stop.
    last_export: Duration,
}

/// A running export, with the time limit for its last request.
pub struct Export(Option<(Arc<Otlp>, Duration)>);

impl Traces {
    /// Reads the settings. Makes no connection.
    pub fn of(settings: &Settings) -> Result<Traces> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(Traces(None)) };
        let headers = settings.otlp_headers.as_ref().map_or("", |headers| headers.expose_secret());
        let invalid =
            "otlp_headers (OTEL_EXPORTER_OTLP_HEADERS) must be like NAME=VALUE,NAME=VALUE";
        let url = traces_url(endpoint)?;
        let headers = parse_headers(headers).ok_or_else(|| UsageError(invalid.to_owned()))?;
        let is_confidential =
            url.scheme_str() == Some("https") || url.host().is_some_and(is_private);
        if !headers.is_empty() && !is_confidential {
            let key = "otlp_headers (OTEL_EXPORTER_OTLP_HEADERS)";
            let why = "are not sent unencrypted to a host that is not private";
            return Err(UsageError(format!("{key} {why}: use https:// in otlp_endpoint")).into());
        }
        let otlp = OtlpSettings {
            url,
            headers,
            service: settings.service_name.clone(),
            instance: uuid::Uuid::from_u128(SystemIdSource.next_id()).to_string(),
        };
        // Draining orders has two thirds of the grace period.
        let last_export = Duration::from_millis(settings.grace_ms) / 6;
        Ok(Traces(Some(Collector { otlp, ratio: settings.trace_ratio, last_export })))
    }

    /// Starts the export and returns the ports with its tracer.
    pub fn start(self, ports: Ports) -> Result<(Ports, Export)> {
        let Some(Collector { otlp, ratio, last_export }) = self.0 else {
            return Ok((ports, Export(None)));
        };
        tracing::info!(trace_ratio = ratio, url = %otlp.url, "exporting traces");
        let otlp = Otlp::start(HttpClient::new(), otlp)?;
        let tracer = Tracer::new(otlp.clone(), ports.ids.clone(), ratio);
        Ok((Ports { tracer, ..ports }, Export(Some((otlp, last_export)))))
    }
}

impl Export {
    /// Exports the remaining spans, for at most a sixth of the grace period, and stops.
    pub async fn finish(self) {
        if let Some((otlp, last_export)) = self.0 {
            let _ended = tokio::task::spawn_blocking(move || otlp.finish(last_export)).await;
        }
    }
}

/// A collector's base URL with the path for traces (OpenTelemetry Protocol Exporter, "Endpoint URLs
/// for OTLP/HTTP").
fn traces_url(endpoint: &str) -> Result<Uri> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/')).parse::<Uri>();
    let is_http = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
    // The URL may contain a password, so the error does not show it.
    let has_no_user = |url: &Uri| url.authority().is_some_and(|a| !a.as_str().contains('@'));
    Ok(url.ok().filter(is_http).filter(has_no_user).ok_or_else(|| {
        let key = "otlp_endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)";
        let example = "a URL like http://127.0.0.1:4318, for OTLP over HTTP";
        UsageError(format!("{key} must be {example}; put a password into otlp_headers"))
    })?)
}
