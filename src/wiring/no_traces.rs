//! Traces in a build without the feature `otel`: none are exported, and settings that ask for them are
//! refused.

use anyhow::Result;

use super::UsageError;
use crate::config::{Settings, needs_feature};
use crate::core::engine::Ports;

/// No traces.
pub struct Traces;

/// No export.
pub struct Export;

impl Traces {
    /// Reads the settings. A setting that enables traces is an error.
    pub fn of(settings: &Settings) -> Result<Traces> {
        if settings.otlp_endpoint.is_none() {
            return Ok(Traces);
        }
        Err(UsageError(needs_feature("otlp_endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)", "otel")).into())
    }

    /// Returns the same ports, without a tracer.
    pub fn start(self, ports: Ports) -> Result<(Ports, Export)> {
        Ok((ports, Export))
    }
}

impl Export {
    /// Does nothing.
    pub async fn finish(self) {}
}
