//! Secrets that callers hold.

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

/// Keys that are all as good, so that one can be changed during a sale: add the new one, hand it
/// out, take the old one away.
#[derive(Debug, Default)]
pub struct Keys(Vec<SecretString>);

impl Keys {
    /// Separated by commas; spaces around a key are not the key's.
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

    /// Whether this is one of them, found out in a time that tells nothing but the keys' lengths.
    pub(super) fn contain(&self, given: &[u8]) -> bool {
        let found =
            |found: Choice, key: &SecretString| found | key.expose_secret().as_bytes().ct_eq(given);
        self.0.iter().fold(Choice::from(0), found).into()
    }
}
