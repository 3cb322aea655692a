//! Configured API keys.

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

/// Keys with equal rights. A key can be replaced during a sale: add the new one, distribute it, then
/// remove the old one.
#[derive(Debug, Default)]
pub struct Keys(Vec<SecretString>);

impl Keys {
    /// Parses keys separated by commas; spaces around a key are ignored.
    pub fn parse(text: &SecretString) -> Self {
        let keys = text.expose_secret().split(',').map(str::trim).filter(|key| !key.is_empty());
        Self(keys.map(SecretString::from).collect())
    }

    pub fn first(&self) -> Option<&SecretString> {
        self.0.first()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is one of the keys, in a time that reveals only the lengths of the keys.
    pub(super) fn contain(&self, given: &[u8]) -> bool {
        let found =
            |found: Choice, key: &SecretString| found | key.expose_secret().as_bytes().ct_eq(given);
        self.0.iter().fold(Choice::from(0), found).into()
    }
}
