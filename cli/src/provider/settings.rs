//! The `[oauth2]` table of a profile: names, values, and where they stand.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

const SETTINGS: [&str; 27] = [
    "audience",
    "authorization_url",
    "authorize_parameters",
    "client_assertion_algorithm",
    "client_assertion_audience",
    "client_assertion_key",
    "client_assertion_key_id",
    "client_certificate",
    "client_certificate_key",
    "client_id",
    "client_secret",
    "client_secret_env",
    "client_secret_in_body",
    "device_authorization_url",
    "device_parameters",
    "expires_after",
    "grant_type",
    "issuer",
    "proxy",
    "redirect_port",
    "redirect_uri",
    "refresh_scopes",
    "resource",
    "revocation_url",
    "scopes",
    "token_parameters",
    "token_url",
];

/// A fault in the text, and its position. It repeats nothing of the text.
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) what: String,
}

/// The values by the names of their settings, each with its position, and the position of the
/// table.
pub(super) struct Settings<'a> {
    values: BTreeMap<&'a str, (usize, &'a DeValue<'a>)>,
    at: usize,
}

impl<'a> Settings<'a> {
    /// Reads the table that begins at this position.
    pub(super) fn of(table: &'a DeTable<'a>, at_all: usize) -> Result<Self, Wrong> {
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let at = key.span().end;
            let name = key.get_ref().as_ref();
            if !SETTINGS.contains(&name) {
                let what = format!("unknown setting; oauth2 has {}", SETTINGS.join(", "));
                return Err(Wrong { at, what });
            }
            values.insert(name, (at, value.get_ref()));
        }
        Ok(Self { values, at: at_all })
    }

    pub(super) fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(&(at, value)) = self.values.get(name) else { return Ok(None) };
        let what = "this setting has a value of the wrong type";
        read(value).map(Some).ok_or_else(|| Wrong { at, what: what.to_owned() })
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Wrong> {
        self.get(name, DeValue::as_str)
    }

    /// Returns a list of texts. It is empty if the setting is not there.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&'a str>, Wrong> {
        Ok(self.get(name, texts)?.unwrap_or_default())
    }

    /// Returns a list of texts, also if the setting is one text.
    pub(super) fn text_or_texts(&self, name: &str) -> Result<Vec<&'a str>, Wrong> {
        let read = |value: &'a DeValue<'a>| match value.as_str() {
            Some(text) => Some(vec![text]),
            None => texts(value),
        };
        Ok(self.get(name, read)?.unwrap_or_default())
    }

    /// Returns the names and values of an inner table. A list is several values of one name.
    pub(super) fn pairs(&self, name: &str) -> Result<Vec<(&'a str, &'a str)>, Wrong> {
        let Some(table) = self.get(name, DeValue::as_table)? else { return Ok(Vec::new()) };
        let mut pairs = Vec::new();
        for (key, value) in table {
            let values = match value.get_ref().as_array() {
                Some(values) => values.iter().map(|value| scalar(value.get_ref())).collect(),
                None => scalar(value.get_ref()).map(|value| vec![value]),
            };
            let values = values.ok_or_else(|| Wrong {
                at: key.span().end,
                what: "a parameter is a text, a number, true, false, or a list of these".to_owned(),
            })?;
            pairs.extend(values.into_iter().map(|value| (key.get_ref().as_ref(), value)));
        }
        Ok(pairs)
    }

    /// Returns a fault of the whole table.
    pub(super) fn wrong(&self, what: &str) -> Wrong {
        Wrong { at: self.at, what: what.to_owned() }
    }

    /// Returns a fault of one setting, or of the whole table if it is not there.
    pub(super) fn wrong_at(&self, name: &str, what: impl Into<String>) -> Wrong {
        Wrong { at: self.values.get(name).map_or(self.at, |&(at, _)| at), what: what.into() }
    }
}

fn texts<'a>(value: &'a DeValue<'a>) -> Option<Vec<&'a str>> {
    value.as_array()?.iter().map(|value: &Spanned<DeValue<'a>>| value.get_ref().as_str()).collect()
}

/// Returns a value as the text that is sent.
fn scalar<'a>(value: &'a DeValue<'a>) -> Option<&'a str> {
    match value {
        DeValue::String(text) => Some(text),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
        DeValue::Boolean(true) => Some("true"),
        DeValue::Boolean(false) => Some("false"),
        _ => None,
    }
}
