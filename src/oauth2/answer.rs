//! The answer of a token endpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use oauth2::basic::BasicTokenType;
use oauth2::{Scope, TokenResponse};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroize;

use crate::record;
use crate::sys::clock;
use crate::tokens::AuthTokens;
use crate::tokens::json;

/// The objects in which some providers put the tokens: Slack in `authed_user`, others in `data`.
const INNER: [&str; 2] = ["authed_user", "data"];

/// The tokens in an answer, and all its other fields.
///
/// It accepts more than RFC 6749 allows: no token type, an expiry that is a string, a field twice, tokens in an
/// inner object. When the answer is read, the old refresh token is spent, and the answer is the only copy of the
/// new one.
pub(super) struct Answer {
    access_token: oauth2::AccessToken,
    refresh_token: Option<oauth2::RefreshToken>,
    expires_in: Option<TimeDelta>,
    /// When the access token expires, by the clock of the server. It counts if there is no lifetime.
    expires_on: Option<DateTime<Utc>>,
    /// How long the refresh token lives, or when it expires.
    refresh_expiry: Option<RefreshExpiry>,
    extra: BTreeMap<String, Value>,
}

impl Answer {
    /// Returns whether there are tokens in a body. No copy of them stays.
    pub(super) fn is_in(body: &[u8]) -> bool {
        // The fields of the `oauth2` crate are not wiped on drop, and those of `AuthTokens` are.
        let answer = serde_json::from_slice::<Self>(body);
        answer.is_ok_and(|answer| answer.into_tokens(SystemTime::UNIX_EPOCH).has_access_token())
    }

    /// Returns the tokens of an answer to a request that was sent at this time.
    ///
    /// The lifetime counts from `sent`, so a slow answer never makes a token seem to live longer than it
    /// does.
    pub(super) fn into_tokens(self, sent: SystemTime) -> AuthTokens {
        let sent = clock::date(sent);
        let mut tokens = AuthTokens::new(self.access_token.into_secret()).with_obtained_at(sent);
        tokens.refresh_token = self.refresh_token.map(|token| token.into_secret().into());
        // A lifetime that overflows is ignored.
        let lifetime = self.expires_in.map(|time| time.max(TimeDelta::zero()));
        let by_lifetime = lifetime.and_then(|time| sent.checked_add_signed(time));
        tokens.expires_at = by_lifetime.or(self.expires_on.map(|at| at.max(sent)));
        tokens.refresh_expires_at = self.refresh_expiry.and_then(|expiry| match expiry {
            RefreshExpiry::After(lifetime) => sent.checked_add_signed(lifetime),
            RefreshExpiry::At(date) => Some(date),
            RefreshExpiry::Never => None,
        });
        tokens.refresh_never_expires = matches!(self.refresh_expiry, Some(RefreshExpiry::Never));
        let tokens = self.extra.into_iter().fold(tokens, |tokens, (name, value)| match value {
            Value { text: None, .. } => tokens,
            Value { text: Some(text), is_string: true } => tokens.with_extra(name, text),
            Value { text: Some(json), is_string: false } => tokens.with_json_extra(name, json),
        });
        record::fitted(tokens)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        fields.into_answer().ok_or_else(|| de::Error::custom("no tokens"))
    }
}

/// The first number of seconds since the epoch that is a date and no lifetime, where a field may be either: in
/// 2001. As a lifetime it is 31 years.
const EARLIEST: i64 = 1_000_000_000;

/// The first number that counts milliseconds, because so many seconds since the epoch are in the year 5138.
const MOST_SECONDS: f64 = 1e11;

/// The fields of one object in an answer.
#[derive(Default)]
struct Fields {
    access_token: Token,
    refresh_token: Token,
    expires_in: Option<TimeDelta>,
    expires_on: Option<DateTime<Utc>>,
    refresh_expiry: Option<RefreshExpiry>,
    extra: BTreeMap<String, Value>,
}

impl Fields {
    fn add<E: de::Error>(&mut self, name: String, value: Value) -> Result<(), E> {
        match name.as_str() {
            "access_token" => self.access_token.set(value)?,
            "refresh_token" => self.refresh_token.set(value)?,
            "expires_in" => {
                self.expires_in = value.number().map(TimeDelta::seconds).or(self.expires_in);
            }
            name if RefreshExpiry::NAMES.contains(&name) => {
                let known = self.refresh_expiry.filter(|it| !matches!(it, RefreshExpiry::Never));
                let read = RefreshExpiry::read(name, &value);
                self.refresh_expiry = known.or(read).or(self.refresh_expiry);
            }
            _ => {
                match name.as_str() {
                    "expires_on" | "expires_at" => {
                        self.expires_on = self.expires_on.or(value.date());
                    }
                    "expires" => match value.number().filter(|number| *number < EARLIEST) {
                        // Facebook sends a lifetime under this name.
                        Some(seconds) if seconds > 0 => {
                            self.expires_in = self.expires_in.or(Some(TimeDelta::seconds(seconds)));
                        }
                        Some(_) => {}
                        None => self.expires_on = self.expires_on.or(value.date()),
                    },
                    _ => {}
                }
                // A duplicate of another field does no harm. Tokens must not be lost because of it.
                self.extra.insert(name, value);
            }
        }
        Ok(())
    }

    /// Returns the tokens, or `None` if there is no access token.
    fn into_answer(mut self) -> Option<Answer> {
        for name in INNER {
            self.take_inner(name);
        }
        Some(Answer {
            access_token: oauth2::AccessToken::new(self.access_token.0.take()?),
            refresh_token: self.refresh_token.0.take().map(oauth2::RefreshToken::new),
            expires_in: self.expires_in,
            expires_on: self.expires_on,
            refresh_expiry: self.refresh_expiry,
            extra: self.extra,
        })
    }

    /// Takes the tokens of an inner object, if they belong together with those outside: there is no access token
    /// outside, or only the refresh token is inside.
    fn take_inner(&mut self, name: &str) {
        let Some(text) = self.extra.get(name).and_then(|value| value.text.as_ref()) else { return };
        #[expect(clippy::disallowed_methods, reason = "tokens are read from it")]
        let inner = serde_json::from_str::<Self>(text.expose_secret());
        let Ok(mut inner) = inner else { return };
        let belongs = match (&self.access_token.0, &inner.access_token.0) {
            (None, Some(_)) => true,
            (Some(_), None) => self.refresh_token.0.is_none() && inner.refresh_token.0.is_some(),
            _ => false,
        };
        if !belongs {
            return;
        }
        // The tokens are kept once.
        self.extra.remove(name);
        if inner.access_token.0.is_some() {
            self.access_token = std::mem::take(&mut inner.access_token);
            self.expires_in = inner.expires_in.or(self.expires_in);
            self.expires_on = inner.expires_on.or(self.expires_on);
        }
        if inner.refresh_token.0.is_some() {
            self.refresh_token = std::mem::take(&mut inner.refresh_token);
        }
        self.refresh_expiry = inner.refresh_expiry.or(self.refresh_expiry);
        self.extra.append(&mut inner.extra);
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry()? {
                    fields.add(name, value)?;
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The refresh token's own expiry, as the provider states it. No RFC has a field for it.
#[derive(Clone, Copy)]
enum RefreshExpiry {
    After(TimeDelta),
    At(DateTime<Utc>),
    Never,
}

impl RefreshExpiry {
    /// The fields of Keycloak, of Microsoft, GitHub and Google, of Pinterest, and of Intuit.
    const NAMES: [&str; 4] = [
        "refresh_expires_in",
        "refresh_token_expires_in",
        "refresh_token_expires_at",
        "x_refresh_token_expires_in",
    ];

    /// Reads one of these fields. Keycloak writes 0 for a refresh token that does not expire. A lifetime below 0 is
    /// none either, because the provider has just sent the token.
    fn read(name: &str, value: &Value) -> Option<Self> {
        if name.ends_with("_at") {
            return value.date().map(Self::At);
        }
        Some(match value.number()? {
            ..=0 => Self::Never,
            seconds => Self::After(TimeDelta::seconds(seconds)),
        })
    }
}

/// A token of an answer, if there is one.
#[derive(Default)]
struct Token(Option<String>);

impl Token {
    /// Programs differ in which of two tokens counts, so two different ones are an error.
    fn set<E: de::Error>(&mut self, value: Value) -> Result<(), E> {
        let Some(text) = value.text.filter(|_| value.is_string) else { return Ok(()) };
        #[expect(clippy::disallowed_methods, reason = "handed on, and wiped here")]
        let text = text.expose_secret().trim();
        if !is_token(text) {
            return Ok(());
        }
        match &self.0 {
            Some(known) if known != text => Err(E::custom("two different tokens")),
            _ => {
                self.0.zeroize();
                self.0 = Some(text.to_owned());
                Ok(())
            }
        }
    }
}

/// Returns whether a text can be a token: printable ASCII (RFC 6749, A.12 and A.17). Some servers write a word or
/// stars where there is no token. Such a text must not replace a good one.
fn is_token(text: &str) -> bool {
    let no_tokens = ["", "null", "undefined", "none", "false"];
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && !no_tokens.contains(&text.to_ascii_lowercase().as_str())
        && !text.bytes().all(|byte| byte == b'*')
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A JSON value: the text of a string, or the JSON of any other value. `null` has no text.
struct Value {
    text: Option<SecretString>,
    is_string: bool,
}

impl Value {
    /// Reads a number of seconds. Some providers send it as a string, with a fraction or with an exponent.
    fn number(&self) -> Option<i64> {
        let number = self.any_number()?;
        // Further seconds are beyond all dates, and infinity is no number of seconds.
        (-MOST_SECONDS..MOST_SECONDS).contains(&number).then_some(number as i64)
    }

    fn any_number(&self) -> Option<f64> {
        #[expect(clippy::disallowed_methods, reason = "a number of seconds is no secret")]
        self.text.as_ref()?.expose_secret().trim().parse().ok()
    }

    /// Reads a date: seconds or milliseconds since the epoch, or a text as RFC 3339 says.
    fn date(&self) -> Option<DateTime<Utc>> {
        if let Some(seconds) = self.number() {
            return DateTime::from_timestamp(seconds, 0);
        }
        if let Some(number) = self.any_number() {
            let milliseconds = (0.0..MOST_SECONDS * 1000.0).contains(&number);
            return milliseconds.then(|| DateTime::from_timestamp_millis(number as i64))?;
        }
        #[expect(clippy::disallowed_methods, reason = "a date is no secret")]
        self.text.as_ref()?.expose_secret().trim().parse().ok()
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Box<RawValue> = Deserialize::deserialize(deserializer)?;
        let text = (raw.get() != "null").then(|| {
            json::secret(&raw).unwrap_or_else(|| SecretString::from(Box::<str>::from(raw.get())))
        });
        let is_string = raw.get().starts_with('"');
        Box::<str>::from(raw).zeroize();
        Ok(Self { text, is_string })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer([REDACTED])")
    }
}

/// The `oauth2` crate requires this, and never uses it.
impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("an answer is only read"))
    }
}

impl TokenResponse for Answer {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &oauth2::AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &BasicTokenType::Bearer
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.and_then(|time| time.to_std().ok())
    }

    fn refresh_token(&self) -> Option<&oauth2::RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

    use chrono::DateTime;

    use super::super::OAuth2Client;
    use super::*;
    use crate::tokens::RefreshToken;

    fn read(json: &str) -> Option<AuthTokens> {
        let answer: Answer = serde_json::from_str(json).ok()?;
        assert!(!format!("{answer:?}").contains("canary"));
        Some(answer.into_tokens(SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn everything_is_kept() {
        let tokens = read(
            r#"{"access_token":"canary\u002da","token_type":"bearer","expires_in":3600,
                "refresh_token":"canary-r","scope":"a b","id_token":"canary-i","x":{"y":[1]},"n":null}"#,
        )
        .unwrap();
        assert_eq!(tokens.access_token.expose_secret(), "canary-a");
        assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "canary-r");
        assert_eq!(tokens.expires_at, DateTime::from_timestamp(3600, 0));
        assert_eq!(tokens.obtained_at, Some(DateTime::UNIX_EPOCH));
        let extra: Vec<_> =
            tokens.extras().map(|(name, value)| (name, value.expose_secret())).collect();
        assert_eq!(
            extra,
            [
                ("id_token", "canary-i"),
                ("scope", "a b"),
                ("token_type", "bearer"),
                ("x", r#"{"y":[1]}"#)
            ]
        );
    }

    #[test]
    fn a_rotated_token_is_kept_although_another_field_is_invalid() {
        for (beside, lifetime) in [
            (r#""expires_in":"3600""#, Some(3600)),
            (r#""expires_in":3599.9"#, Some(3599)),
            (r#""expires_in":0"#, Some(0)),
            // It has expired, and does not live for ever.
            (r#""expires_in":-1"#, Some(0)),
            (r#""expires_in":"3.6e3""#, Some(3600)),
            (r#""expires_in":3.1536E7"#, Some(31_536_000)),
            (r#""expires_in":" 3600 ""#, Some(3600)),
            (r#""expires_on":1700000000"#, Some(1_700_000_000)),
            (r#""expires_on":"1700000000""#, Some(1_700_000_000)),
            (r#""expires_on":"2023-11-14T23:13:20+01:00""#, Some(1_700_000_000)),
            (r#""expires_on":"soon""#, None),
            (r#""expires_on":1700000000000"#, Some(1_700_000_000)),
            (r#""expires_at":1700000000"#, Some(1_700_000_000)),
            (r#""expires_at":"1700000000123""#, Some(1_700_000_000)),
            (r#""expires_at":"2023-11-14T22:13:20Z""#, Some(1_700_000_000)),
            (r#""expires_at":null"#, None),
            (r#""expires_at":"tomorrow""#, None),
            (r#""expires_at":1700000000,"expires_in":60"#, Some(60)),
            (r#""expires":5184000"#, Some(5_184_000)),
            (r#""expires":"5184000""#, Some(5_184_000)),
            (r#""expires":1700000000"#, Some(1_700_000_000)),
            (r#""expires":"2023-11-14T22:13:20Z""#, Some(1_700_000_000)),
            (r#""expires":0"#, None),
            (r#""expires":1e400"#, None),
            (r#""expires":90,"expires_in":60"#, Some(60)),
            (r#""expires_in":60,"expires":90"#, Some(60)),
            (r#""expires_in":60,"expires_on":1700000000"#, Some(60)),
            (r#""expires_in":18446744073709551615"#, None),
            (r#""expires_in":1e400"#, None),
            (r#""expires_in":true"#, None),
            (r#""token_type":5"#, None),
            (r#""scope":["a","b"]"#, None),
        ] {
            let json = format!(r#"{{"access_token":"a","refresh_token":"r",{beside}}}"#);
            let tokens = read(&json).unwrap_or_else(|| panic!("{json}"));
            assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "r", "{json}");
            assert_eq!(tokens.expires_at.map(|date| date.timestamp()), lifetime, "{json}");
        }
    }

    #[test]
    fn the_refresh_tokens_own_expiry_is_read_in_the_forms_that_providers_write() {
        for (beside, expiry) in [
            (r#""refresh_expires_in":1800"#, Some(1800)),
            (r#""refresh_token_expires_in":"15811200""#, Some(15_811_200)),
            (r#""refresh_token_expires_in":1.5811200E7"#, Some(15_811_200)),
            (r#""x_refresh_token_expires_in":8640000"#, Some(8_640_000)),
            (r#""refresh_token_expires_at":1700000000"#, Some(1_700_000_000)),
            (r#""refresh_token_expires_at":"1700000000""#, Some(1_700_000_000)),
            (r#""refresh_token_expires_at":"2023-11-14T22:13:20Z""#, Some(1_700_000_000)),
            (r#""refresh_expires_in":0,"refresh_token_expires_in":60"#, Some(60)),
            (r#""refresh_token_expires_at":1700000000123"#, Some(1_700_000_000)),
            (r#""refresh_token_expires_at":"1.7e12""#, Some(1_700_000_000)),
            (r#""refresh_token_expires_at":1e300"#, None),
            (r#""refresh_token_expires_in":60,"refresh_expires_in":0"#, Some(60)),
            (r#""refresh_expires_in":0"#, None),
            (r#""refresh_expires_in":-1"#, None),
            (r#""refresh_expires_in":null"#, None),
            (r#""refresh_expires_in":"never""#, None),
            (r#""refresh_token_expires_in":1e300"#, None),
            (r#""refresh_token_expires_at":"soon""#, None),
            (r#""refresh_token_expires_at":99999999999"#, Some(99_999_999_999)),
        ] {
            let json = format!(r#"{{"access_token":"a","refresh_token":"r",{beside}}}"#);
            let tokens = read(&json).unwrap_or_else(|| panic!("{json}"));
            assert_eq!(tokens.refresh_expires_at.map(|date| date.timestamp()), expiry, "{json}");
            // A number of seconds from then on would say nothing later.
            assert_eq!(tokens.extras().count(), 0, "{json}");
        }
        let nested = r#"{"authed_user":{"access_token":"a","refresh_token_expires_in":60}}"#;
        assert_eq!(read(nested).unwrap().refresh_expires_at, DateTime::from_timestamp(60, 0));
    }

    #[test]
    fn a_default_lifetime_counts_only_if_the_answer_says_nothing() {
        // Its claims are {"exp":1700000000}.
        const JWT: &str = "e30.eyJleHAiOjE3MDAwMDAwMDB9.c2ln";
        let client = OAuth2Client::new("https://issuer.example/token", "app").unwrap();
        let client = client.with_default_lifetime(Duration::from_secs(7200));
        for (answer, expiry) in [
            (r#"{"access_token":"a"}"#.to_owned(), 7200),
            (r#"{"access_token":"a","expires_in":"soon"}"#.to_owned(), 7200),
            (r#"{"access_token":"a","expires_in":60}"#.to_owned(), 60),
            (r#"{"access_token":"a","expires_in":-1}"#.to_owned(), 0),
            (r#"{"access_token":"a","expires_on":90}"#.to_owned(), 90),
            (format!(r#"{{"access_token":"{JWT}"}}"#), 1_700_000_000),
        ] {
            let read = serde_json::from_str(&answer).unwrap();
            let tokens = client.received(read, SystemTime::UNIX_EPOCH);
            assert_eq!(tokens.expiry(), DateTime::from_timestamp(expiry, 0), "{answer}");
        }
    }

    #[test]
    fn an_answer_without_a_refresh_token_has_none() {
        for json in [
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"a","refresh_token":null}"#,
            r#"{"access_token":"a","refresh_token":""}"#,
            r#"{"access_token":"a","refresh_token":" "}"#,
            r#"{"access_token":"a","refresh_token":false}"#,
            r#"{"access_token":"a","refresh_token":{}}"#,
            r#"{"access_token":"a","refresh_token":[]}"#,
            r#"{"access_token":"a","refresh_token":"null"}"#,
            r#"{"access_token":"a","refresh_token":"undefined"}"#,
            r#"{"access_token":"a","refresh_token":"********"}"#,
            r#"{"access_token":"a","refresh_token":"\u200b"}"#,
            r#"{"access_token":"a","refresh_token":"\u0000"}"#,
        ] {
            assert_eq!(read(json).unwrap().refresh_token, None, "{json}");
        }
    }

    #[test]
    fn an_answer_without_tokens_is_refused() {
        for json in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"access_token":""}"#,
            r#"{"access_token":null}"#,
            r#"{"access_token":5}"#,
            r#"{"access_token":"null"}"#,
            r#"{"access_token":"a\nb"}"#,
            r#"{"data":{"data":{"access_token":"a"}}}"#,
            r#"{"data":{"x":"y"}}"#,
            r#"{"access_token":"a","access_token":"b"}"#,
            r#"{"access_token":"a","refresh_token":"r","refresh_token":"s"}"#,
        ] {
            assert!(read(json).is_none(), "{json}");
        }
    }

    #[test]
    fn a_duplicate_field_that_holds_no_token_loses_no_tokens() {
        let tokens = read(r#"{"access_token":"a","refresh_token":"r","x":"1","x":"2"}"#).unwrap();
        assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "r");
        assert_eq!(tokens.extra("x").unwrap().expose_secret(), "2");
    }

    #[test]
    fn the_same_token_twice_is_one_token() {
        let json =
            r#"{"access_token":"a","refresh_token":"r","access_token":"a","refresh_token":"r"}"#;
        let tokens = read(json).unwrap();
        assert_eq!(tokens.access_token.expose_secret(), "a");
        assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "r");
    }

    #[test]
    fn tokens_in_an_inner_object_are_found_and_kept_once() {
        for name in ["authed_user", "data"] {
            let json = format!(
                r#"{{"ok":true,"{name}":{{"id":"U1","access_token":"canary-a","refresh_token":"canary-r","expires_in":60}}}}"#
            );
            let tokens = read(&json).unwrap();
            assert_eq!(tokens.access_token.expose_secret(), "canary-a");
            assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "canary-r");
            assert_eq!(tokens.expires_at, DateTime::from_timestamp(60, 0));
            let extra: Vec<_> =
                tokens.extras().map(|(name, it)| (name, it.expose_secret())).collect();
            assert_eq!(extra, [("id", "U1"), ("ok", "true")]);
        }
        // A token of the whole answer counts.
        let json = r#"{"access_token":"bot","authed_user":{"access_token":"user"}}"#;
        assert_eq!(read(json).unwrap().access_token.expose_secret(), "bot");
    }

    #[test]
    fn tokens_that_are_apart_are_put_together_if_they_belong_together() {
        for (json, access, refresh, expiry) in [
            (
                r#"{"refresh_token":"r","expires_in":60,"data":{"access_token":"a"}}"#,
                "a",
                Some("r"),
                Some(60),
            ),
            (
                r#"{"access_token":"a","expires_in":60,"data":{"refresh_token":"r"}}"#,
                "a",
                Some("r"),
                Some(60),
            ),
            (
                r#"{"access_token":"a","authed_user":{"access_token":"b","refresh_token":"s","expires_in":9}}"#,
                "a",
                None,
                None,
            ),
            (
                r#"{"refresh_token":"r","authed_user":{"access_token":"b","refresh_token":"s"}}"#,
                "b",
                Some("s"),
                None,
            ),
        ] {
            let tokens = read(json).unwrap();
            assert_eq!(tokens.access_token.expose_secret(), access, "{json}");
            let found = tokens.refresh_token.as_ref().map(RefreshToken::expose_secret);
            assert_eq!(found, refresh, "{json}");
            assert_eq!(tokens.expires_at.map(|at| at.timestamp()), expiry, "{json}");
        }
    }

    #[test]
    fn an_answer_of_any_depth_is_read_without_a_deep_stack() {
        let deep = format!(r#"{}1{}"#, r#"{"data":"#.repeat(600), "}".repeat(600));
        assert!(read(&deep).is_none());
        let beside = format!(r#"{{"access_token":"a","data":{deep}}}"#);
        let on_a_small_stack = std::thread::Builder::new().stack_size(256 << 10);
        let read = on_a_small_stack.spawn(move || read(&beside).is_some()).unwrap();
        assert!(read.join().unwrap());
    }

    #[test]
    fn tokens_in_a_large_answer_are_kept_with_the_fields_that_a_record_has_room_for() {
        let (large, id) = ("x".repeat(70_000), "i".repeat(9_000));
        let json = format!(
            r#"{{"access_token":"a","refresh_token":"r","large":"{large}","id_token":"{id}","scope":"s"}}"#
        );
        let tokens = read(&json).unwrap();
        assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "r");
        assert_eq!(
            tokens.extras().map(|(name, _)| name).collect::<Vec<_>>(),
            ["id_token", "scope"]
        );
        tokens.to_record("here").unwrap();
    }
}
