//! The aws backend in a build without the feature `aws`: every function returns an error. The settings
//! are refused before that if they choose this backend.

use std::sync::Arc;

use anyhow::Result;

use super::{KeyUse, Unavailable, UsageError};
use crate::config::{Settings, needs_feature};
use crate::core::engine::Ports;
use crate::core::model::Clock;
use crate::core::ports::webhook_outbox::WebhookOutbox;

pub(super) async fn open(_settings: &Settings, _key_use: KeyUse) -> Result<Ports, Unavailable> {
    Err(Unavailable::permanent(missing()))
}

pub(super) async fn webhook_outbox(
    _settings: &Settings,
    _clock: Arc<dyn Clock>,
) -> Result<Arc<dyn WebhookOutbox>> {
    Err(missing().into())
}

/// Has no values.
#[derive(Debug)]
pub enum TemporaryCloud {}

impl TemporaryCloud {
    pub(super) async fn create(_: &mut Settings, _name: String, _fifo: bool) -> Result<Self> {
        Err(missing().into())
    }

    pub(super) async fn delete(self) {
        match self {}
    }
}

/// The error for a command that needs AWS.
pub fn missing() -> UsageError {
    UsageError(needs_feature("the aws backend", "aws"))
}
