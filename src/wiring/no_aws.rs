//! The aws backend in a build without the feature `aws`. Settings that choose it were refused when
//! they were read, so none of these is reached; each is an error all the same.

use std::sync::Arc;

use anyhow::Result;

use super::{Away, KeyUse, UsageError};
use crate::config::{Settings, needs_feature};
use crate::core::engine::Ports;
use crate::core::model::Clock;
use crate::core::ports::webhook_outbox::WebhookOutbox;

pub(super) async fn open(_settings: &Settings, _key_use: KeyUse) -> Result<Ports, Away> {
    Err(Away::for_good(missing()))
}

pub(super) async fn webhook_outbox(
    _settings: &Settings,
    _clock: Arc<dyn Clock>,
) -> Result<Arc<dyn WebhookOutbox>> {
    Err(missing().into())
}

/// Never made.
#[derive(Debug)]
pub enum TemporaryCloud {}

impl TemporaryCloud {
    pub(super) async fn make(_: &mut Settings, _name: String, _fifo: bool) -> Result<Self> {
        Err(missing().into())
    }

    pub(super) async fn delete(self) {
        match self {}
    }
}

/// What to tell somebody who asks for AWS.
pub fn missing() -> UsageError {
    UsageError(needs_feature("the aws backend", "aws"))
}
