//! What others wrote into the place of a record: it is called what it is, and not damaged.

#[cfg(test)]
mod tests;

use serde::de::IgnoredAny;

use super::decode;
use crate::error::StoreError;
use crate::tokens::foreign;
use crate::tokens::form::check_bare_token;

/// Returns the error for something that this crate did not write. `reason` says what it is, or which of its fields
/// (`its …`) cannot be taken over.
pub(super) fn not_ours(text: &[u8], place: &str, reason: &str) -> StoreError {
    let mut reason = reason.to_owned();
    let mut advice = String::from("find out which program it belongs to");
    if reason.ends_with(foreign::UNDATED) {
        advice = "say when it was obtained: `tokenkeep migrate --from import:auto:PATH --obtained-at TIME`".into();
    }
    if let Some((name, program)) = program_of(text) {
        let is = format!("it is a file of {program}");
        reason = if reason.starts_with("its ") { format!("{is}, and {reason}") } else { is };
        advice = format!("import it with `tokenkeep migrate --from import:{name}:PATH`");
    }
    let advice = format!("nothing here changes it; {advice}");
    StoreError::NotARecord { place: place.to_owned(), reason, advice }
}

/// Returns the name of the form in which a program keeps its tokens, and the program, if it can be told.
#[cfg(feature = "import")]
pub(super) fn program_of(text: &[u8]) -> Option<(&'static str, &'static str)> {
    use crate::import::{Format, recognize};

    // Many programs keep the answer of a provider as it is.
    let format = recognize(text).filter(|format| *format != Format::TokenResponse)?;
    Some((format.name(), format.program()))
}

#[cfg(not(feature = "import"))]
pub(super) fn program_of(_: &[u8]) -> Option<(&'static str, &'static str)> {
    None
}

/// Returns the error for what is not a JSON object: another program's, if it has a structure that no record of this
/// crate has, however damaged it is.
pub(super) fn not_an_object(bytes: &[u8], place: &str, reason: String) -> StoreError {
    if looks_foreign(bytes) || program_of(bytes).is_some() {
        return not_ours(bytes, place, &reason);
    }
    StoreError::Corrupt { place: place.to_owned(), reason }
}

/// What files begin with that other programs keep credentials in: markup, PEM, databases, property lists, archives,
/// and what Python pickles.
const MAGIC: [&[u8]; 10] = [
    b"<",
    b"-----BEGIN ",
    b"SQLite format 3\0",
    b"bplist00",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
];

/// A text of this length, without blanks, is more likely a token than the rest of a record.
const LONG_WORD: usize = 20;

fn looks_foreign(bytes: &[u8]) -> bool {
    /// What a record begins with, but for blanks.
    const BEGINNING: &[u8] = b"{\"access_token\"";

    if MAGIC.iter().any(|magic| bytes.starts_with(magic)) {
        return true;
    }
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let text = text.trim();
    if text.starts_with('{') {
        let mut begins = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
        return !BEGINNING.iter().all(|own| begins.next().is_none_or(|byte| byte == own));
    }
    let is_printable = text.chars().all(|it| !it.is_control() || it.is_ascii_whitespace());
    let is_json = text.starts_with(['[', '"']) && serde_json::from_str::<IgnoredAny>(text).is_ok();
    let is_setting = text.find(['=', ':']).is_some_and(|at| {
        let name = text[..at].trim_end();
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    });
    let is_word = text.len() >= LONG_WORD && check_bare_token(text).is_ok();
    is_printable && (is_json || is_setting || is_word || text.lines().nth(1).is_some())
}

/// Returns the error for bytes that something else than this crate wrote.
pub(crate) fn foreign(bytes: &[u8], place: &str) -> Option<StoreError> {
    decode(bytes, place).err().filter(|error| matches!(error, StoreError::NotARecord { .. }))
}
