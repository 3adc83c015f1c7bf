//! Encodes and decodes records. This is the only place that names the JSON keys.
//!
//! `access_token`, `refresh_token` and `expires_at` are the fields of the files that axiomtrade-rs writes.
//! Such a file has no `version`, and can be loaded unchanged. A program that knows only these three fields
//! can read the records that are written here.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::refresh_state::shown;
use super::{MAX_RECORD, MAX_STORED, Record, RefreshState, Rejection, Throttle};
use crate::error::StoreError;
use crate::sys::wipe::Bytes;
use crate::tokens::foreign::{self, Stated};
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
    match foreign::check_bare_token(token) {
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

/// Returns the error for something that this crate did not write. `reason` says what it is, or which of its fields
/// (`its …`) cannot be taken over.
fn not_ours(text: &[u8], place: &str, reason: &str) -> StoreError {
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
fn program_of(text: &[u8]) -> Option<(&'static str, &'static str)> {
    use crate::import::{Format, recognize};

    // Many programs keep the answer of a provider as it is.
    let format = recognize(text).filter(|format| *format != Format::TokenResponse)?;
    Some((format.name(), format.program()))
}

#[cfg(not(feature = "import"))]
fn program_of(_: &[u8]) -> Option<(&'static str, &'static str)> {
    None
}

/// Returns the error for what is not a JSON object: another program's, if it has a structure that no record of this
/// crate has, however damaged it is.
fn not_an_object(bytes: &[u8], place: &str, reason: String) -> StoreError {
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
    let is_word = text.len() >= LONG_WORD && foreign::check_bare_token(text).is_ok();
    is_printable && (is_json || is_setting || is_word || text.lines().nth(1).is_some())
}

/// Returns the error for bytes that something else than this crate wrote.
pub(crate) fn foreign(bytes: &[u8], place: &str) -> Option<StoreError> {
    decode(bytes, place).err().filter(|error| matches!(error, StoreError::NotARecord { .. }))
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
    let is_ours = foreign::is_ours(&fields);
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
        foreign::checked_token(token).map(Some).map_err(wrong)
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
    let mut stated = Stated::default();
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
        stated = foreign::stated(&fields, now, claimed).map_err(corrupt)?;
        tokens.expires_at = stated.expires_at;
        tokens.obtained_at = stated.obtained_at;
        tokens.refresh_expires_at = stated.refresh_expires_at;
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
    if !is_ours && !stated.fields.iter().any(|(name, _)| name == "obtained_at") {
        others.push("obtained_at");
    }
    let is_taken = |name: &str| {
        known.contains(&name) && !others.contains(&name)
            || camel_case && name == "clientSecret"
            || stated.fields.iter().any(|(stated, _)| stated == name)
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

fn write(tokens: &AuthTokens, refresh: &RefreshState, to: impl io::Write) {
    Json { tokens, refresh }
        .serialize(&mut serde_json::Serializer::pretty(to))
        .expect("the names are strings, and neither sink fails");
}

struct Json<'a> {
    tokens: &'a AuthTokens,
    refresh: &'a RefreshState,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { tokens, refresh } = self;
        #[expect(clippy::disallowed_methods, reason = "this is where records are written")]
        let (access, refresh_token, client_secret) = (
            tokens.access_token.expose_secret(),
            // The reader of axiomtrade-rs accepts no null here.
            tokens.refresh_token.as_ref().map_or("", RefreshToken::expose_secret),
            tokens.client_secret().map(ExposeSecret::expose_secret),
        );
        let is_plain = refresh.is_empty() && tokens.has_access_token();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("access_token", access)?;
        map.serialize_entry("refresh_token", refresh_token)?;
        map.serialize_entry("expires_at", &tokens.expires_at.map(rfc3339))?;
        map.serialize_entry("version", &if is_plain { PLAIN } else { WITH_STATE })?;
        if let Some(obtained_at) = tokens.obtained_at {
            map.serialize_entry("obtained_at", &rfc3339(obtained_at))?;
        }
        if let Some(expires) = tokens.refresh_expires_at {
            map.serialize_entry("refresh_expires_at", &rfc3339(expires))?;
        }
        if let Some(obtained_at) = tokens.refresh_obtained_at {
            map.serialize_entry("refresh_obtained_at", &rfc3339(obtained_at))?;
        }
        if tokens.is_backup() {
            map.serialize_entry("backup", &true)?;
        }
        if let Some(secret) = client_secret {
            map.serialize_entry("client_secret", secret)?;
        }
        if tokens.typed_extras().len() > 0 {
            map.serialize_entry("extra", &Extra(tokens))?;
        }
        if !refresh.is_empty() {
            map.serialize_entry("refresh", &State(refresh))?;
        }
        map.end()
    }
}

struct Extra<'a>(&'a AuthTokens);

impl Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extras = self.0.typed_extras();
        let mut map = serializer.serialize_map(Some(extras.len()))?;
        for (name, value, is_json) in extras {
            #[expect(clippy::disallowed_methods, reason = "this is where records are written")]
            let text = value.expose_secret();
            // The value is borrowed, so nothing is copied.
            match serde_json::from_str::<&RawValue>(text) {
                Ok(json) if is_json => map.serialize_entry(name, json)?,
                _ => map.serialize_entry(name, text)?,
            }
        }
        map.end()
    }
}

struct State<'a>(&'a RefreshState);

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(intent) = &self.0.intent {
            map.serialize_entry("intent", &intent.to_string())?;
        }
        if let Some(throttle) = &self.0.throttle {
            let mut fields = BTreeMap::from([
                ("client", throttle.client.clone()),
                ("from", rfc3339(throttle.from)),
                ("until", rfc3339(throttle.until)),
            ]);
            fields.extend(throttle.reason.clone().map(|reason| ("reason", reason)));
            map.serialize_entry("throttle", &fields)?;
        }
        if let Some(rejection) = &self.0.rejection {
            let fields = BTreeMap::from([
                ("at", rfc3339(rejection.at)),
                ("of", rejection.of.to_string()),
                ("reason", rejection.reason.clone()),
            ]);
            map.serialize_entry("rejection", &fields)?;
        }
        map.end()
    }
}

/// Returns the length of a record with these tokens.
pub(super) fn length(tokens: &AuthTokens) -> usize {
    let mut length = Length(0);
    write(tokens, &RefreshState::default(), &mut length);
    length.0
}

/// Returns how much longer a record is with this other field.
pub(super) fn length_of_extra(name: &str, value: &SecretString, is_json: bool) -> usize {
    let text = |text: &str| {
        let mut length = Length(0);
        serde_json::to_writer(&mut length, text).expect("a string can be counted");
        length.0
    };
    #[expect(clippy::disallowed_methods, reason = "looks at the length only")]
    let value = value.expose_secret();
    let value = if is_json { value.len() } else { text(value) };
    // A comma, a line end, an indentation, and a colon with a space.
    text(name) + value + ",\n    : ".len()
}

/// Counts the bytes that are written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rfc3339(date: DateTime<Utc>) -> String {
    date.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[expect(clippy::disallowed_methods, reason = "looks at the length only")]
fn is_blank(text: &SecretString) -> bool {
    text.expose_secret().is_empty()
}
