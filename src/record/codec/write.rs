//! Writes a record as JSON, and counts how long it is.

use std::collections::BTreeMap;
use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::{PLAIN, WITH_STATE};
use crate::record::RefreshState;
use crate::tokens::{AuthTokens, RefreshToken};

pub(super) fn write(tokens: &AuthTokens, refresh: &RefreshState, to: impl io::Write) {
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

pub(super) struct State<'a>(pub(super) &'a RefreshState);

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
pub(in crate::record) fn length(tokens: &AuthTokens) -> usize {
    let mut length = Length(0);
    write(tokens, &RefreshState::default(), &mut length);
    length.0
}

/// Returns how much longer a record is with this other field.
pub(in crate::record) fn length_of_extra(name: &str, value: &SecretString, is_json: bool) -> usize {
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
pub(super) struct Length(pub(super) usize);

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
