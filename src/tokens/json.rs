//! Splits JSON into its fields. It copies no value, and no error quotes one.
//!
//! `serde_json::Error` quotes its input, so this module never returns such an error.

use std::borrow::Cow;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserializer;
use serde::de::{self, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an object, in their order. Each value is its JSON text.
pub(crate) type Fields<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// Splits an object into its fields. The error says what is wrong and at which position. It quotes nothing of
/// the input.
pub(crate) fn object(json: &[u8]) -> Result<Fields<'_>, String> {
    struct FieldsVisitor;

    impl<'de> Visitor<'de> for FieldsVisitor {
        type Value = Fields<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(Name(name)) = map.next_key()? {
                fields.push((name, map.next_value()?));
            }
            Ok(fields)
        }
    }

    if json.is_empty() {
        return Err("it is empty".into());
    }
    let text = str::from_utf8(json)
        .map_err(|error| format!("it is not UTF-8 text (byte {})", error.valid_up_to()))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let fields = parser
        .deserialize_map(FieldsVisitor)
        .and_then(|fields| parser.end().map(|()| fields))
        .map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            match error.classify() {
                serde_json::error::Category::Data => "it is not a JSON object".into(),
                serde_json::error::Category::Eof => format!("it ends too early, at {place}"),
                serde_json::error::Category::Io | serde_json::error::Category::Syntax => {
                    format!("it is not valid JSON at {place}")
                }
            }
        })?;
    // Programs differ in which of two values counts. So an object with two is an error.
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("it has the same field twice".into());
    }
    Ok(fields)
}

/// Returns whether a text is one JSON value.
pub(crate) fn is_value(text: &SecretString) -> bool {
    #[expect(clippy::disallowed_methods, reason = "looks at its form only")]
    let text = text.expose_secret();
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Reads a JSON string into a secret, without another copy.
pub(crate) fn secret(json: &RawValue) -> Option<SecretString> {
    struct SecretVisitor;

    impl Visitor<'_> for SecretVisitor {
        type Value = SecretString;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            // The buffer has the exact size, so the secret is never moved.
            Ok(SecretString::from(Box::<str>::from(text)))
        }
    }

    serde_json::Deserializer::from_str(json.get()).deserialize_str(SecretVisitor).ok()
}

/// A field's name. It is borrowed if it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> de::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}
