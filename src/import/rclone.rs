//! rclone: `token = {…}` in the sections of `rclone.conf`, each a token of Go.
//!
//! Source: <https://rclone.org/docs/#config-file>. The passwords in it are only obscured, so they are no
//! business of this mapping: only `token`, `client_id`, `client_secret` and `token_url` are read.

use super::fields::{Fields, Reason};
use super::text::{Content, Document};
use super::{Fate, Field, Format, Options, Read, Shape, golang};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Rclone,
    name: "rclone",
    program: "rclone",
    fits: |document| {
        sections(document)
            .iter()
            .any(|section| section.value("token").is_some_and(|token| token.starts_with('{')))
    },
    read,
    sign_out: "`rclone config disconnect REMOTE:`",
};

struct Section<'a> {
    name: &'a str,
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Section<'a> {
    fn value(&self, name: &str) -> Option<&'a str> {
        self.lines.iter().find(|(other, _)| *other == name).map(|&(_, value)| value)
    }
}

fn sections<'a>(document: &Document<'a>) -> Vec<Section<'a>> {
    let Content::Other(text) = &document.content else { return Vec::new() };
    let mut sections: Vec<Section<'a>> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            sections.push(Section { name, lines: Vec::new() });
        } else if let (Some(section), Some((name, value))) =
            (sections.last_mut(), line.split_once('='))
        {
            section.lines.push((name.trim(), value.trim()));
        }
    }
    sections
}

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let mut accounts = Vec::new();
    for section in sections(document) {
        let Some(token) = section.value("token").filter(|token| token.starts_with('{')) else {
            continue;
        };
        let within = |reason| format!("in the token of its section {}: {reason}", section.name);
        let path = format!("{}.token.", section.name);
        let fields = Fields::of(token.as_bytes(), &path, &document.trail).map_err(within)?;
        let mut account = golang::account(section.name, &fields).map_err(within)?;
        let set = |name, fate| {
            let value = section.value(name).filter(|value| !value.is_empty())?;
            let name = format!("{}.{name}", section.name);
            document.trail.borrow_mut().push(Field { name, fate });
            Some(value)
        };
        account.provider.client_id = set("client_id", Fate::Provider).map(str::to_owned);
        account.provider.token_url = set("token_url", Fate::Provider).map(str::to_owned);
        if let Some(secret) = set("client_secret", Fate::ClientSecret) {
            account.tokens = account.tokens.with_client_secret(Box::<str>::from(secret).into());
        }
        accounts.push(account);
    }
    // The sections have settings of rclone besides.
    Ok(Read { accounts, has_more: true })
}
