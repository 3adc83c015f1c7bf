//! The answer of a token endpoint.

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

use crate::record::MAX_RECORD;
use crate::sys::clock;
use crate::tokens::AuthTokens;
use crate::tokens::json;

/// The most bytes of all other fields that are kept. The rest of a record is for the tokens.
const MOST_EXTRA: usize = MAX_RECORD / 8 * 5;

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
    extra: Vec<(String, Value)>,
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
        });
        // A record has a limit. Beside the tokens, the shortest fields are kept.
        let mut extra = self.extra;
        extra.sort_by_key(|(name, value)| name.len() + value.length());
        let mut room = MOST_EXTRA;
        let fits = extra.into_iter().map_while(|(name, value)| {
            room = room.checked_sub(name.len() + value.length())?;
            Some((name, value))
        });
        fits.fold(tokens, |tokens, (name, value)| match value {
            Value { text: None, .. } => tokens,
            Value { text: Some(text), is_string: true } => tokens.with_extra(name, text),
            Value { text: Some(json), is_string: false } => tokens.with_json_extra(name, json),
        })
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnswerVisitor;

        impl<'de> Visitor<'de> for AnswerVisitor {
            type Value = Answer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer with tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer, A::Error> {
                let (mut access_token, mut refresh_token) = (Token(None), Token(None));
                let (mut expires_in, mut expires_on) = (None, None);
                let mut refresh_expiry = None;
                let mut extra: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    match name.as_str() {
                        "access_token" => access_token.set(value)?,
                        "refresh_token" => refresh_token.set(value)?,
                        "expires_in" => expires_in = value.number().map(TimeDelta::seconds),
                        name if RefreshExpiry::NAMES.contains(&name) => {
                            refresh_expiry = refresh_expiry.or(RefreshExpiry::read(name, &value));
                        }
                        _ => {
                            if name == "expires_on" {
                                expires_on = value.date();
                            }
                            // A duplicate of another field does no harm. Tokens must not be lost because of
                            // it.
                            extra.retain(|(other, _)| *other != name);
                            extra.push((name, value));
                        }
                    }
                }
                if access_token.0.is_none()
                    && let Some(nested) = nested(&mut extra)
                {
                    extra.extend(nested.extra);
                    return Ok(Answer { extra, ..nested });
                }
                let access_token =
                    access_token.0.take().ok_or_else(|| de::Error::custom("no tokens"))?;
                Ok(Answer {
                    access_token: oauth2::AccessToken::new(access_token),
                    refresh_token: refresh_token.0.take().map(oauth2::RefreshToken::new),
                    expires_in,
                    expires_on,
                    refresh_expiry,
                    extra,
                })
            }
        }

        deserializer.deserialize_map(AnswerVisitor)
    }
}

/// The refresh token's own expiry, as the provider states it. No RFC has a field for it.
#[derive(Clone, Copy)]
enum RefreshExpiry {
    After(TimeDelta),
    At(DateTime<Utc>),
}

impl RefreshExpiry {
    /// The fields of Keycloak, of Microsoft, GitHub and Google, of Pinterest, and of Intuit.
    const NAMES: [&str; 4] = [
        "refresh_expires_in",
        "refresh_token_expires_in",
        "refresh_token_expires_at",
        "x_refresh_token_expires_in",
    ];

    /// Reads one of these fields. Keycloak writes 0 for a refresh token that does not expire.
    fn read(name: &str, value: &Value) -> Option<Self> {
        if name.ends_with("_at") {
            return value.date().map(Self::At);
        }
        let seconds = value.number().filter(|seconds| *seconds > 0)?;
        Some(Self::After(TimeDelta::seconds(seconds)))
    }
}

/// Finds tokens in the objects in which some providers put them: Slack in `authed_user`, others in `data`.
fn nested(extra: &mut Vec<(String, Value)>) -> Option<Answer> {
    for name in ["authed_user", "data"] {
        let Some(index) = extra.iter().position(|(other, _)| other == name) else { continue };
        #[expect(clippy::disallowed_methods, reason = "tokens are read from it")]
        let answer = extra[index]
            .1
            .text
            .as_ref()
            .and_then(|text| serde_json::from_str::<Answer>(text.expose_secret()).ok());
        if let Some(answer) = answer {
            // The tokens are kept once.
            extra.remove(index);
            return Some(answer);
        }
    }
    None
}

/// A token of an answer: a string that is not blank. Any other value says that there is none.
struct Token(Option<String>);

impl Token {
    /// Programs differ in which of two tokens counts, so two different ones are an error.
    fn set<E: de::Error>(&mut self, value: Value) -> Result<(), E> {
        let Some(text) = value.text.filter(|_| value.is_string) else { return Ok(()) };
        #[expect(clippy::disallowed_methods, reason = "handed on, and wiped here")]
        let text = text.expose_secret();
        if text.trim().is_empty() {
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
    fn length(&self) -> usize {
        #[expect(clippy::disallowed_methods, reason = "a length is no secret")]
        self.text.as_ref().map_or(0, |text| text.expose_secret().len())
    }

    /// Reads a number of seconds. Some providers send it as a string, with a fraction or with an exponent.
    fn number(&self) -> Option<i64> {
        #[expect(clippy::disallowed_methods, reason = "a number of seconds is no secret")]
        let number: f64 = self.text.as_ref()?.expose_secret().trim().parse().ok()?;
        // Further seconds are beyond all dates, and infinity is no number of seconds.
        (-1e11..1e11).contains(&number).then_some(number as i64)
    }

    /// Reads a date: seconds since the epoch, or a text as RFC 3339 says.
    fn date(&self) -> Option<DateTime<Utc>> {
        if let Some(seconds) = self.number() {
            return DateTime::from_timestamp(seconds, 0);
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
