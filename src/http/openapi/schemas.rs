//! JSON schemas of bodies and ids.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use crate::core::model::{ItemId, OrderId, Quantity, UserId};

/// Generates schemas and collects their definitions.
pub(super) struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Default for Schemas {
    fn default() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self {
            read: settings.clone().into_generator(),
            written: settings.for_serialize().into_generator(),
        }
    }
}

impl Schemas {
    /// The schema of a request body.
    pub fn read<T: JsonSchema>(&mut self) -> Value {
        self.read.subschema_for::<T>().to_value()
    }

    /// The schema of a response body.
    pub fn written<T: JsonSchema>(&mut self) -> Value {
        self.written.subschema_for::<T>().to_value()
    }

    pub fn into_definitions(mut self) -> Map<String, Value> {
        let mut all = self.read.take_definitions(true);
        all.extend(self.written.take_definitions(true));
        all
    }
}

/// Schemas with the rules of each id's `parse`.
macro_rules! ids {
    ($($type:ident: $schema:tt;)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

ids! {
    ItemId: {
        "type": "string",
        "pattern": "^[A-Za-z0-9._:-]{1,128}$",
        "examples": ["ticket_001"],
        "description": "Id of an item: 1-128 characters of A-Z a-z 0-9 . _ : -",
    };
    UserId: {
        "type": "string",
        "minLength": 1,
        "maxLength": 128,
        "pattern": "^[^\\u0000-\\u001F\\u007F-\\u009F]+$",
        "examples": ["ann"],
        "description": "Id of a user: 1-128 bytes of UTF-8 without control characters.",
    };
    OrderId: {
        "type": "string",
        "pattern": "^[0-9a-f]{32}$",
        "examples": ["0198f3c27a6e4d0bb1c2d3e4f5a6b7c8"],
        "description": "Id of an order: 32 lower-case hex digits.",
    };
    Quantity: {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "examples": [1],
        "description": "Units of one order.",
    };
}

/// The `user_id` of a new order, with the rules of [`UserId::parse_new`].
pub struct NewUserId;

impl JsonSchema for NewUserId {
    fn schema_name() -> Cow<'static, str> {
        "NewUserId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": format!("^(?=.*[^{BLANK}])(?:[^{HIDDEN}]|[\\u200C\\u200D])+$"),
            "examples": ["ann"],
            "description": "Id of a user: 1-128 bytes of UTF-8, not blank, without characters that are \
                invisible or reorder text (control, format and private-use characters, line \
                separators). The joiners U+200C and U+200D are allowed.",
        })
    }
}

/// Characters that a name may contain but not consist of.
const BLANK: &str = "\\s\\u200C\\u200D\\u2800\\uFE00-\\uFE0F";
/// Characters that a name must not contain. Besides whole categories these are the ignorable
/// characters and the noncharacters of the first plane; the server alone checks the other planes.
const HIDDEN: &str = "\\p{Cc}\\p{Cf}\\p{Co}\\p{Zl}\\p{Zp}\\u034F\\u115F\\u1160\\u17B4\\u17B5\\u3164\
    \\uFDD0-\\uFDEF\\uFFA0\\uFFF0-\\uFFFB\\uFFFE\\uFFFF";

#[cfg(test)]
mod tests {
    use super::*;

    fn allows<T: JsonSchema>(value: &Value) -> bool {
        let schema = Schemas::default().written.root_schema_for::<T>().to_value();
        jsonschema::validator_for(&schema).unwrap().is_valid(value)
    }

    #[test]
    fn schemas_and_parsers_accept_the_same_ids() {
        let long = "x".repeat(129);
        let hex = "0f".repeat(16);
        for text in ["", "a", "a.b_c:d-9", "a b", "é", "\u{7f}", "a\nb", "\u{85}", &long, &hex] {
            let value = Value::from(text);
            assert_eq!(allows::<ItemId>(&value), ItemId::parse(text).is_ok(), "{text:?}");
            assert_eq!(allows::<OrderId>(&value), OrderId::parse(text).is_ok(), "{text:?}");
            assert_eq!(allows::<UserId>(&value), UserId::parse(text).is_ok(), "{text:?}");
        }
        for text in [
            "ann",
            "a b",
            " ",
            "\u{3000}",
            "\u{2028}",
            "a\u{202e}",
            "\u{e0041}a",
            "👩\u{200d}👧",
            "\u{fe0f}",
        ] {
            let value = Value::from(text);
            assert_eq!(allows::<NewUserId>(&value), UserId::parse_new(text).is_ok(), "{text:?}");
        }
        for units in [0, 1, 100, 101] {
            assert_eq!(allows::<Quantity>(&units.into()), Quantity::new(units).is_ok(), "{units}");
        }
    }
}
