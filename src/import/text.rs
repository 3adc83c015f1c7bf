//! The bytes of a file as text, and the kinds of text that programs write.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::fields::Fields;

/// A text, decoded.
pub(super) enum Document<'a> {
    Object(Fields<'a>),
    /// An array, as its JSON.
    Array(&'a str),
    /// Anything else: a form, lines of settings.
    Other(&'a str),
}

impl<'a> Document<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let text = text.trim();
        match text.as_bytes().first() {
            Some(b'{') => match Fields::of(text.as_bytes()) {
                Ok(fields) => Self::Object(fields),
                Err(_) => Self::Other(text),
            },
            Some(b'[') if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                Self::Array(text)
            }
            _ => Self::Other(text),
        }
    }

    /// Returns the object, if it is one.
    pub(super) fn object(&self) -> Option<&Fields<'a>> {
        match self {
            Self::Object(fields) => Some(fields),
            _ => None,
        }
    }
}

/// What the `go-keyring` package puts before the values that it encodes.
const ENCODED: [(&str, fn(&str) -> Option<Vec<u8>>); 2] = [
    ("go-keyring-base64:", |text| BASE64_STANDARD.decode(text).ok()),
    ("go-keyring-encoded:", from_hex),
];

/// Returns the bytes as text: UTF-8 with or without a byte order mark, UTF-16 as `PowerShell` writes it with
/// `>`, or a value that `go-keyring` encoded.
pub(super) fn decoded(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let text: Zeroizing<String> = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, rest @ ..] => Zeroizing::new(str::from_utf8(rest).ok()?.to_owned()),
        // The first character of every form is ASCII.
        [first, 0, ..] if first.is_ascii() => utf16(bytes, u16::from_le_bytes)?,
        _ => Zeroizing::new(str::from_utf8(bytes).ok()?.to_owned()),
    };
    for (prefix, decode) in ENCODED {
        if let Some(encoded) = text.trim().strip_prefix(prefix) {
            let bytes = Zeroizing::new(decode(encoded)?);
            return Some(Zeroizing::new(str::from_utf8(&bytes).ok()?.to_owned()));
        }
    }
    Some(text)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<Zeroizing<String>> {
    let units = bytes.chunks_exact(2);
    if !units.remainder().is_empty() {
        return None;
    }
    // A unit becomes 3 bytes at most, so the buffer does not grow and leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() / 2 * 3));
    for character in char::decode_utf16(units.map(|pair| unit([pair[0], pair[1]]))) {
        text.push(character.ok()?);
    }
    Some(text)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
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
