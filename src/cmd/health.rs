use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use super::UsageError;
use crate::client::{Address, Connection};
use crate::config::Flags;
use crate::telemetry::say;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Check that a running flux serve is alive
///
/// Exits with 1 if the server does not respond within 5 s, or responds with an error.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Server to check, as http://HOST:PORT [default: the address in the setting listen]
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    target: Option<Address>,
    /// Also check that its queue and its ledger respond
    #[arg(long)]
    ready: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    let address = match args.target {
        Some(address) => address,
        None => local_address(&settings.listen).map_err(UsageError)?,
    };
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let mut connection = Connection::to(&address);
    match tokio::time::timeout(RESPONSE_TIMEOUT, connection.get(path)).await {
        Ok(Ok(answer)) if answer.status.is_success() => {
            say(String::from_utf8_lossy(&answer.body).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ok(answer)) => bail!("{address}{path} returned {}", answer.status),
        Ok(Err(e)) => bail!("no response from {address}{path}: {e}"),
        Err(_) => {
            bail!("no response from {address}{path} within {} s", RESPONSE_TIMEOUT.as_secs())
        }
    }
}

/// The address of a server on this machine that listens on `listen`: the loopback address if it
/// listens on all.
pub(super) fn local_address(listen: &str) -> Result<Address, String> {
    let address = match listen.parse::<SocketAddr>() {
        Ok(mut all) if all.ip().is_unspecified() => {
            all.set_ip(match all.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
            all.to_string()
        }
        _ => listen.to_owned(),
    };
    if address.ends_with(":0") {
        let what = "the setting listen has port 0, so the port is unknown";
        return Err(format!("{what}: give --target http://HOST:PORT"));
    }
    Address::parse(&format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::local_address;

    #[test]
    fn unspecified_listen_address_means_loopback() {
        let reached = |listen| local_address(listen).map(|address| address.to_string());
        assert_eq!(reached("0.0.0.0:5000").as_deref(), Ok("http://127.0.0.1:5000"));
        assert_eq!(reached("[::]:81").as_deref(), Ok("http://[::1]:81"));
        assert_eq!(reached("shop:5000").as_deref(), Ok("http://shop:5000"));
        assert!(reached("127.0.0.1:0").unwrap_err().contains("--target"));
    }
}
