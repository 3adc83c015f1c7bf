//! The bytes of a file as text, and the kinds of text that programs write.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

use super::fields::{Fields, Trail};
use crate::tokens::text::utf8;

/// A text, and what becomes of its fields.
pub(super) struct Document<'a> {
    pub(super) content: Content<'a>,
    pub(super) trail: Trail,
}

/// What kind of text it is.
pub(super) enum Content<'a> {
    Object(Fields<'a>),
    /// An array, as its JSON.
    Array(&'a str),
    /// Anything else: a form, lines of settings.
    Other(&'a str),
}

impl<'a> Document<'a> {
    /// `obtained` is when its tokens were obtained, if that was said.
    pub(super) fn of(text: &'a str, obtained: Option<DateTime<Utc>>) -> Self {
        let text = text.trim();
        let trail = Trail::new(obtained);
        let content = match text.as_bytes().first() {
            Some(b'{') => match Fields::of(text.as_bytes(), "", &trail) {
                Ok(fields) => Content::Object(fields),
                Err(_) => Content::Other(text),
            },
            Some(b'[') if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                Content::Array(text)
            }
            _ => Content::Other(text),
        };
        Self { content, trail }
    }

    /// Returns whether it is a record of this crate.
    pub(super) fn is_ours(&self) -> bool {
        self.object().is_some_and(Fields::is_record)
    }

    /// Returns the object, if it is one.
    pub(super) fn object(&self) -> Option<&Fields<'a>> {
        match &self.content {
            Content::Object(fields) => Some(fields),
            _ => None,
        }
    }
}

type Decode = fn(&str) -> Option<Vec<u8>>;

/// What the `go-keyring` package puts before the values that it encodes.
const ENCODED: [(&str, Decode); 2] = [
    ("go-keyring-base64:", |text| BASE64_STANDARD.decode(text).ok()),
    ("go-keyring-encoded:", from_hex),
];

/// Returns the bytes as text: UTF-8, UTF-16, or a value that `go-keyring` encoded.
pub(super) fn decoded(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let bytes = utf8(bytes);
    let text = str::from_utf8(&bytes).ok()?;
    for (prefix, decode) in ENCODED {
        if let Some(encoded) = text.trim().strip_prefix(prefix) {
            let bytes = Zeroizing::new(decode(encoded)?);
            return Some(Zeroizing::new(str::from_utf8(&bytes).ok()?.to_owned()));
        }
    }
    Some(Zeroizing::new(text.to_owned()))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    // The buffer does not grow and leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in pairs {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(std::mem::take(&mut *bytes))
}

/// Returns the text of a line without quotes around it.
pub(super) fn unquoted(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return Cow::Borrowed(inner);
        }
    }
    Cow::Borrowed(text)
}
