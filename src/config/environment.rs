//! Finds flux's settings among variables, and those that only look like them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::keys;
use super::keys::SHARED_NAMES;
use super::{Backend, ConfigError, Settings};

/// A variable's name and value; `None` is a value that is not UTF-8.
pub(super) type Variable = (String, Option<String>);

const PREFIX: &str = "FLUX_";
const UNKNOWN: &str = "remove it, or see the names in docs/configuration.md";
const NOT_UTF8: &str = "is not UTF-8: set it to a UTF-8 text";

/// AWS credentials, which `.env` may contain.
pub(super) const AWS_ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
pub(super) const AWS_SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
pub(super) const AWS_SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// True if flux reads a variable of this name, or refuses it as an unknown setting.
pub(super) fn is_read_by_flux(name: &str) -> bool {
    let credentials = [AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN];
    is_own(name)
        || credentials.contains(&name)
        || SHARED_NAMES.iter().any(|(shared, _)| *shared == name)
}

/// True for names with `FLUX_`, and for a setting's name in other letter case, such as `flux_buy_key`.
fn is_own(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let is_key = |key: &str| Settings::KEYS.contains(&key.to_ascii_lowercase().as_str());
    name.starts_with(PREFIX) || upper.strip_prefix(PREFIX).is_some_and(is_key)
}

/// The environment of this process. Variables of other programs may contain anything; a name that
/// begins with `FLUX_` and is not UTF-8 is an error.
pub(super) fn of_this_process() -> Result<Vec<Variable>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        match name.into_string() {
            Ok(name) => variables.push((name, value.into_string().ok())),
            Err(name) if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) => {
                let name = name.to_string_lossy().escape_default().to_string();
                let why = format!("the environment: {name} is not a setting of flux: {UNKNOWN}");
                return Err(ConfigError(why));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}

/// The last value of a variable. An empty value counts as absent, because container tools pass unset
/// variables as empty ones.
pub(super) fn lookup<'a>(variables: &'a [Variable], name: &str) -> Option<&'a str> {
    let last = variables.iter().rev().find(|(n, _)| n == name);
    last.and_then(|(_, value)| value.as_deref()).filter(|value| !value.is_empty())
}

/// Values under shared names, by key. They are parsed once it is known which are used, because the
/// others belong to other programs and need not be valid.
#[derive(Debug, Default)]
pub(super) struct Shared<'a>(BTreeMap<&'static str, SharedValue<'a>>);

#[derive(Debug)]
struct SharedValue<'a> {
    source: &'static str,
    name: &'static str,
    value: &'a Option<String>,
}

impl Settings {
    /// Sets values under `FLUX_` names, and collects those under shared names in `shared`. A later
    /// source overrides an earlier one; within a source the `FLUX_` name wins.
    pub(super) fn read_variables<'a>(
        &mut self,
        variables: &'a [Variable],
        source: &'static str,
        shared: &mut Shared<'a>,
    ) -> Result<(), ConfigError> {
        for (name, key) in SHARED_NAMES {
            let last = variables.iter().rev().find(|(n, _)| n == name);
            if let Some((_, value)) = last.filter(|(_, value)| is_given(key, value)) {
                shared.0.insert(key, SharedValue { source, name, value });
            }
        }
        for (name, value) in variables.iter().filter(|(name, _)| is_own(name)) {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            if !Self::KEYS.contains(&key.as_str()) || *name != name.to_ascii_uppercase() {
                let why = format!("{name} is not a setting of flux: {UNKNOWN}");
                return Err(ConfigError(format!("{source}: {why}")));
            }
            if is_given(&key, value) {
                self.set_variable(source, name, &key, value)?;
                shared.0.remove(key.as_str());
            }
        }
        Ok(())
    }

    /// Sets the values under shared names that are used. Called after all sources and flags are read.
    pub(super) fn read_shared(&mut self, shared: &Shared<'_>) -> Result<(), ConfigError> {
        let queue = self.sqs_queue_url.is_some() || shared.0.contains_key("sqs_queue_url");
        let on_aws = self.backend.map_or(queue, |backend| backend == Backend::Aws);
        for (_, key) in SHARED_NAMES {
            let Some(found) = shared.0.get(key) else { continue };
            if self.uses(key, on_aws) {
                self.set_variable(found.source, found.name, key, found.value)?;
            } else {
                self.ignored.push(found.name.to_owned());
            }
        }
        Ok(())
    }

    fn uses(&self, key: &str, on_aws: bool) -> bool {
        match key {
            "otlp_endpoint" => true,
            "otlp_headers" | "service_name" => self.otlp_endpoint.is_some(),
            // A URL has its own port, and may have a password.
            "redis_port" => on_aws && self.redis_url.is_none() && self.redis_host.is_some(),
            "redis_password" => on_aws && (self.redis_url.is_some() || self.redis_host.is_some()),
            _ => on_aws,
        }
    }

    fn set_variable(
        &mut self,
        source: &str,
        name: &str,
        key: &str,
        value: &Option<String>,
    ) -> Result<(), ConfigError> {
        let set = match value {
            Some(text) => self.set(key, text),
            None => Err(NOT_UTF8.to_owned()),
        };
        set.map_err(|e| ConfigError(format!("{source}: {name} {e}")))
    }

    /// Removes the variables that Kubernetes sets in each container for each Service. Some look like
    /// settings if a Service is named `flux`, `flux-redis` or `redis`.
    pub(super) fn without_service_links(&mut self, variables: Vec<Variable>) -> Vec<Variable> {
        let (links, others): (Vec<_>, Vec<_>) = variables.into_iter().partition(is_service_link);
        let ours = links.into_iter().map(|(name, _)| name).filter(|name| is_read_by_flux(name));
        self.ignored.extend(ours);
        others
    }
}

/// True if a variable counts as set. An empty value does not, except for settings that guard access,
/// which refuse it.
fn is_given(key: &str, value: &Option<String>) -> bool {
    keys::guards_access(key) || value.as_ref().is_none_or(|value| !value.is_empty())
}

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, `NAME_SERVICE_PORT_HTTP`, `NAME_PORT`,
/// `NAME_PORT_80_TCP` and the last with `_PROTO`, `_PORT` and `_ADDR`, each with a value of its kind
/// (Kubernetes, "Accessing the Service", environment variables).
fn is_service_link((name, value): &Variable) -> bool {
    let Some(value) = value else { return false };
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    if name.ends_with("_SERVICE_HOST") {
        return is_address(value);
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_port(value);
    }
    if name.ends_with("_PORT") && is_endpoint(value) {
        return true;
    }
    let Some((_, rest)) = name.rsplit_once("_PORT_") else { return false };
    let mut parts = rest.split('_');
    let number = parts.next().is_some_and(is_port);
    let protocol = parts.next().is_some_and(|part| PROTOCOLS.contains(&part));
    let fits = match (parts.next(), parts.next()) {
        (None, _) => is_endpoint(value),
        (Some("PROTO"), None) => PROTOCOLS.contains(&value.to_ascii_uppercase().as_str()),
        (Some("PORT"), None) => is_port(value),
        (Some("ADDR"), None) => is_address(value),
        _ => false,
    };
    number && protocol && fits
}

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// True for an address like `tcp://10.0.0.1:6379`.
fn is_endpoint(value: &str) -> bool {
    let Some((scheme, address)) = value.split_once("://") else { return false };
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    PROTOCOLS.contains(&scheme.to_ascii_uppercase().as_str())
        && host.parse::<IpAddr>().is_ok()
        && port.parse::<u16>().is_ok()
}
