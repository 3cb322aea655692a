//! The SDK's HTTP client, with the proxy that the environment names.

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// Variables for the proxy; the first one that is not empty is used.
const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Hosts of this machine, which are always reached directly.
const DIRECT: &str = "localhost,127.0.0.0/8,::1";

/// Sends https calls through `HTTPS_PROXY`, except to the hosts of `NO_PROXY`. Calls over http
/// (stand-ins, the metadata services that provide credentials) are sent directly. The error is one
/// line without the proxy's password.
pub fn http_client() -> Result<SharedHttpClient, String> {
    let proxy = of_environment()?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let provider = Provider::Rustls(CryptoMode::Ring);
        let mut connector = Connector::builder().tls_provider(provider);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.set_proxy_config(proxy.clone());
        connector.build()
    }))
}

fn of_environment() -> Result<Option<ProxyConfig>, String> {
    let Some((name, proxy)) = first_of(&PROXY)? else { return Ok(None) };
    // A proxy without a scheme is an HTTP proxy, as for curl.
    let url = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    let wrong = |_| format!("{name} is not the URL of an HTTP proxy: set it to http://HOST:PORT");
    let config = ProxyConfig::https(url.as_str()).map_err(wrong)?;
    let mut direct = DIRECT.to_owned();
    if let Some((_, hosts)) = first_of(&NO_PROXY)? {
        direct = format!("{direct},{hosts}");
    }
    Ok(Some(config.no_proxy(direct)))
}

fn first_of(names: &[&'static str]) -> Result<Option<(&'static str, String)>, String> {
    for name in names {
        match std::env::var(name) {
            Ok(value) if !value.trim().is_empty() => return Ok(Some((name, value))),
            Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{name} is not UTF-8")),
            _ => {}
        }
    }
    Ok(None)
}
