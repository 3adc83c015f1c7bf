//! The bytes of others as text.

use std::ops::Deref;

use zeroize::Zeroizing;

use crate::sys::wipe::Bytes;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes as UTF-8, as far as they are text.
pub(crate) enum Utf8<'a> {
    AsIs(&'a [u8]),
    Converted(Bytes),
}

impl Deref for Utf8<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::AsIs(bytes) => bytes,
            Self::Converted(bytes) => bytes,
        }
    }
}

/// Returns the text as UTF-8. It may be UTF-8 with a byte order mark, or UTF-16, as `PowerShell` writes it with
/// `>` and Credential Manager keeps it. Bytes that are neither stay as they are.
pub(crate) fn utf8(bytes: &[u8]) -> Utf8<'_> {
    if let Some(rest) = bytes.strip_prefix(BYTE_ORDER_MARK) {
        return Utf8::AsIs(rest);
    }
    from_utf16(bytes).map_or(Utf8::AsIs(bytes), Utf8::Converted)
}

/// Reads UTF-16, with a byte order mark or without. Returns `None` for anything else.
///
/// The first character of whatever a token stands in is ASCII.
pub(crate) fn from_utf16(bytes: &[u8]) -> Option<Bytes> {
    let (units, is_little_endian) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, true),
        [0xfe, 0xff, rest @ ..] => (rest, false),
        [1..=0x7f, 0, ..] => (bytes, true),
        [0, 1..=0x7f, ..] => (bytes, false),
        _ => return None,
    };
    if !units.len().is_multiple_of(2) {
        return None;
    }
    let units = units.chunks_exact(2).map(|pair| {
        let unit = [pair[0], pair[1]];
        if is_little_endian { u16::from_le_bytes(unit) } else { u16::from_be_bytes(unit) }
    });
    // A unit becomes 3 bytes at most, so the buffer does not grow and leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(bytes.len() / 2 * 3));
    for character in char::decode_utf16(units) {
        text.extend_from_slice(character.ok()?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(text)
}

/// Returns a form (`access_token=…&scope=…`) as JSON, as GitHub sends it by default. Returns `None` if no field
/// of it has a name that counts.
pub(crate) fn json_of_form(form: &[u8], counts: impl Fn(&str) -> bool) -> Option<Bytes> {
    let fields: Vec<_> = form_urlencoded::parse(form.trim_ascii())
        .map(|(name, value)| (name, Zeroizing::new(value.into_owned())))
        .collect();
    if !fields.iter().any(|(name, _)| counts(name)) {
        return None;
    }
    // JSON escapes a byte by 6 at most, so the buffer does not grow and leave copies behind.
    let mut json = Zeroizing::new(Vec::with_capacity(6 * form.len() + 6 * fields.len() + 2));
    json.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut *json, name.as_ref()).ok()?;
        json.push(b':');
        serde_json::to_writer(&mut *json, value.as_str()).ok()?;
    }
    json.push(b'}');
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_every_encoding_becomes_utf_8() {
        for text in ["token", "{\"access_token\":\"ü\u{1f511}\"}", "ü"] {
            let units = || text.encode_utf16();
            let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
            for bytes in [
                text.as_bytes().to_vec(),
                [b"\xef\xbb\xbf", text.as_bytes()].concat(),
                [b"\xff\xfe", &little[..]].concat(),
                [b"\xfe\xff", &big[..]].concat(),
            ] {
                assert_eq!(&*utf8(&bytes), text.as_bytes(), "{bytes:?}");
            }
            if text.is_ascii() {
                assert_eq!(&*utf8(&little), text.as_bytes());
                assert_eq!(&*utf8(&big), text.as_bytes());
            }
        }
    }

    #[test]
    fn what_is_no_text_stays_as_it_is() {
        // Half of a surrogate pair, half of a unit, and bytes of no encoding.
        for bytes in [&b"{\0\x00\xd8"[..], b"{\0a", b"\xff\xfe\0", b"\0\0", b"\xc0{", b""] {
            assert_eq!(&*utf8(bytes), bytes);
        }
    }
}
