//! rclone: the tokens in the sections of `rclone.conf`, each as `token = {…}`, a token of Go, and the same sections
//! as JSON.
//!
//! Sources: <https://rclone.org/docs/#config-file>, <https://rclone.org/commands/rclone_config_dump/>. The
//! passwords in it are only obscured, so they are no business of this mapping: only [`READ`] is read.

use secrecy::{ExposeSecret, SecretString};

use super::fields::{Fields, Reason, Trail};
use super::text::{Content, Document};
use super::{Account, Fate, Format, Options, Read, Shape, golang};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Rclone,
    name: "rclone",
    program: "rclone",
    fits: |document| {
        let has_token = |it: &Section| it.value("token").is_some_and(|it| it.starts_with('{'));
        is_encrypted(document) || sections(document).iter().any(has_token)
    },
    read,
    sign_out: "`rclone config disconnect REMOTE:`",
};

/// The values of a section that are read.
const READ: [(&str, Fate); 4] = [
    ("client_id", Fate::Provider),
    ("client_secret", Fate::ClientSecret),
    ("token", Fate::Within),
    ("token_url", Fate::Provider),
];

/// The line above an encrypted configuration (<https://github.com/rclone/rclone>, `fs/config/crypt.go`).
const ENCRYPTED: &str = "RCLONE_ENCRYPT_V";

struct Section {
    name: String,
    values: Vec<(&'static str, SecretString)>,
}

impl Section {
    fn add(&mut self, name: &str, value: Option<SecretString>) {
        if let Some((&name, value)) =
            READ.iter().find(|it| it.0 == name).map(|(name, _)| name).zip(value)
        {
            self.values.push((name, value));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "reads a token, and a client that is no secret")]
    fn value(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value.expose_secret())
            .filter(|value| !value.is_empty())
    }

    /// Returns whether somebody has signed in.
    fn has_tokens(&self, token: &str) -> bool {
        let fields = Fields::of(token.as_bytes(), "", &Trail::default());
        fields.is_ok_and(|it| it.has_text("access_token") || it.has_text("refresh_token"))
            || token.starts_with('{')
                && serde_json::from_str::<serde::de::IgnoredAny>(token).is_err()
    }

    fn account(&self, token: &str, trail: &Trail) -> Result<Account, Reason> {
        let path = format!("{}.token.", self.name);
        let fields = Fields::of(token.as_bytes(), &path, trail)?;
        let mut account = golang::account(&self.name, &fields)?;
        for (name, fate) in READ {
            if fate != Fate::Within && self.value(name).is_some() {
                let name = format!("{}.{name}", self.name);
                trail.note(name, fate);
            }
        }
        account.provider.client_id = self.value("client_id").map(str::to_owned);
        account.provider.token_url = self.value("token_url").map(str::to_owned);
        if let Some(secret) = self.value("client_secret") {
            account.tokens = account.tokens.with_client_secret(secret.into());
        }
        Ok(account)
    }
}

fn is_encrypted(document: &Document<'_>) -> bool {
    matches!(document.content, Content::Other(text)
        if text.lines().any(|line| line.starts_with(ENCRYPTED)))
}

fn sections(document: &Document<'_>) -> Vec<Section> {
    match &document.content {
        Content::Object(fields) => dumped(fields).unwrap_or_default(),
        Content::Array(_) => Vec::new(),
        Content::Other(text) => configured(text),
    }
}

/// Returns the sections of `rclone.conf`.
fn configured(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            sections.push(Section { name: name.to_owned(), values: Vec::new() });
        } else if let (Some(section), Some((name, value))) =
            (sections.last_mut(), line.split_once('='))
        {
            section.add(name.trim(), Some(value.trim().into()));
        }
    }
    sections
}

/// Returns the sections that `rclone config dump` prints. Each has a type.
fn dumped(fields: &Fields<'_>) -> Result<Vec<Section>, Reason> {
    let names: Vec<_> = fields.names().map(str::to_owned).collect();
    let section = |name: String| {
        let values = fields.object(&name)?.filter(|it| it.has("type"));
        let values = values.ok_or("a section has no type")?;
        let mut section = Section { name, values: Vec::new() };
        for (name, _) in READ {
            section.add(name, values.text(name, Fate::Within)?);
        }
        Ok(section)
    };
    names.into_iter().map(section).collect()
}

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    if is_encrypted(document) {
        return Err("it is encrypted; `rclone config dump` prints what is in it, and that can be \
                    imported"
            .into());
    }
    let mut accounts = Vec::new();
    for section in sections(document) {
        if let Some(token) = section.value("token")
            && section.has_tokens(token)
        {
            let within = |reason| format!("in the token of its section {}: {reason}", section.name);
            accounts.push(section.account(token, &document.trail).map_err(within)?);
        }
    }
    // The sections have settings of rclone besides.
    Ok(Read { accounts, has_more: true })
}
