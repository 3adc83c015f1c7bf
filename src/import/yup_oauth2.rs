//! yup-oauth2: one entry for each set of scopes.
//!
//! Source: <https://docs.rs/yup-oauth2/latest/yup_oauth2/storage/>. Since version 7, `expires_at` is an array of
//! the `time` crate.

use super::fields::{Fields, Reason};
use super::text::{Content, Document};
use super::{Account, Fate, Format, Options, Read, Shape};
use serde_json::value::RawValue;

pub(super) const SHAPE: Shape = Shape {
    format: Format::YupOauth2,
    name: "yup-oauth2",
    program: "a program in Rust (yup-oauth2)",
    fits: |document| entries(document).is_ok_and(|entries| !entries.is_empty()),
    read,
    sign_out: "delete its token file, so that it signs in anew",
};

fn entries<'a>(document: &Document<'a>) -> Result<Vec<Fields<'a>>, Reason> {
    let Content::Array(json) = &document.content else {
        return Err("it is not a JSON array".into());
    };
    let values: Vec<&'a RawValue> =
        serde_json::from_str(json).map_err(|_| "it is not a JSON array".to_owned())?;
    let entry = |(index, value): (usize, &&'a RawValue)| {
        Fields::of(value.get().as_bytes(), &format!("{index}."), &document.trail)
    };
    let entries: Vec<_> = values.iter().enumerate().map(entry).collect::<Result<_, _>>()?;
    if entries.iter().all(|entry| entry.has("scopes") && entry.has_object("token")) {
        Ok(entries)
    } else {
        Err("its entries have no scopes and token".into())
    }
}

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let mut accounts = Vec::new();
    for entry in entries(document)? {
        let fields = entry.object("token")?.ok_or("an entry has no token")?;
        let mut tokens = fields.tokens("access_token", "refresh_token")?;
        tokens.expires_at = fields.time("expires_at", Fate::Expiry)?;
        let tokens = fields.rest(tokens, None)?;
        let scopes = entry.take("scopes", Fate::Extra).map(RawValue::get).unwrap_or_default();
        let scopes: Vec<String> =
            serde_json::from_str(scopes).map_err(|_| "its scopes are not a list of texts")?;
        let scopes = scopes.join(" ");
        let tokens = tokens.with_extra("scope", scopes.as_str().into());
        accounts.push(Account::new(scopes, entry.rest(tokens, None)?));
    }
    Ok(Read { accounts, has_more: false })
}
