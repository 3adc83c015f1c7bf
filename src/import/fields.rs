//! The fields of another program's JSON, and which of them were taken over.

use std::cell::RefCell;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;

use super::time::{self, Time};
use crate::tokens::json;
use crate::tokens::{AuthTokens, RefreshToken};

/// Why a file cannot be taken over. It names a field and quotes no value.
pub(super) type Reason = String;

/// An object, and which of its fields were read.
pub(super) struct Fields<'a> {
    fields: json::Fields<'a>,
    taken: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(json: &'a [u8]) -> Result<Self, Reason> {
        Ok(Self { fields: json::object(json)?, taken: RefCell::default() })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Returns whether a field is an object.
    pub(super) fn has_object(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value.get().starts_with('{'))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }

    /// Returns the value of a field, and counts it as taken over. `null` is no value.
    pub(super) fn take(&self, name: &str) -> Option<&'a RawValue> {
        let value = self.raw(name)?;
        self.taken.borrow_mut().insert(name.to_owned());
        Some(value).filter(|value| value.get() != "null")
    }

    /// Takes a text. An empty one is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<SecretString>, Reason> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let text = json::secret(value).ok_or_else(|| format!("its {name} is not a text"))?;
        #[expect(clippy::disallowed_methods, reason = "looks at the length only")]
        let is_empty = text.expose_secret().trim().is_empty();
        Ok((!is_empty).then_some(text))
    }

    /// Takes a text that is no secret, such as a URL or a client's id.
    pub(super) fn plain(&self, name: &str) -> Result<Option<String>, Reason> {
        #[expect(clippy::disallowed_methods, reason = "of fields that hold no secrets")]
        Ok(self.text(name)?.map(|text| text.expose_secret().to_owned()))
    }

    /// Takes a time. A value that stands for "unknown" is none.
    pub(super) fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Reason> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match time::read(value) {
            Some(Time::At(at)) => Ok(Some(at)),
            Some(Time::Unknown) => Ok(None),
            None => Err(format!("its {name} is not a time in any form that is known")),
        }
    }

    /// Takes a number of seconds.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<i64>, Reason> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let text = value.get().trim_matches('"').trim();
        let seconds: f64 =
            text.parse().map_err(|_| format!("its {name} is not a number of seconds"))?;
        Ok(Some(seconds as i64))
    }

    /// Takes an object.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Reason> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let within = |reason| format!("in its {name}: {reason}");
        Fields::of(value.get().as_bytes()).map(Some).map_err(within)
    }

    /// Returns the fields that were not taken over.
    pub(super) fn left(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        let taken = self.taken.borrow().clone();
        self.fields
            .iter()
            .filter(move |(name, _)| !taken.contains(name.as_ref()))
            .map(|(name, value)| (name.as_ref(), *value))
    }

    /// Makes tokens of the fields with these names. Needs an access token or a refresh token.
    pub(super) fn tokens(
        &self,
        access: &str,
        refresh: &str,
        expiry: &str,
    ) -> Result<AuthTokens, Reason> {
        let refresh_token = self.text(refresh)?.map(RefreshToken::from);
        let mut tokens = match (self.text(access)?, &refresh_token) {
            (Some(token), _) => AuthTokens::new(token),
            (None, Some(_)) => AuthTokens::new(""),
            (None, None) => return Err(format!("it has neither {access} nor {refresh}")),
        };
        tokens.refresh_token = refresh_token;
        tokens.expires_at = self.time(expiry)?;
        Ok(tokens)
    }

    /// Adds the fields that were not taken over, each with its type. `null` says nothing.
    pub(super) fn rest(&self, tokens: AuthTokens) -> AuthTokens {
        self.left().filter(|(_, value)| value.get() != "null").fold(
            tokens,
            |tokens, (name, value)| match json::secret(value) {
                Some(text) => tokens.with_extra(name, text),
                None => tokens.with_json_extra(name, Box::<str>::from(value.get()).into()),
            },
        )
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(field, _)| field == name).map(|&(_, value)| value)
    }
}
