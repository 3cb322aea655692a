//! Checks of secrets: long enough, and each used for one purpose.

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Settings};

/// The shortest key, in bytes.
const KEY_MIN: usize = 16;
/// Prefix of a webhook secret, not part of the secret itself.
const WEBHOOK_PREFIX: &str = "whsec_";

/// One secret, and the setting that contains it.
struct Secret<'a> {
    setting: &'static str,
    text: &'a str,
}

impl Settings {
    /// Checks that no list has an empty entry, that each key is long enough, and that no secret is used
    /// by two settings. Errors name the settings and quote nothing.
    pub(super) fn check_secrets(&self) -> Result<(), ConfigError> {
        self.check_lists()?;
        let secrets = self.secrets();
        for (n, secret) in secrets.iter().enumerate() {
            let Secret { setting, text } = secret;
            let wrong = |why: &str| Err(ConfigError(format!("{setting} {why}")));
            if matches!(*setting, "admin_key" | "buy_key" | "order_key") && text.len() < KEY_MIN {
                return wrong(&format!(
                    "contains a key of {} bytes, which must be at least {KEY_MIN}{}: openssl rand \
                     -hex 32 makes one",
                    text.len(),
                    if *setting == "order_key" { "" } else { " (commas separate keys)" },
                ));
            }
            if matches!(*setting, "admin_key" | "buy_key") && text.chars().any(char::is_control) {
                return wrong("contains a control character, which no request can send");
            }
            let same = |other: &&Secret<'_>| other.setting != *setting && other.text == *text;
            if let Some(other) = secrets[..n].iter().find(same) {
                let why = "contain the same secret: each needs its own";
                return Err(ConfigError(format!("{} and {setting} {why}", other.setting)));
            }
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<(), ConfigError> {
        let exposed = |text: &Option<SecretString>| Some(text.as_ref()?.expose_secret().to_owned());
        for (setting, text) in [
            ("admin_key", exposed(&self.admin_key)),
            ("buy_key", exposed(&self.buy_key)),
            ("webhook_secret", exposed(&self.webhook_secret)),
            ("trusted_proxies", self.trusted_proxies.clone()),
            ("cors_origins", self.cors_origins.clone()),
        ] {
            if text.is_some_and(|text| text.split(',').any(|entry| entry.trim().is_empty())) {
                return Err(ConfigError(format!(
                    "{setting} has an empty entry: remove the extra comma"
                )));
            }
        }
        Ok(())
    }

    fn secrets(&self) -> Vec<Secret<'_>> {
        let settings: [(_, _, &[char]); 6] = [
            ("admin_key", &self.admin_key, &[',']),
            ("buy_key", &self.buy_key, &[',']),
            ("order_key", &self.order_key, &[]),
            ("jwt_secret", &self.jwt_secret, &[]),
            ("webhook_secret", &self.webhook_secret, &[',', ' ']),
            ("redis_password", &self.redis_password, &[]),
        ];
        let mut secrets = Vec::new();
        for (setting, value, separators) in settings {
            let Some(value) = value else { continue };
            let texts = value.expose_secret().split(separators).map(str::trim);
            for text in texts.filter(|text| !text.is_empty()) {
                let text = text.strip_prefix(WEBHOOK_PREFIX).unwrap_or(text);
                secrets.push(Secret { setting, text });
            }
        }
        secrets
    }
}
