//! The types of settings.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::clear_text::Tls;

/// Where orders are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Embedded,
    Aws,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A type of settings: read from text, and described for the reference.
pub(super) trait Setting: Sized {
    /// The type in words, for the reference.
    const KIND: &'static str;
    const SECRET: bool = false;

    /// The error completes "`key` ...", without the text.
    fn read(text: &str) -> Result<Self, String>;

    /// The value as in a TOML file; a secret is shown as the empty text.
    fn toml(&self) -> String;

    /// True if both values are equal.
    fn same(&self, other: &Self) -> bool {
        self.toml() == other.toml()
    }
}

fn quoted(text: impl Into<String>) -> String {
    toml::Value::String(text.into()).to_string()
}

/// An empty text is `None`.
impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::read(text).map(Some) }
    }

    fn toml(&self) -> String {
        self.as_ref().map_or_else(|| quoted(""), T::toml)
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => one.same(other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Setting for String {
    const KIND: &'static str = "text";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn toml(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";

    fn read(text: &str) -> Result<Self, String> {
        String::read(text).map(PathBuf::from)
    }

    fn toml(&self) -> String {
        quoted(self.display().to_string())
    }
}

impl Setting for SecretString {
    const KIND: &'static str = "text";
    const SECRET: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn toml(&self) -> String {
        quoted("")
    }

    fn same(&self, other: &Self) -> bool {
        self.expose_secret() == other.expose_secret()
    }
}

/// Types read by their `FromStr`, each with its description and its error.
macro_rules! parsed {
    ($($type:ty, $kind:literal, $error:literal;)*) => {
        $(impl Setting for $type {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| $error.to_owned())
            }

            fn toml(&self) -> String {
                self.to_string()
            }
        })*
    };
}

parsed! {
    u64, "whole number", "must be a whole number";
    usize, "whole number", "must be a whole number";
    f64, "number", "must be a number, like 0.01";
    u16, "port number", "must be a port number from 0 to 65535";
}

/// A setting that may have bounds.
pub(super) trait Number: Setting {
    type Value;

    /// The number; `None` if the setting is not set.
    fn value(&self) -> Option<Self::Value>;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Number for $type {
            type Value = $type;

            fn value(&self) -> Option<$type> {
                Some(*self)
            }
        })*
    };
}

numbers!(u64, usize, f64);

impl<T: Number> Number for Option<T> {
    type Value = T::Value;

    fn value(&self) -> Option<T::Value> {
        self.as_ref().and_then(T::value)
    }
}

/// Types with a few named values, each with its description and its error.
macro_rules! words {
    ($($type:ident: $kind:literal, $error:literal { $($word:literal => $variant:ident,)* })*) => {
        $(impl Setting for $type {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($error.to_owned()),
                }
            }

            fn toml(&self) -> String {
                quoted(match self {
                    $(Self::$variant => $word,)*
                })
            }
        })*
    };
}

words! {
    Backend: "`embedded` or `aws`", "must be embedded or aws" {
        "embedded" => Embedded,
        "aws" => Aws,
    }
    Tls: "`auto`, `on` or `off`", "must be auto, on or off" {
        "auto" => Auto,
        "on" => On,
        "off" => Off,
    }
    LogFormat: "`text` or `json`", "must be text or json" {
        "text" => Text,
        "json" => Json,
    }
}
