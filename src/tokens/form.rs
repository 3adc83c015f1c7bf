//! What a token looks like, and what is none.

use secrecy::{ExposeSecret, SecretString};

/// Returns a token of another program without the spaces around it, or an empty text if there is none.
///
/// # Errors
///
/// Why it cannot be a token. It quotes nothing.
pub(crate) fn checked_token(token: SecretString) -> Result<SecretString, &'static str> {
    #[expect(
        clippy::disallowed_methods,
        reason = "looks at its form, and copies it without spaces"
    )]
    let text = token.expose_secret();
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok(SecretString::default());
    }
    check_token(trimmed)?;
    let is_whole = trimmed.len() == text.len();
    Ok(if is_whole { token } else { SecretString::from(Box::<str>::from(trimmed)) })
}

/// Fails if a text cannot be a token: a program would send it, and be refused.
///
/// # Errors
///
/// What it looks like. It quotes nothing.
#[expect(clippy::manual_contains, reason = "`contains` reads many bytes at once: see below")]
fn check_token(text: &str) -> Result<(), &'static str> {
    // A search in the standard library reads many bytes at once, and leaves them in registers and on the stack. So each
    // byte is looked at alone.
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return Err("is empty") };
    let has = |wanted: u8| bytes.iter().any(|byte| *byte == wanted);
    if has(b' ') && bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err("contains a space; leave out `Bearer` and give the token only");
    }
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err("contains characters that no token has");
    }
    let is_quote = |byte: u8| matches!(byte, b'\'' | b'`');
    if has(b'"') || is_quote(first) || is_quote(last) || begins(bytes, b"b'") {
        return Err("is in quotes; leave them out");
    }
    match first {
        b'<' => return Err("is markup, such as the page of an error"),
        b'{' | b'[' => return Err("is JSON; give the token only"),
        _ => {}
    }
    if begins(bytes, b"bearer:") || begins(bytes, b"bearer%") {
        return Err("begins with `Bearer`; leave that out");
    }
    if begins(bytes, b"${") || begins(bytes, b"$(") {
        return Err("is a variable that no shell filled in");
    }
    if begins(bytes, b"go-keyring-") {
        return Err(
            "is encoded by the go-keyring package; import it as import:auto:keychain-item:SERVICE/ACCOUNT",
        );
    }
    let words: [&[u8]; 8] =
        [b"null", b"(null)", b"true", b"false", b"undefined", b"none", b"nil", b"~"];
    if words.iter().any(|word| word.len() == bytes.len() && begins(bytes, word)) {
        return Err("is a word that stands for no token");
    }
    let is_in = |name: &[u8]| (0..bytes.len()).any(|at| begins(&bytes[at..], name));
    if has(b'=') && (is_in(b"access_token=") || is_in(b"refresh_token=")) {
        return Err("is a form or a URL; give the token only");
    }
    Ok(())
}

/// Returns whether a text begins with this one, which is in lower case. The case does not matter.
fn begins(text: &[u8], start: &[u8]) -> bool {
    let pairs = text.iter().zip(start);
    text.len() >= start.len()
        && pairs.into_iter().all(|(one, other)| one.to_ascii_lowercase() == *other)
}

/// Fails if a text that stands alone is something else than a token.
///
/// # Errors
///
/// What it looks like. It quotes nothing.
pub(crate) fn check_bare_token(text: &str) -> Result<(), &'static str> {
    check_token(text)?;
    let bytes = text.as_bytes();
    let place = |wanted: u8| bytes.iter().position(|byte| *byte == wanted);
    // RFC 6750, 2.1: in a bearer token, `=` stands only at the end.
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if let Some(at @ 1..) = place(b'=')
        && bytes[..at].iter().all(is_part)
        && bytes[at..].iter().any(|byte| *byte != b'=')
    {
        return Err("is NAME=VALUE; give the value only");
    }
    if let Some(at) = place(b':') {
        if begins(&bytes[at..], b"://") {
            return Err("is a URL; give the token only");
        }
        let labels: [&[u8]; 3] = [b"token:", b"access_token:", b"refresh_token:"];
        if labels.iter().any(|label| begins(bytes, label)) {
            return Err("is NAME:VALUE; give the value only");
        }
    }
    Ok(())
}
