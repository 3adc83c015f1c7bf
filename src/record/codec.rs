//! Encodes and decodes records. This is the only place that names the JSON keys.
//!
//! `access_token`, `refresh_token` and `expires_at` are the fields of the files that axiomtrade-rs writes.
//! Such a file has no `version`, and can be loaded unchanged. A program that knows only these three fields
//! can read the records that are written here.

mod others;
#[cfg(test)]
mod tests;
mod write;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

pub(crate) use self::others::foreign;
use self::others::{not_an_object, not_ours, program_of};
use self::write::{Length, State, write};
pub(super) use self::write::{length, length_of_extra};
use super::refresh_state::shown;
use super::{MAX_RECORD, MAX_STORED, Record, RefreshState, Rejection, Throttle};
use crate::error::StoreError;
use crate::sys::wipe::Bytes;
use crate::tokens::foreign::{Stated, is_ours, stated};
use crate::tokens::form::{check_bare_token, checked_token};
use crate::tokens::json;
use crate::tokens::text::{json_of_form, utf8};
use crate::tokens::{AccessToken, AuthTokens, RefreshToken};

/// The version of a record that every build of this crate understands.
const PLAIN: u64 = 1;

/// The version of a record that an older build must not use: an older build does not understand an intent, or
/// a record without an access token.
const WITH_STATE: u64 = 2;

/// The beginning of an age identity, which is no token.
const AGE_KEY: &[u8] = b"AGE-SECRET-KEY-";

/// Records as text, for stores outside this crate.
impl Record {
    /// Encodes this record as the JSON that every store of this crate keeps.
    ///
    /// `place` names the store in errors.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLarge`] for tokens above [`MAX_RECORD`], [`StoreError::InvalidTokens`] if there
    /// is neither an access token nor a refresh token.
    ///
    /// # Security
    ///
    /// The text holds every secret of these tokens.
    pub fn encode(&self, place: &str) -> Result<SecretString, StoreError> {
        let mut bytes = encode(self, place)?;
        // The buffer has the exact size, so nothing is copied.
        let text = String::from_utf8(std::mem::take(&mut *bytes)).expect("JSON is UTF-8");
        Ok(SecretString::from(text.into_boxed_str()))
    }

    /// Decodes what [`encode`](Self::encode) encoded, or what axiomtrade-rs wrote.
    ///
    /// `place` names the store in errors.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`], [`StoreError::NewerVersion`] or [`StoreError::TooLarge`]. None of
    /// them repeats any of the record.
    ///
    /// # Security
    ///
    /// The caller's bytes are the caller's to wipe.
    pub fn decode(record: &[u8], place: &str) -> Result<Self, StoreError> {
        decode(record, place)
    }
}

/// Tokens as text.
impl AuthTokens {
    /// Encodes these tokens as the JSON that every store of this crate keeps.
    ///
    /// `place` names the store in errors.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLarge`] above [`MAX_RECORD`], [`StoreError::InvalidTokens`] for an empty
    /// access token.
    ///
    /// # Security
    ///
    /// The text holds every secret of these tokens.
    pub fn to_record(&self, place: &str) -> Result<SecretString, StoreError> {
        Record::new(self.clone()).encode(place)
    }

    /// Decodes what [`to_record`](Self::to_record) encoded, or what axiomtrade-rs wrote.
    ///
    /// `place` names the store in errors.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`], [`StoreError::NewerVersion`] or [`StoreError::TooLarge`]. None of
    /// them repeats any of the record.
    ///
    /// # Security
    ///
    /// The caller's bytes are the caller's to wipe.
    pub fn from_record(record: &[u8], place: &str) -> Result<Self, StoreError> {
        decode(record, place).map(|record| record.tokens)
    }

    /// Decodes a record, the JSON or the form of another program, or a bare access token. Spaces around it are
    /// dropped. It may be UTF-8 or UTF-16.
    ///
    /// `place` names where it comes from in errors.
    ///
    /// # Errors
    ///
    /// Those of [`from_record`](Self::from_record). [`StoreError::NotARecord`] for a text that is no token.
    ///
    /// # Security
    ///
    /// The caller's bytes are the caller's to wipe.
    pub fn from_text(text: &[u8], place: &str) -> Result<Self, StoreError> {
        decode_text(text, place)
    }

    /// Decodes the answer of a token endpoint (RFC 6749, 5.1) that was received at `now`: JSON, or the form that
    /// GitHub sends by default. `expires_in` counts from `now`. A record of this crate is decoded as it is.
    ///
    /// # Errors
    ///
    /// Those of [`from_record`](Self::from_record), with "the answer" as the place.
    ///
    /// # Security
    ///
    /// The caller's bytes are the caller's to wipe.
    pub fn from_token_response(answer: &[u8], now: DateTime<Utc>) -> Result<Self, StoreError> {
        decode_answer(answer, now, "the answer")
    }
}

/// Encodes a record into a buffer of the exact size. A buffer that grows would leave copies behind.
pub(crate) fn encode(record: &Record, place: &str) -> Result<Bytes, StoreError> {
    let tokens = &record.tokens;
    if !tokens.has_access_token() && tokens.refresh_token.is_none() {
        return Err(StoreError::InvalidTokens {
            place: place.to_owned(),
            reason: "the access token is empty".into(),
        });
    }
    // The refresh state has a limit of its own, so an intent fits even with the largest tokens.
    let mut length = Length(length(tokens));
    if length.0 > MAX_RECORD {
        return Err(StoreError::TooLarge { place: place.to_owned(), limit: MAX_RECORD });
    }
    if !record.refresh.is_empty() {
        length = Length(0);
        write(tokens, &record.refresh, &mut length);
        if length.0 > MAX_STORED {
            return Err(StoreError::TooLarge { place: place.to_owned(), limit: MAX_STORED });
        }
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    write(tokens, &record.refresh, &mut *bytes);
    Ok(bytes)
}

/// Decodes a record, a form or a bare access token. No error quotes any of it.
pub(crate) fn decode_text(text: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
    let text = utf8(text);
    let text = text.trim_ascii();
    if text.len() > MAX_RECORD {
        return Err(StoreError::TooLarge { place: place.to_owned(), limit: MAX_RECORD });
    }
    if text.first() == Some(&b'{') {
        return decode(text, place).map(|record| record.tokens);
    }
    if text.is_empty() {
        return Err(StoreError::Corrupt { place: place.to_owned(), reason: "it is empty".into() });
    }
    if let Some(json) = form(text) {
        return decode(&json, place).map(|record| record.tokens);
    }
    let is_no_token = |reason: &str| Err(not_ours(text, place, reason));
    if text.get(..AGE_KEY.len()).is_some_and(|start| start.eq_ignore_ascii_case(AGE_KEY)) {
        return is_no_token("it is an age identity, not a token");
    }
    // `jq` without `-r` prints a token like this.
    if matches!(text.first(), Some(b'"' | b'[')) {
        return is_no_token("it is JSON, but not an object; give the token only (`jq -r`)");
    }
    let Ok(token) = str::from_utf8(text) else { return is_no_token("it is not text") };
    match check_bare_token(token) {
        Ok(()) => Ok(AuthTokens::new(token)),
        Err(reason) => is_no_token(&format!("it {reason}")),
    }
}

/// Decodes an answer that was received at `now`. No error quotes any of it.
fn decode_answer(answer: &[u8], now: DateTime<Utc>, place: &str) -> Result<AuthTokens, StoreError> {
    let text = utf8(answer);
    let text = text.trim_ascii();
    let json = if text.first() == Some(&b'{') { None } else { form(text) };
    let json = json.as_deref().map_or(text, Vec::as_slice);
    let mut tokens = decode_from(json, place, Some(now))?.tokens;
    tokens.obtained_at = tokens.obtained_at.or(Some(now));
    Ok(tokens)
}

/// Reads the form of an answer.
fn form(text: &[u8]) -> Option<Bytes> {
    if !text.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    json_of_form(text, |name| matches!(name, "access_token" | "refresh_token"))
}

/// Decodes a record. No error quotes any of it.
pub(crate) fn decode(bytes: &[u8], place: &str) -> Result<Record, StoreError> {
    decode_from(bytes, place, None)
}

/// Decodes a record. `now` is when it was received, if it is the answer of a provider.
fn decode_from(
    bytes: &[u8],
    place: &str,
    now: Option<DateTime<Utc>>,
) -> Result<Record, StoreError> {
    let too_large = || StoreError::TooLarge { place: place.to_owned(), limit: MAX_RECORD };
    if bytes.len() > MAX_STORED {
        return Err(too_large());
    }
    let bytes = &*utf8(bytes);
    let fields = json::object(bytes).map_err(|reason| not_an_object(bytes, place, reason))?;
    let field =
        |name: &str| fields.iter().find(|(field, _)| field == name).map(|&(_, value)| value);
    let is_ours = is_ours(&fields);
    let corrupt = |reason: String| {
        if is_ours {
            StoreError::Corrupt { place: place.to_owned(), reason }
        } else {
            not_ours(bytes, place, &reason)
        }
    };

    // The version is read first, because the other fields may have another meaning in a newer version.
    let version = match field("version").map(|version| version.get().parse()) {
        None => PLAIN,
        Some(Ok(version)) => version,
        // A program may have a field of this name, and another content.
        Some(Err(_)) if !is_ours && field("access_token").is_some() => PLAIN,
        Some(Err(_)) => return Err(corrupt("its version is not a number".into())),
    };
    if version > WITH_STATE {
        let has_a_field = ["access_token", "expires_at", "refresh_token"]
            .iter()
            .any(|name| field(name).is_some());
        if !is_ours && (!has_a_field || program_of(bytes).is_some()) {
            return Err(corrupt("it has no access_token".into()));
        }
        let (found, known) = (version, WITH_STATE);
        return Err(StoreError::NewerVersion { place: place.to_owned(), found, known });
    }
    let has_state = version == WITH_STATE;
    if !has_state && bytes.len() > MAX_RECORD {
        return Err(too_large());
    }

    let text = |name: &str| match field(name) {
        None => Ok(None),
        Some(value) if value.get() == "null" => Ok(None),
        Some(value) => match json::secret(value) {
            Some(text) => Ok(Some(text)),
            None => Err(corrupt(format!("its {name} is not a string"))),
        },
    };
    let time = |name: &str| match text(name)? {
        None => Ok(None),
        Some(text) => {
            #[expect(clippy::disallowed_methods, reason = "a date is no secret")]
            let date = text.expose_secret().parse::<DateTime<Utc>>();
            date.map(Some).map_err(|_| corrupt(format!("its {name} is not an RFC 3339 date")))
        }
    };
    let token = |name: &str| {
        let Some(token) = text(name)? else { return Ok(None) };
        if is_ours {
            return Ok(Some(token));
        }
        let wrong = |reason| corrupt(format!("its {name} {reason}"));
        checked_token(token).map(Some).map_err(wrong)
    };

    // If there is no refresh token, "" is written.
    let refresh_token = token("refresh_token")?.filter(|token| !is_blank(token));
    let access_token = match token("access_token")? {
        None if refresh_token.is_some() && !is_ours => SecretString::default(),
        None => return Err(corrupt("it has no access_token".into())),
        Some(token) => token,
    };
    let mut tokens = AuthTokens::new(AccessToken::from(access_token));
    tokens.refresh_token = refresh_token.map(RefreshToken::from);
    let may_be_missing = (has_state || !is_ours) && tokens.refresh_token.is_some();
    if !tokens.has_access_token() && !may_be_missing {
        return Err(corrupt("its access_token is empty".into()));
    }
    let mut others =
        ["client_secret", "refresh_expires_at", "refresh_obtained_at", "refresh"].to_vec();
    let mut times = Stated::default();
    if is_ours {
        tokens.expires_at = time("expires_at")?;
        tokens.obtained_at = time("obtained_at")?;
        tokens.refresh_expires_at = field("refresh_expires_at").and_then(date);
        tokens.refresh_obtained_at = field("refresh_obtained_at").and_then(date);
        if tokens.refresh_obtained_at.is_some() {
            others.retain(|name| *name != "refresh_obtained_at");
        }
        if tokens.refresh_expires_at.is_some() {
            others.retain(|name| *name != "refresh_expires_at");
        }
    } else {
        let claimed = tokens.has_access_token() && tokens.expiry().is_some();
        times = stated(&fields, now, claimed).map_err(corrupt)?;
        tokens.expires_at = times.expires_at;
        tokens.obtained_at = times.obtained_at;
        tokens.refresh_expires_at = times.refresh_expires_at;
    }

    let backup = field("backup").map_or("false", RawValue::get);
    tokens = match backup {
        "true" => tokens.with_backup(true),
        "false" => tokens,
        _ => return Err(corrupt("its backup is neither true nor false".into())),
    };

    // Records of other programs may have fields with these names, and another content.
    if let Some(secret) = field("client_secret").and_then(json::secret) {
        tokens = tokens.with_client_secret(secret);
        others.retain(|name| *name != "client_secret");
    }
    let mut camel_case = false;
    if let (false, None, Some(secret)) =
        (is_ours, tokens.client_secret(), field("clientSecret").and_then(json::secret))
    {
        tokens = tokens.with_client_secret(secret);
        camel_case = true;
    }
    if !is_ours && field("version").is_some_and(|it| it.get().parse::<u64>().is_err()) {
        others.push("version");
    }
    let mut refresh = RefreshState::default();
    if has_state {
        refresh = field("refresh").map(state).unwrap_or_default();
        others.retain(|name| *name != "refresh");
    }

    let known = [
        "access_token",
        "backup",
        "client_secret",
        "expires_at",
        "extra",
        "obtained_at",
        "refresh",
        "refresh_expires_at",
        "refresh_obtained_at",
        "refresh_token",
        "version",
    ];
    let nested = match field("extra") {
        None => Vec::new(),
        Some(extra) => json::object(extra.get().as_bytes())
            .map_err(|reason| corrupt(format!("in its extra: {reason}")))?,
    };
    // Unknown fields of another program are kept too.
    if !is_ours && !times.fields.iter().any(|(name, _)| name == "obtained_at") {
        others.push("obtained_at");
    }
    let is_taken = |name: &str| {
        known.contains(&name) && !others.contains(&name)
            || camel_case && name == "clientSecret"
            || times.fields.iter().any(|(field, _)| field == name)
    };
    let beside = fields.iter().filter(|(name, _)| !is_taken(name));
    for (name, value) in beside.chain(&nested) {
        if tokens.extra(name).is_some() {
            return Err(corrupt("it has the same field twice, in extra and beside it".into()));
        }
        tokens = match json::secret(value) {
            Some(text) => tokens.with_extra(name.as_ref(), text),
            None => {
                let json = SecretString::from(Box::<str>::from(value.get()));
                tokens.with_json_extra(name.as_ref(), json)
            }
        };
    }
    Ok(Record::new(tokens).with_refresh(refresh))
}

/// Reads the refresh state. A part that cannot be read is left out, so that it keeps no program from
/// refreshing.
fn state(json: &RawValue) -> RefreshState {
    let fields = json::object(json.get().as_bytes()).unwrap_or_default();
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|&(_, it)| it);
    RefreshState {
        intent: field("intent").and_then(plain_text).and_then(|text| text.parse().ok()),
        throttle: field("throttle").and_then(throttle),
        rejection: field("rejection").and_then(rejection),
    }
}

/// Encodes a refresh state alone, for a slot without a record.
pub(crate) fn encode_state(refresh: &RefreshState) -> Vec<u8> {
    serde_json::to_vec(&State(refresh)).expect("the names are strings, and the values too")
}

/// Decodes a refresh state alone. What cannot be read is left out.
pub(crate) fn decode_state(bytes: &[u8]) -> RefreshState {
    serde_json::from_slice(bytes).map(state).unwrap_or_default()
}

/// The longest digest that is read. SHA-256 in base64 has 43 characters. A longer text was not written by
/// this crate, and would take the room of the intent.
const LONGEST_DIGEST: usize = 64;

fn throttle(json: &RawValue) -> Option<Throttle> {
    let fields = json::object(json.get().as_bytes()).ok()?;
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|&(_, it)| it);
    Some(Throttle {
        from: field("from").and_then(date)?,
        until: field("until").and_then(date)?,
        client: field("client").and_then(plain_text).filter(|it| it.len() <= LONGEST_DIGEST)?,
        reason: field("reason").and_then(plain_text).map(|reason| shown(&reason)),
    })
}

fn rejection(json: &RawValue) -> Option<Rejection> {
    let fields = json::object(json.get().as_bytes()).ok()?;
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|&(_, it)| it);
    Some(Rejection {
        at: field("at").and_then(date)?,
        of: field("of").and_then(plain_text)?.parse().ok()?,
        reason: shown(&field("reason").and_then(plain_text)?),
    })
}

/// Reads a string that is not a secret.
fn plain_text(json: &RawValue) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "of fields that hold no secrets")]
    json::secret(json).map(|text| text.expose_secret().to_owned())
}

fn date(json: &RawValue) -> Option<DateTime<Utc>> {
    plain_text(json)?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "looks at the length only")]
fn is_blank(text: &SecretString) -> bool {
    text.expose_secret().is_empty()
}
