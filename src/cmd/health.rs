use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Usage;
use crate::client::{Address, Connection};
use crate::config::Flags;
use crate::telemetry::say;

/// How long a server may take to say that it is alive.
const WITHIN: Duration = Duration::from_secs(5);

/// Ask a running flux serve whether it is alive; exit code 1 if it is not
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server, as http://HOST:PORT [default: where the settings have it listen]
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    target: Option<Address>,
    /// Whether it is ready: its queue and ledger answer too
    #[arg(long)]
    ready: bool,
}

pub async fn run(args: Args, flags: &Flags) -> Result<ExitCode> {
    let settings = super::settings(flags)?;
    let address = match args.target {
        Some(address) => address,
        None => own(&settings.listen).map_err(Usage)?,
    };
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let mut connection = Connection::to(&address);
    match tokio::time::timeout(WITHIN, connection.get(path)).await {
        Ok(Ok(answer)) if answer.status.is_success() => {
            say(String::from_utf8_lossy(&answer.body).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ok(answer)) => bail!("{address}{path} answers {}", answer.status),
        Ok(Err(e)) => bail!("{address}{path} does not answer: {e}"),
        Err(_) => bail!("{address}{path} does not answer within {} s", WITHIN.as_secs()),
    }
}

/// How a server that listens there is reached from its own machine.
pub(super) fn own(listen: &str) -> Result<Address, String> {
    let reached = match listen.parse::<SocketAddr>() {
        Ok(mut all) if all.ip().is_unspecified() => {
            all.set_ip(match all.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
            all.to_string()
        }
        _ => listen.to_owned(),
    };
    if reached.ends_with(":0") {
        return Err("listen has port 0, any free one: give --target http://HOST:PORT".to_owned());
    }
    Address::parse(&format!("http://{reached}"))
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn a_server_on_every_address_is_reached_on_the_loopback() {
        let reached = |listen| own(listen).map(|address| address.to_string());
        assert_eq!(reached("0.0.0.0:5000").as_deref(), Ok("http://127.0.0.1:5000"));
        assert_eq!(reached("[::]:81").as_deref(), Ok("http://[::1]:81"));
        assert_eq!(reached("shop:5000").as_deref(), Ok("http://shop:5000"));
        assert!(reached("127.0.0.1:0").unwrap_err().contains("--target"));
    }
}
