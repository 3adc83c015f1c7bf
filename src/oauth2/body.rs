//! The bodies of answers that tokens can be read from, although they are not as RFC 6749 says.
//!
//! The answer to a refresh is the only copy of the new token. So a byte order mark, a byte that is not UTF-8 in
//! some other field, a form where JSON is expected, or compression that nobody asked for must not lose it.

mod compressed;

use oauth2::url::form_urlencoded;
use zeroize::Zeroizing;

pub(super) use self::compressed::{TooLong, decompressed};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the body as JSON in UTF-8. What cannot be read stays as it is.
///
/// If the body is not whole, it is not read as a form: the end of a form cannot be seen, so its last token may
/// be only the beginning of one.
pub(super) fn readable(body: Zeroizing<Vec<u8>>, is_whole: bool) -> Zeroizing<Vec<u8>> {
    let body = match body.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => Zeroizing::new(rest.to_vec()),
        None => body,
    };
    let body = if str::from_utf8(&body).is_ok() { body } else { from_latin_1(&body) };
    if !is_whole || body.trim_ascii_start().starts_with(b"{") {
        return body;
    }
    from_form(&body).unwrap_or(body)
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
    let fields: Vec<_> = form_urlencoded::parse(body.trim_ascii())
        .map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned())))
        .collect();
    let counts = |name: &str| matches!(name, "access_token" | "device_code" | "error");
    if !fields.iter().any(|(name, _)| counts(name)) {
        return None;
    }
    // JSON escapes a byte by 6 at most.
    let mut json = Zeroizing::new(Vec::with_capacity(6 * body.len() + 6 * fields.len() + 2));
    json.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut *json, name).ok()?;
        json.push(b':');
        serde_json::to_writer(&mut *json, value.as_str()).ok()?;
    }
    json.push(b'}');
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
            // These are left to the reader, who refuses them.
            (b"<html>access_token=a</html>", "<html>access_token=a</html>"),
            (b"a=b", "a=b"),
            (b"", ""),
        ] {
            assert_eq!(read(body), expected);
        }
    }

    #[test]
    fn the_beginning_of_a_form_is_not_read() {
        let form = b"access_token=canary-a&refresh_token=cana";
        assert_eq!(*readable(Zeroizing::new(form.to_vec()), false), form);
    }
}
