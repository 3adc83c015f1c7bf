//! The bodies of answers that tokens can be read from, although they are not as RFC 6749 says.
//!
//! The answer to a refresh is the only copy of the new token. So a byte order mark, a byte that is not UTF-8 in
//! some other field, a form where JSON is expected, or compression that nobody asked for must not lose it.

mod compressed;

use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

pub(super) use self::compressed::{TooLong, decompressed};
use crate::tokens::json;
use crate::tokens::text::{Utf8, json_of_form, utf8};

/// Returns the body as JSON in UTF-8. What cannot be read stays as it is.
///
/// If the body is not whole, the last field of a form is not read: it may be only the beginning of one.
pub(super) fn readable(body: Zeroizing<Vec<u8>>, is_whole: bool) -> Zeroizing<Vec<u8>> {
    let body = match utf8(&body) {
        Utf8::AsIs(text) if text.len() == body.len() => body,
        Utf8::AsIs(text) => Zeroizing::new(text.to_vec()),
        Utf8::Converted(text) => text,
    };
    let body = if str::from_utf8(&body).is_ok() { body } else { from_latin_1(&body) };
    if is_object(&body) {
        return body;
    }
    if let Some(text) = from_string(&body) {
        return readable(text, is_whole);
    }
    let form = if body.trim_ascii_start().starts_with(b"{") {
        None
    } else if is_whole {
        from_form(&body)
    } else {
        from_begun_form(&body)
    };
    form.or_else(|| salvaged(&body, is_whole)).unwrap_or(body)
}

fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<&RawValue>(body).is_ok()
}

/// Reads the text of a JSON string. Some servers encode their answer twice.
fn from_string(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = json::secret(serde_json::from_slice(body).ok()?)?;
    #[expect(clippy::disallowed_methods, reason = "tokens are read from it")]
    let text = text.expose_secret().as_bytes().to_vec();
    Some(Zeroizing::new(text))
}

/// Takes each byte that is not part of UTF-8 as a character of ISO 8859-1. Tokens are ASCII (RFC 6749, A.12),
/// so they stay as they are.
fn from_latin_1(body: &[u8]) -> Zeroizing<Vec<u8>> {
    // Each byte becomes two bytes at most, so the buffer does not grow and leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * body.len()));
    for chunk in body.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            text.extend_from_slice(char::from(*byte).encode_utf8(&mut [0; 2]).as_bytes());
        }
    }
    text
}

/// Reads a form, which is what GitHub answers by default. Returns `None` if it has no token, no device code
/// and no error.
fn from_form(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    json_of_form(body, |name| {
        matches!(name, "access_token" | "device_code" | "error") || is_refresh_token(body, name)
    })
}

/// Returns whether a field is a refresh token, and no part of a link in a page.
fn is_refresh_token(body: &[u8], name: &str) -> bool {
    name == "refresh_token" && !body.trim_ascii_start().starts_with(b"<")
}

/// Reads the beginning of a form, as far as its fields have an end. Returns `None` without a refresh token: it may be
/// in the part that is missing.
fn from_begun_form(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let end = body.iter().rposition(|byte| *byte == b'&')?;
    json_of_form(&body[..end], |name| is_refresh_token(body, name))
}

/// The fields that are looked for in a body that is no JSON.
const SALVAGED: [&str; 9] = [
    "access_token",
    "device_code",
    "error",
    "error_description",
    "expires_in",
    "id_token",
    "refresh_token",
    "scope",
    "token_type",
];

/// Finds fields in a body that is nearly JSON: with a line of text before it, a comma too many, a line break in
/// a text, or in a list. Returns them as JSON, or `None` if there is neither a token nor an error.
///
/// A page may show the answer of a provider as an example, so nothing is taken from HTML. Of the beginning of an
/// answer nothing is taken without a refresh token: it may be in the part that is missing.
fn salvaged(body: &[u8], is_whole: bool) -> Option<Zeroizing<Vec<u8>>> {
    let text = str::from_utf8(body).ok()?;
    let has = |tag: &str| {
        text.as_bytes().windows(tag.len()).any(|part| part.eq_ignore_ascii_case(tag.as_bytes()))
    };
    if has("<html") || has("<!doctype") {
        return None;
    }
    // JSON escapes a byte by 6 at most, and only inside of strings.
    let mut json = Zeroizing::new(Vec::with_capacity(6 * body.len() + 2));
    json.push(b'{');
    let (mut counts, mut has_refresh_token) = (false, false);
    for name in SALVAGED {
        for value in values_of(text, name) {
            counts |= matches!(name, "access_token" | "device_code" | "error" | "refresh_token");
            has_refresh_token |= name == "refresh_token";
            if json.len() > 1 {
                json.push(b',');
            }
            serde_json::to_writer(&mut *json, name).ok()?;
            json.push(b':');
            json.extend_from_slice(&value);
        }
    }
    json.push(b'}');
    // A body without a length may have been cut off.
    let is_whole = is_whole && text.trim_end().ends_with(['}', ']']);
    (counts && (is_whole || has_refresh_token)).then_some(json)
}

/// Returns the values of a field as JSON: texts that have an end, and numbers.
fn values_of<'t>(text: &'t str, name: &str) -> impl Iterator<Item = Zeroizing<Vec<u8>>> + use<'t> {
    let quoted = format!("\"{name}\"");
    let length = quoted.len();
    let places: Vec<usize> = text.match_indices(&quoted).map(|(at, _)| at).collect();
    places.into_iter().filter_map(move |at| {
        // A quoted text inside of another one is no field.
        if text[..at].ends_with('\\') {
            return None;
        }
        let value = text[at + length..].trim_ascii_start().strip_prefix(':')?.trim_ascii_start();
        if let Some(inner) = value.strip_prefix('"') {
            return string(inner);
        }
        let is_of_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let end = value.bytes().position(|byte| !is_of_number(byte))?;
        let number = &value[..end];
        serde_json::from_str::<f64>(number).ok()?;
        Some(Zeroizing::new(number.as_bytes().to_vec()))
    })
}

/// Returns a text of JSON without its first quotation mark, with its control characters escaped.
fn string(inner: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut is_escaped = false;
    let end = inner.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })?;
    let mut json = Zeroizing::new(Vec::with_capacity(6 * end + 2));
    json.push(b'"');
    for byte in inner[..end].bytes() {
        if byte.is_ascii_control() {
            json.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            json.push(byte);
        }
    }
    json.push(b'"');
    serde_json::from_slice::<&RawValue>(&json).ok()?;
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> String {
        String::from_utf8(readable(Zeroizing::new(body.to_vec()), true).to_vec()).unwrap()
    }

    #[test]
    fn a_body_with_tokens_becomes_json_whatever_form_it_has() {
        for (body, expected) in [
            (&br#"{"access_token":"a"}"#[..], r#"{"access_token":"a"}"#),
            (b"\xef\xbb\xbf{\"access_token\":\"a\"}", r#"{"access_token":"a"}"#),
            (
                b"{\"access_token\":\"a\",\"name\":\"Zo\xeb\"}",
                r#"{"access_token":"a","name":"Zoë"}"#,
            ),
            (
                b"access_token=gho_a%2Bb&scope=repo%20user&token_type=bearer\n",
                r#"{"access_token":"gho_a+b","scope":"repo user","token_type":"bearer"}"#,
            ),
            (
                b"error=bad_code&error_description=a+%22b%22",
                r#"{"error":"bad_code","error_description":"a \"b\""}"#,
            ),
            (b"\xef\xbb\xbfaccess_token=a", r#"{"access_token":"a"}"#),
            (b"device_code=a&interval=5", r#"{"device_code":"a","interval":"5"}"#),
            // Encoded twice.
            (br#" "{\"access_token\":\"a\"}" "#, r#"{"access_token":"a"}"#),
            (br#""access_token=a&scope=b""#, r#"{"access_token":"a","scope":"b"}"#),
            (br#""\"{\\\"access_token\\\":\\\"a\\\"}\"""#, r#"{"access_token":"a"}"#),
            (br#""a\"b""#, "a\"b"),
            // Nearly JSON.
            (
                b"<br />Warning: x\n{\"access_token\":\"a\",\"refresh_token\":\"r\",}",
                r#"{"access_token":"a","refresh_token":"r"}"#,
            ),
            (
                b"{\"note\":\"a\tb\",\"access_token\" : \"a\\u002db\",\"expires_in\":3600}",
                r#"{"access_token":"a\u002db","expires_in":3600}"#,
            ),
            (
                br#"{"x":NaN,"access_token":"a","scope":"say \"hi\""}"#,
                r#"{"access_token":"a","scope":"say \"hi\""}"#,
            ),
            (br#"[{"access_token":"a"}]"#, r#"{"access_token":"a"}"#),
            (
                br#")]}'{"error":"invalid_grant","x":"\"access_token\":\"no\""}"#,
                r#"{"error":"invalid_grant"}"#,
            ),
            (
                br#"{"access_token":"a","x":NaN,"access_token":"b"}"#,
                r#"{"access_token":"a","access_token":"b"}"#,
            ),
            (
                b"\xff\xfe{\0\"\0a\0c\0c\0e\0s\0s\0_\0t\0o\0k\0e\0n\0\"\0:\0\"\0a\0\"\0}\0",
                r#"{"access_token":"a"}"#,
            ),
            // These are left to the reader, who refuses them.
            (br#"{"access_token":"a"#, r#"{"access_token":"a"#),
            (br#"<html>{"access_token":"a"}</html>"#, r#"<html>{"access_token":"a"}</html>"#),
            (b"<html>access_token=a</html>", "<html>access_token=a</html>"),
            (b"a=b", "a=b"),
            (b"", ""),
        ] {
            assert_eq!(read(body), expected);
        }
    }

    #[test]
    fn the_beginning_of_an_answer_is_not_read_if_a_token_may_be_missing() {
        for beginning in [
            &b"access_token=canary-a&refresh_token=cana"[..],
            br#"{"access_token":"canary-a""#,
            br#"{"access_token":"canary-a","refresh_token":"cana"#,
        ] {
            assert_eq!(*readable(Zeroizing::new(beginning.to_vec()), false), beginning);
        }
        for (beginning, expected) in [
            (
                &br#"{"access_token":"a","refresh_token":"r","scope":"#[..],
                &br#"{"access_token":"a","refresh_token":"r"}"#[..],
            ),
            (br#"{"refresh_token":"r","access_token":"cana"#, br#"{"refresh_token":"r"}"#),
            (b"refresh_token=r&access_token=cana", br#"{"refresh_token":"r"}"#),
        ] {
            assert_eq!(*readable(Zeroizing::new(beginning.to_vec()), false), expected);
        }
    }
}
