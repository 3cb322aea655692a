//! Traces in a build without the feature `otel`: none, and a setting that asks for them is refused.

use anyhow::Result;

use super::UsageError;
use crate::config::{Settings, needs_feature};
use crate::core::engine::Ports;

pub struct Traces;

pub struct Export;

impl Traces {
    /// Reads the settings; one that asks for traces is an error.
    pub fn of(settings: &Settings) -> Result<Traces> {
        if settings.otlp_endpoint.is_none() {
            return Ok(Traces);
        }
        Err(UsageError(needs_feature("otlp_endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)", "otel")).into())
    }

    /// The same ports, without a tracer.
    pub fn start(self, ports: Ports) -> Result<(Ports, Export)> {
        Ok((ports, Export))
    }
}

impl Export {
    pub async fn finish(self) {}
}
