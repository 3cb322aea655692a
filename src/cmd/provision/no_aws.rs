use anyhow::Result;

use super::Args;
use crate::config::Settings;
use crate::wiring;

pub(super) async fn print_iam(_args: &Args, _settings: &Settings) -> Result<()> {
    Err(wiring::aws::missing().into())
}

pub(super) async fn on_aws(_args: Args, _settings: Settings) -> Result<()> {
    Err(wiring::aws::missing().into())
}
