//! The answer of a token endpoint.

#[cfg(test)]
mod tests;

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
    /// It is empty if there is only a refresh token that can be used.
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
    /// Returns whether there is an access token in a body. No copy of it stays.
    pub(super) fn is_in(body: &[u8]) -> bool {
        Self::tokens_in(body).is_some_and(|tokens| tokens.has_access_token())
    }

    /// Returns whether there is a token of any kind in a body. No copy of it stays.
    pub(super) fn is_partly_in(body: &[u8]) -> bool {
        Self::tokens_in(body).is_some()
    }

    fn tokens_in(body: &[u8]) -> Option<AuthTokens> {
        // The fields of the `oauth2` crate are not wiped on drop, and those of `AuthTokens` are.
        let answer = serde_json::from_slice::<Self>(body).ok()?;
        Some(answer.into_tokens(SystemTime::UNIX_EPOCH))
    }

    /// Returns the tokens of an answer to a request that was sent at this time.
    ///
    /// The lifetime counts from `sent`, so a slow answer never makes a token seem to live longer than it
    /// does. Without an access token, the refresh token is alone.
    pub(super) fn into_tokens(self, sent: SystemTime) -> AuthTokens {
        let sent = clock::date(sent);
        let mut tokens = AuthTokens::new(self.access_token.into_secret()).with_obtained_at(sent);
        tokens.refresh_token = self.refresh_token.map(|token| token.into_secret().into());
        // A lifetime that overflows is ignored.
        let lifetime = self.expires_in.map(|time| time.max(TimeDelta::zero()));
        let by_lifetime = lifetime.and_then(|time| sent.checked_add_signed(time));
        tokens.expires_at = by_lifetime
            .or(self.expires_on.map(|at| at.max(sent)))
            .filter(|_| tokens.has_access_token());
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
        fields.into_answer().ok_or_else(|| de::Error::custom("no tokens that can be used"))
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
    fn add(&mut self, name: String, value: Value) {
        match name.as_str() {
            "access_token" => self.access_token.set(value),
            "refresh_token" => self.refresh_token.set(value),
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
    }

    /// Returns the tokens, or `None` if there are none. A refresh token that can be read counts although the access
    /// token beside it cannot be: it is the only copy.
    fn into_answer(mut self) -> Option<Answer> {
        for name in INNER {
            self.take_inner(name);
        }
        // Nobody knows which of two refresh tokens is the good one.
        if self.refresh_token.is_doubtful
            || self.access_token.text.is_none() && self.refresh_token.text.is_none()
        {
            return None;
        }
        Some(Answer {
            access_token: oauth2::AccessToken::new(
                self.access_token.text.take().unwrap_or_default(),
            ),
            refresh_token: self.refresh_token.text.take().map(oauth2::RefreshToken::new),
            expires_in: self.expires_in,
            expires_on: self.expires_on,
            refresh_expiry: self.refresh_expiry,
            extra: self.extra,
        })
    }

    /// Takes the tokens of an inner object, if they belong together with those outside: there is no access token
    /// outside, or only the refresh token is inside and none is outside.
    fn take_inner(&mut self, name: &str) {
        let Some(text) = self.extra.get(name).and_then(|value| value.text.as_ref()) else { return };
        #[expect(clippy::disallowed_methods, reason = "tokens are read from it")]
        let inner = serde_json::from_str::<Self>(text.expose_secret());
        let Ok(mut inner) = inner else { return };
        let belongs = match (&self.access_token.text, &inner.access_token.text) {
            _ if inner.refresh_token.is_doubtful => false,
            (None, Some(_)) => true,
            (_, None) => self.refresh_token.text.is_none() && inner.refresh_token.text.is_some(),
            (Some(_), Some(_)) => false,
        };
        if !belongs {
            return;
        }
        // The tokens are kept once.
        self.extra.remove(name);
        if inner.access_token.text.is_some() {
            self.access_token = std::mem::take(&mut inner.access_token);
            self.expires_in = inner.expires_in.or(self.expires_in);
            self.expires_on = inner.expires_on.or(self.expires_on);
        }
        if inner.refresh_token.text.is_some() {
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
                    fields.add(name, value);
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
struct Token {
    text: Option<String>,
    /// Whether there were two different ones, so that neither counts: programs differ in which of them they use.
    is_doubtful: bool,
}

impl Token {
    fn set(&mut self, value: Value) {
        let Some(text) = value.text.filter(|_| value.is_string) else { return };
        #[expect(clippy::disallowed_methods, reason = "handed on, and wiped here")]
        let text = text.expose_secret().trim();
        if !is_token(text) {
            return;
        }
        self.is_doubtful |= self.text.as_ref().is_some_and(|known| known != text);
        self.text.zeroize();
        self.text = (!self.is_doubtful).then(|| text.to_owned());
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
        self.text.zeroize();
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
