//! The text of a profile: what it says, and how it is changed.

use std::path::PathBuf;

use tokenkeep::StoreUrl;
use tokenkeep::oauth2::ProviderMetadata;
use toml::de::{DeTable, DeValue};

use super::Profile;
use crate::failure::Failure;
use crate::provider::Provider;

const MOVING_TO: &str = "moving_to";
const BYTE_ORDER_MARK: char = '\u{feff}';

impl Profile {
    /// Reads the text. No error repeats any of it: a user may have put a secret there.
    pub(crate) fn parse(name: &str, path: PathBuf, text: String) -> Result<Self, Failure> {
        Self::parse_with(name, path, text, None)
    }

    /// Reads the text, with the metadata of the issuer that it names.
    pub(super) fn parse_with(
        name: &str,
        path: PathBuf,
        text: String,
        mut metadata: Option<ProviderMetadata>,
    ) -> Result<Self, Failure> {
        let wrong = |position: usize, what: &str| {
            let line = text[..position.min(text.len())].lines().count().max(1);
            let message = format!("{}, line {line}: {what}", path.display());
            Failure::usage(message)
        };
        let (mut store, mut moving_to, mut move_span, mut provider) = (None, None, None, None);
        {
            let table = DeTable::parse(&text).map_err(|error| {
                let what = match error.message() {
                    "duplicate key" => "this stands here twice",
                    _ => "this is not TOML",
                };
                wrong(error.span().map_or(0, |span| span.end), what)
            })?;
            for (key, value) in table.get_ref() {
                let at = key.span().end;
                match (key.get_ref().as_ref(), value.get_ref()) {
                    ("store", DeValue::String(url)) => {
                        let url = StoreUrl::parse_absolute(url);
                        let url = url.map_err(|error| wrong(at, &error.to_string()))?;
                        if url.import().is_some() {
                            return Err(wrong(
                                at,
                                "import: is only a source for `tokenkeep migrate`",
                            ));
                        }
                        store = Some((url, value.span()));
                    }
                    (MOVING_TO, DeValue::String(url)) => {
                        let url = StoreUrl::parse_absolute(url);
                        moving_to = Some(url.map_err(|error| wrong(at, &error.to_string()))?);
                        let line_end = ["\n", "\r\n"]
                            .into_iter()
                            .find(|end| text[value.span().end..].starts_with(end));
                        let end = value.span().end + line_end.map_or(0, str::len);
                        move_span = Some(key.span().start..end);
                    }
                    ("oauth2", DeValue::Table(oauth2)) => {
                        let parsed = Provider::parse(oauth2, at, metadata.take());
                        provider = Some(parsed.map_err(|error| wrong(error.at, &error.what))?);
                    }
                    ("store" | "oauth2" | MOVING_TO, _) => {
                        return Err(wrong(at, "this setting has a value of the wrong type"));
                    }
                    _ => {
                        return Err(wrong(at, "unknown setting; a profile has store and [oauth2]"));
                    }
                }
            }
        }
        let Some((store, store_span)) = store else {
            return Err(wrong(0, "there is no `store`"));
        };
        let name = name.to_owned();
        Ok(Self { name, path, store, moving_to, provider, text, store_span, move_span })
    }

    /// Returns the text with another store and without a recorded move.
    pub(crate) fn with_store(&self, store: &StoreUrl) -> String {
        self.edited(Some(store))
    }

    /// Returns the text with a recorded move.
    pub(crate) fn with_move(&self, to: &StoreUrl) -> String {
        let mut text = self.without_move();
        // It must stand before any table, and after the byte order mark that some editors
        // add.
        let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
        text.insert_str(start, &format!("{MOVING_TO} = {}\n", quoted(&to.to_text())));
        text
    }

    /// Returns the text without a recorded move.
    pub(crate) fn without_move(&self) -> String {
        self.edited(None)
    }

    /// Returns the text without a recorded move, and with another store if one is given.
    fn edited(&self, store: Option<&StoreUrl>) -> String {
        let store = store.map(|store| (self.store_span.clone(), quoted(&store.to_text())));
        let recorded = self.move_span.clone().map(|span| (span, String::new()));
        let mut edits: Vec<_> = store.into_iter().chain(recorded).collect();
        // Edits from the end, so that earlier positions stay valid.
        edits.sort_unstable_by_key(|(span, _)| std::cmp::Reverse(span.start));
        edits.into_iter().fold(self.text.clone(), |mut text, (span, new)| {
            text.replace_range(span, &new);
            text
        })
    }
}

/// Returns the line of a profile that names a store.
pub(crate) fn line(store: &StoreUrl) -> String {
    format!("store = {}", quoted(&store.to_text()))
}

/// Returns the text as a TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted += &format!("\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
