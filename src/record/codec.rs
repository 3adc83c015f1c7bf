//! Encodes and decodes records. This is the only place that names the JSON keys.
//!
//! `access_token`, `refresh_token` and `expires_at` are the fields of the files that axiomtrade-rs writes.
//! Such a file has no `version`, and can be loaded unchanged. A program that knows only these three fields
//! can read the records that are written here.

use std::collections::BTreeMap;
use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::refresh_state::shown;
use super::{MAX_RECORD, MAX_STORED, Record, RefreshState, Rejection, Throttle};
use crate::error::StoreError;
use crate::sys::wipe::Bytes;
use crate::tokens::json;
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

    /// Decodes a record or a bare access token. Spaces around it are dropped.
    ///
    /// `place` names where it comes from in errors.
    ///
    /// # Errors
    ///
    /// Those of [`from_record`](Self::from_record).
    ///
    /// # Security
    ///
    /// The caller's bytes are the caller's to wipe.
    pub fn from_text(text: &[u8], place: &str) -> Result<Self, StoreError> {
        decode_text(text, place)
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
    let mut length = Length(0);
    write(tokens, &RefreshState::default(), &mut length);
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

/// Decodes a record or a bare access token. No error quotes any of it.
pub(crate) fn decode_text(text: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
    let text = text.trim_ascii();
    if text.first() == Some(&b'{') || text.len() > MAX_RECORD {
        return decode(text, place).map(|record| record.tokens);
    }
    if text.get(..AGE_KEY.len()).is_some_and(|start| start.eq_ignore_ascii_case(AGE_KEY)) {
        let reason = "it is an age identity, not a token".to_owned();
        return Err(StoreError::Corrupt { place: place.to_owned(), reason });
    }
    let corrupt = |reason: &str| {
        Err(StoreError::Corrupt { place: place.to_owned(), reason: reason.to_owned() })
    };
    // `jq` without `-r` prints a token like this, or `null` if there is none.
    if matches!(text.first(), Some(b'"' | b'['))
        || [&b"null"[..], b"true", b"false"].contains(&text)
    {
        return corrupt(
            "it is JSON, but not the object of a record; give the token only (`jq -r`)",
        );
    }
    if text.contains(&b' ') {
        return corrupt("it contains a space; leave out `Bearer` and give the token only");
    }
    let is_token = !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(text) {
        Ok(token) if is_token => Ok(AuthTokens::new(token)),
        _ => corrupt("it is neither the JSON of a record nor a bare access token"),
    }
}

/// Decodes a record. No error quotes any of it.
pub(crate) fn decode(bytes: &[u8], place: &str) -> Result<Record, StoreError> {
    let corrupt = |reason: String| StoreError::Corrupt { place: place.to_owned(), reason };
    let too_large = || StoreError::TooLarge { place: place.to_owned(), limit: MAX_RECORD };
    if bytes.len() > MAX_STORED {
        return Err(too_large());
    }
    let fields = json::object(bytes).map_err(corrupt)?;
    let field =
        |name: &str| fields.iter().find(|(field, _)| field == name).map(|&(_, value)| value);

    // The version is read first, because the other fields may have another meaning in a newer version.
    let version = match field("version") {
        None => PLAIN,
        Some(version) => {
            version.get().parse().map_err(|_| corrupt("its version is not a number".into()))?
        }
    };
    if version > WITH_STATE {
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

    let access_token = text("access_token")?
        .map(AccessToken::from)
        .ok_or_else(|| corrupt("it has no access_token".into()))?;
    let mut tokens = AuthTokens::new(access_token);
    // If there is no refresh token, "" is written.
    tokens.refresh_token =
        text("refresh_token")?.filter(|token| !is_blank(token)).map(RefreshToken::from);
    let may_be_missing = has_state && tokens.refresh_token.is_some();
    if !tokens.has_access_token() && !may_be_missing {
        return Err(corrupt("its access_token is empty".into()));
    }
    tokens.expires_at = time("expires_at")?;
    tokens.obtained_at = time("obtained_at")?;

    let backup = field("backup").map_or("false", RawValue::get);
    tokens = match backup {
        "true" => tokens.with_backup(true),
        "false" => tokens,
        _ => return Err(corrupt("its backup is neither true nor false".into())),
    };

    // Records of other programs may have fields with these names, and another content.
    let mut others = ["client_secret", "refresh_expires_at", "refresh"].to_vec();
    if let Some(secret) = field("client_secret").and_then(json::secret) {
        tokens = tokens.with_client_secret(secret);
        others.retain(|name| *name != "client_secret");
    }
    tokens.refresh_expires_at = field("refresh_expires_at").and_then(date);
    if tokens.refresh_expires_at.is_some() {
        others.retain(|name| *name != "refresh_expires_at");
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
        "refresh_token",
        "version",
    ];
    let nested = match field("extra") {
        None => Vec::new(),
        Some(extra) => json::object(extra.get().as_bytes())
            .map_err(|reason| corrupt(format!("in its extra: {reason}")))?,
    };
    // Unknown fields of another program are kept too.
    let beside = fields
        .iter()
        .filter(|(name, _)| !known.contains(&name.as_ref()) || others.contains(&name.as_ref()));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

    use std::collections::BTreeMap;

    use chrono::TimeDelta;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::record::Intent;

    fn encode(tokens: &AuthTokens, place: &str) -> Result<Bytes, StoreError> {
        super::encode(&Record::new(tokens.clone()), place)
    }

    fn decode(bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
        super::decode(bytes, place).map(|record| record.tokens)
    }

    fn reason(json: &str) -> String {
        match decode(json.as_bytes(), "here").unwrap_err() {
            StoreError::Corrupt { place, reason } => {
                assert_eq!(place, "here");
                reason
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_bare_token_is_taken_and_an_age_key_is_not() {
        let token = decode_text(b" token\n", "here").unwrap().access_token;
        assert_eq!(token.expose_secret(), "token");
        for (text, expected) in [
            (b"".as_slice(), "neither the JSON of a record"),
            (b"Bearer canary", "leave out `Bearer`"),
            (b"\x1b[200~canary", "neither the JSON of a record"),
            (b"\"canary\"", "`jq -r`"),
            (b"[\"canary\"]", "`jq -r`"),
            (b"null\n", "`jq -r`"),
            (b"age-secret-key-1canary", "an age identity"),
        ] {
            let error = decode_text(text, "here").unwrap_err().to_string();
            assert!(error.starts_with("here is damaged") && error.contains(expected), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_file_of_the_seed_loads_as_it_is() {
        let tokens = decode(
            br#"{
  "access_token": "eyJhbGciOiJIUzI1NiIs...",
  "refresh_token": "refresh_token_value",
  "expires_at": "2024-01-15T10:30:00Z"
}"#,
            "here",
        )
        .unwrap();
        let expected = AuthTokens::new("eyJhbGciOiJIUzI1NiIs...")
            .with_refresh_token("refresh_token_value")
            .with_expires_at("2024-01-15T10:30:00Z".parse().unwrap());
        assert_eq!(tokens, expected);
    }

    #[test]
    fn a_null_or_missing_expiry_and_an_empty_refresh_token_are_none() {
        for json in [
            r#"{"access_token":"a","refresh_token":"","expires_at":null}"#,
            r#"{"access_token":"a","refresh_token":null}"#,
            r#"{"access_token":"a"}"#,
        ] {
            assert_eq!(decode(json.as_bytes(), "here").unwrap(), AuthTokens::new("a"), "{json}");
        }
    }

    #[test]
    fn a_program_that_knows_three_fields_reads_what_is_written() {
        #[derive(serde::Deserialize)]
        struct Seed {
            access_token: String,
            refresh_token: String,
            expires_at: Option<String>,
        }
        let now: DateTime<Utc> = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let tokens = AuthTokens::new("a")
            .with_expires_at(now)
            .with_obtained_at(now)
            .with_extra("scope", "x".into());
        let seed: Seed = serde_json::from_slice(&encode(&tokens, "here").unwrap()).unwrap();
        assert_eq!((seed.access_token.as_str(), seed.refresh_token.as_str()), ("a", ""));
        assert_eq!(seed.expires_at.as_deref(), Some("2026-01-02T03:04:05.678Z"));
    }

    #[test]
    fn each_fault_has_its_own_words() {
        for (json, expected) in [
            ("", "it is empty"),
            ("   ", "it ends too early, at line 1, column 3"),
            ("{\n\"access_token\": \"canary", "it ends too early, at line 2, column 23"),
            ("{\n\"access_token\": canary}", "it is not valid JSON at line 2, column 17"),
            ("{} canary", "it is not valid JSON at line 1, column 4"),
            ("[\"canary\"]", "it is not a JSON object"),
            ("\"canary\"", "it is not a JSON object"),
            ("{}", "it has no access_token"),
            (r#"{"access_token":null}"#, "it has no access_token"),
            (r#"{"access_token":""}"#, "its access_token is empty"),
            (r#"{"access_token":{"canary":1}}"#, "its access_token is not a string"),
            (
                r#"{"access_token":"canary","refresh_token":12}"#,
                "its refresh_token is not a string",
            ),
            (
                r#"{"access_token":"canary","expires_at":"canary"}"#,
                "its expires_at is not an RFC 3339 date",
            ),
            (
                r#"{"access_token":"canary","expires_at":1700000000}"#,
                "its expires_at is not a string",
            ),
            (r#"{"access_token":"canary","access_token":"canary"}"#, "it has the same field twice"),
            (r#"{"access_token":"a","\u0061ccess_token":"b"}"#, "it has the same field twice"),
            (
                r#"{"access_token":"a","x":"1","extra":{"x":"2"}}"#,
                "it has the same field twice, in extra and beside it",
            ),
            (r#"{"access_token":"a","extra":["canary"]}"#, "in its extra: it is not a JSON object"),
            (r#"{"access_token":"a","version":"1"}"#, "its version is not a number"),
            (r#"{"access_token":"a","version":-1}"#, "its version is not a number"),
            (r#"{"access_token":"a","backup":"yes"}"#, "its backup is neither true nor false"),
        ] {
            assert_eq!(reason(json), expected, "{json}");
        }
        let deep = "[".repeat(MAX_RECORD);
        assert_eq!(reason(&deep), "it is not a JSON object");
        let deep = format!("{{\"access_token\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000));
        assert_eq!(reason(&deep), "its access_token is not a string");
        let error = decode(b"{\"access_token\":\"\xff\"}", "here").unwrap_err().to_string();
        assert!(error.contains("not UTF-8 text (byte 17)"), "{error}");
    }

    #[test]
    fn a_newer_version_is_refused_whatever_else_it_holds() {
        let error = decode(br#"{"token":[],"version":3}"#, "here").unwrap_err();
        assert!(matches!(error, StoreError::NewerVersion { found: 3, known: 2, .. }), "{error}");
    }

    #[test]
    fn a_record_over_the_limit_is_refused_both_ways() {
        let largest = AuthTokens::new("x".repeat(MAX_RECORD - 128));
        assert!(encode(&largest, "here").unwrap().len() <= MAX_RECORD);
        let tokens = AuthTokens::new("x".repeat(MAX_RECORD));
        assert!(matches!(encode(&tokens, "here"), Err(StoreError::TooLarge { .. })));
        let json = format!("{{\"access_token\":\"{}\"}}", "x".repeat(MAX_RECORD));
        assert!(matches!(decode(json.as_bytes(), "here"), Err(StoreError::TooLarge { .. })));
    }

    #[test]
    fn what_was_no_string_is_kept_as_its_json() {
        let tokens =
            decode(br#"{"access_token":"a","expires_in":900,"roles":["a", "b"]}"#, "here").unwrap();
        assert_eq!(tokens.extra("expires_in").unwrap().expose_secret(), "900");
        assert_eq!(tokens.extra("roles").unwrap().expose_secret(), r#"["a", "b"]"#);
        let again = decode(&encode(&tokens, "here").unwrap(), "here").unwrap();
        assert_eq!(again, tokens);
        // A number is a number after a round trip.
        let written: Value = serde_json::from_slice(&encode(&tokens, "here").unwrap()).unwrap();
        let expected = serde_json::json!({"expires_in": 900, "roles": ["a", "b"]});
        assert_eq!(written["extra"], expected);
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn known() -> RefreshState {
        let token = RefreshToken::from("r");
        let client = "https://x/token app";
        RefreshState {
            intent: Some(Intent::new(&token, at(1))),
            throttle: Some(Throttle::new(at(1), at(2), client, Some("429"))),
            rejection: Some(Rejection::new(&token, client, at(3), "refused")),
        }
    }

    #[test]
    fn what_is_known_about_refreshing_survives_and_is_refused_by_older_builds() {
        let tokens = AuthTokens::new("a").with_refresh_token("r");
        let whole = known();
        for known in [
            RefreshState { intent: whole.intent.clone(), ..RefreshState::default() },
            RefreshState { throttle: whole.throttle.clone(), ..RefreshState::default() },
            RefreshState { rejection: whole.rejection.clone(), ..RefreshState::default() },
            whole,
        ] {
            let record = Record::new(tokens.clone()).with_refresh(known);
            let bytes = super::encode(&record, "here").unwrap();
            assert_eq!(super::decode(&bytes, "here").unwrap(), record);
            let written: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(written["version"], 2);
            assert_eq!(
                (&written["access_token"], &written["refresh_token"]),
                (&"a".into(), &"r".into())
            );
        }
        let written: Value = serde_json::from_slice(&encode(&tokens, "here").unwrap()).unwrap();
        assert_eq!(written["version"], 1, "older builds read what they understand");
    }

    #[test]
    fn what_cannot_be_read_of_it_stops_nobody() {
        for state in [
            "5",
            "{}",
            r#"{"intent":"tokenkeep-intent/9 x"}"#,
            r#"{"intent":7,"throttle":[],"rejection":{"at":"x"}}"#,
            r#"{"throttle":{"from":"2026-01-01T00:00:00Z","until":1,"client":""}}"#,
            // A longer digest would take the room of the intent.
            &format!(
                r#"{{"throttle":{{"from":"2026-01-01T00:00:00Z","until":"2026-01-01T00:00:00Z","client":"{}"}}}}"#,
                "x".repeat(60_000)
            ),
        ] {
            let json = format!(r#"{{"access_token":"a","version":2,"refresh":{state}}}"#);
            let record = super::decode(json.as_bytes(), "here").unwrap();
            assert_eq!(record, Record::new(AuthTokens::new("a")), "{state}");
        }
    }

    #[test]
    fn the_largest_tokens_leave_room_for_what_is_known_about_refreshing() {
        let mut size = MAX_RECORD;
        let largest = loop {
            let tokens = AuthTokens::new("x".repeat(size)).with_refresh_token("r");
            match encode(&tokens, "here") {
                Ok(bytes) => break (tokens, bytes.len()),
                Err(_) => size -= 1,
            }
        };
        assert_eq!(largest.1, MAX_RECORD, "the limit itself is allowed");
        let mut known = known();
        known.throttle.as_mut().unwrap().reason = Some("\"".repeat(200));
        let record = Record::new(largest.0).with_refresh(known);
        let bytes = super::encode(&record, "here").unwrap();
        assert!(bytes.len() > MAX_RECORD && bytes.len() + 1024 < MAX_STORED, "{}", bytes.len());
        assert_eq!(super::decode(&bytes, "here").unwrap(), record);
    }

    #[test]
    fn a_missing_access_token_is_kept_and_counts_as_expired() {
        let tokens = AuthTokens::without_access_token("r");
        let bytes = encode(&tokens, "here").unwrap();
        let written: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&written["access_token"], &written["version"]), (&"".into(), &2.into()));
        let tokens = decode(&bytes, "here").unwrap();
        assert!(!tokens.has_access_token() && tokens.is_expired(at(0)));
        assert!(matches!(
            encode(&AuthTokens::new(""), "here"),
            Err(StoreError::InvalidTokens { .. })
        ));
        assert_eq!(
            reason(r#"{"access_token":"","refresh_token":"r"}"#),
            "its access_token is empty"
        );
    }

    #[test]
    fn the_refresh_tokens_own_expiry_and_a_client_secret_are_kept() {
        let mut tokens = AuthTokens::new("a").with_client_secret("canary".into());
        tokens.refresh_expires_at = Some(at(7));
        assert!(!format!("{tokens:?}").contains("canary"));
        assert_eq!(decode(&encode(&tokens, "here").unwrap(), "here").unwrap(), tokens);
        // Other programs have fields with these names, and another content.
        let json =
            r#"{"access_token":"a","client_secret":5,"refresh_expires_at":"soon","refresh":"x"}"#;
        let tokens = decode(json.as_bytes(), "here").unwrap();
        assert!(tokens.client_secret().is_none() && tokens.refresh_expires_at.is_none());
        assert_eq!(tokens.extras().count(), 3);
    }

    /// Reads one file of each form that was ever written.
    #[test]
    fn golden_records_of_each_form_stay_readable() {
        let whole = Record::new(
            AuthTokens::new("a")
                .with_refresh_token("r")
                .with_expires_at(at(1_800_000_000))
                .with_obtained_at(at(1_799_999_000))
                .with_client_secret("s".into())
                .with_extra("scope", "x y".into())
                .with_json_extra("realm", "7".into()),
        );
        let golden = |name: &str| -> Record {
            let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
            super::decode(&std::fs::read(path).unwrap(), "here").unwrap()
        };
        let seed = AuthTokens::new("a").with_refresh_token("r").with_expires_at(at(1_800_000_000));
        assert_eq!(golden("seed"), Record::new(seed.clone()));
        let first = seed.with_obtained_at(at(1_799_999_000)).with_extra("scope", "x y".into());
        assert_eq!(golden("version-1"), Record::new(first));
        let mut second = whole.tokens;
        second.refresh_expires_at = Some(at(1_900_000_000));
        let read = golden("version-2");
        assert_eq!(read.tokens, second);
        let token = RefreshToken::from("r");
        assert_eq!(read.intent().map(Intent::at), Some(at(1_800_000_000)));
        let throttle = read.refresh.throttle.as_ref().unwrap();
        let until = throttle.holds("https://issuer.example/token app", at(1_800_000_001));
        assert_eq!((until, throttle.reason()), (Some(at(1_800_000_060)), Some("429")));
        let rejection = read.refresh.rejection.as_ref().unwrap();
        assert!(rejection.is_for(&token, "https://issuer.example/token app"));
        assert_eq!(
            golden("version-2-no-access-token").tokens,
            AuthTokens::without_access_token("r")
        );
        // The bytes that are written today are the same.
        let path = format!("{}/tests/golden/version-2.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(
            *super::encode(&read, "here").unwrap(),
            std::fs::read(path).unwrap().trim_ascii()
        );
    }

    fn any_date() -> impl Strategy<Value = DateTime<Utc>> {
        prop_oneof![
            Just(DateTime::<Utc>::MIN_UTC),
            Just(DateTime::<Utc>::MAX_UTC),
            (any::<i32>(), 0..1_000_000_000_i64).prop_map(|(secs, nanos)| {
                DateTime::from_timestamp(i64::from(secs) * 1000, 0).unwrap()
                    + TimeDelta::nanoseconds(nanos)
            }),
        ]
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_other_programs_put_into_a_record_survives(
            // The first letter is not that of any field of this crate.
            beside in prop::collection::btree_map("[^abeorv].{0,6}|", any_json(), 0..4),
            nested in prop::collection::btree_map("[^abeorv].{0,6}|.{0,8}", any_json(), 0..4),
        ) {
            let nested: BTreeMap<_, _> =
                nested.into_iter().filter(|(name, _)| !beside.contains_key(name)).collect();
            let mut record = serde_json::json!({"access_token": "a", "extra": nested});
            let fields = record.as_object_mut().unwrap();
            fields.extend(beside.iter().map(|(name, value)| (name.clone(), value.clone())));
            let tokens = decode(&serde_json::to_vec(&record).unwrap(), "here").unwrap();
            prop_assert_eq!(tokens.extras().count(), beside.len() + nested.len());
            for (name, value) in beside.iter().chain(&nested) {
                let kept = tokens.extra(name).unwrap().expose_secret();
                let expected = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                prop_assert_eq!(kept, expected);
            }
            let again = decode(&encode(&tokens, "here").unwrap(), "here").unwrap();
            prop_assert_eq!(again, tokens);
        }

        #[test]
        fn every_record_survives_the_round_trip(
            access in ".+",
            refresh in proptest::option::of(".+"),
            expires in proptest::option::of(any_date()),
            obtained in proptest::option::of(any_date()),
            extra in proptest::collection::btree_map(".*", ".*", 0..4),
            backup: bool,
        ) {
            let mut tokens = AuthTokens::new(access).with_backup(backup);
            tokens.refresh_token = refresh.map(RefreshToken::from);
            tokens.expires_at = expires;
            tokens.obtained_at = obtained;
            for (name, value) in extra {
                tokens = tokens.with_extra(name, value.into());
            }
            let bytes = encode(&tokens, "here").unwrap();
            prop_assert_eq!(bytes.capacity(), bytes.len());
            prop_assert_eq!(decode(&bytes, "here").unwrap(), tokens);
        }

        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Either an error or a record is returned. An error quotes nothing of the input.
            if let Err(error) = decode(&bytes, "here") {
                prop_assert!(error.to_string().starts_with("here "));
            }
        }
    }
}
