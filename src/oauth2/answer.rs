//! The answer of a token endpoint.

use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::TimeDelta;
use oauth2::basic::BasicTokenType;
use oauth2::{Scope, TokenResponse};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroize;

use crate::sys::clock;
use crate::tokens::AuthTokens;
use crate::tokens::json;

/// The tokens in an answer, and all its other fields.
///
/// It accepts more than RFC 6749 allows: no token type, an expiry that is a string. When the answer is
/// read, the old refresh token is spent, and the answer is the only copy of the new one.
pub(super) struct Answer {
    access_token: oauth2::AccessToken,
    refresh_token: Option<oauth2::RefreshToken>,
    expires_in: Option<TimeDelta>,
    extra: Vec<(String, SecretString)>,
}

impl Answer {
    /// Returns the tokens of an answer to a request that was sent at this time.
    ///
    /// The lifetime counts from `sent`, so a slow answer never makes a token seem to live longer than it
    /// does.
    pub(super) fn into_tokens(self, sent: SystemTime) -> AuthTokens {
        let sent = clock::date(sent);
        let mut tokens = AuthTokens::new(self.access_token.into_secret()).with_obtained_at(sent);
        tokens.refresh_token = self.refresh_token.map(|token| token.into_secret().into());
        // A lifetime that overflows is ignored.
        tokens.expires_at = self.expires_in.and_then(|time| sent.checked_add_signed(time));
        self.extra.into_iter().fold(tokens, |tokens, (name, value)| tokens.with_extra(name, value))
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
                let (mut access_token, mut refresh_token, mut expires_in) = (None, None, None);
                let mut extra: Vec<(String, SecretString)> = Vec::new();
                while let Some((name, Text(value))) = map.next_entry::<String, Text>()? {
                    let Some(value) = value else { continue };
                    #[expect(clippy::disallowed_methods, reason = "handed on, and wiped here")]
                    let text = value.expose_secret();
                    let is_again = match name.as_str() {
                        "access_token" => {
                            access_token.replace(oauth2::AccessToken::new(text.into())).is_some()
                        }
                        "refresh_token" if text.is_empty() => false,
                        "refresh_token" => {
                            refresh_token.replace(oauth2::RefreshToken::new(text.into())).is_some()
                        }
                        "expires_in" => {
                            expires_in = seconds(text);
                            false
                        }
                        _ => {
                            // A duplicate of another field does no harm. Tokens must not be lost because of
                            // it.
                            extra.retain(|(other, _)| *other != name);
                            extra.push((name, value));
                            false
                        }
                    };
                    // Programs differ in which of the two counts, so this is an error.
                    if is_again {
                        return Err(de::Error::custom("the same field twice"));
                    }
                }
                let access_token = access_token.filter(|token| !token.secret().is_empty());
                let access_token = access_token.ok_or_else(|| de::Error::custom("no tokens"))?;
                Ok(Answer { access_token, refresh_token, expires_in, extra })
            }
        }

        deserializer.deserialize_map(AnswerVisitor)
    }
}

/// A JSON value: the text of a string, `None` for `null`, or the JSON of any other value.
struct Text(Option<SecretString>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Box<RawValue> = Deserialize::deserialize(deserializer)?;
        let text = (raw.get() != "null").then(|| {
            json::secret(&raw).unwrap_or_else(|| SecretString::from(Box::<str>::from(raw.get())))
        });
        Box::<str>::from(raw).zeroize();
        Ok(Self(text))
    }
}

/// Reads a lifetime. Some providers send it as a string or with a fraction.
fn seconds(text: &str) -> Option<TimeDelta> {
    let whole = text.split('.').next().unwrap_or(text);
    whole.parse::<u32>().ok().map(|seconds| TimeDelta::seconds(seconds.into()))
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
            (r#""expires_in":-1"#, None),
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
    fn an_answer_without_a_refresh_token_has_none() {
        for json in [
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"a","refresh_token":null}"#,
            r#"{"access_token":"a","refresh_token":""}"#,
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
}
