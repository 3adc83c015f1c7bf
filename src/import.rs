//! Tokens in the files and keychain items of other programs.
//! This module needs the feature `import`: `cargo add tokenkeep --features import`.
//!
//! Each form is a pure mapping in a file of its own. Nothing is ever written in a foreign form.

mod aws_sso;
mod claude_code;
mod codex;
mod docker;
mod fields;
mod gh;
mod golang;
mod google;
mod google_auth_library;
mod kubelogin;
mod msal;
mod rclone;
mod rmcp;
#[cfg(test)]
mod tests;
mod text;
mod token_response;
mod yup_oauth2;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};

use self::fields::Reason;
use self::text::Document;
use crate::tokens::AuthTokens;

/// What a file or a keychain item of another program holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Source {
    /// The program, or the library that it uses.
    pub format: Format,
    /// The accounts in it. There is at least one.
    pub accounts: Vec<Account>,
    /// What becomes of each field, in the order in which they were read.
    pub fields: Vec<Field>,
    /// Whether it holds nothing else, so that nothing is lost if it is deleted: one account, and only fields of
    /// tokens.
    pub is_only_tokens: bool,
}

/// A field of a file, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Where it stands, such as `tokens.access_token`.
    pub name: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is the access token.
    AccessToken,
    /// It is the refresh token.
    RefreshToken,
    /// It says when the access token expires.
    Expiry,
    /// It says when the refresh token expires.
    RefreshExpiry,
    /// It says when the tokens were obtained.
    Obtained,
    /// It is the secret of the client, which is sealed with the tokens.
    ClientSecret,
    /// It names the provider, or the client that is registered there.
    Provider,
    /// It names the account.
    Account,
    /// It is another field of the tokens, and kept with its type.
    Extra,
    /// It is not about tokens. It is kept with its type, and the file stays too.
    Other,
    /// It says nothing: it is `null`, or stands for "unknown", as 0 does for a time.
    Unknown,
    /// It stays in the file, and is not taken over.
    Left,
    /// It is an object, whose fields follow.
    Within,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccessToken => "access token",
            Self::RefreshToken => "refresh token",
            Self::Expiry => "expiry of the access token",
            Self::RefreshExpiry => "expiry of the refresh token",
            Self::Obtained => "when the tokens were obtained",
            Self::ClientSecret => "secret of the client, sealed with the tokens",
            Self::Provider => "provider of the profile",
            Self::Account => "name of the account",
            Self::Extra => "field of the tokens",
            Self::Other => "kept with the tokens",
            Self::Unknown => "nothing, as its value stands for unknown",
            Self::Left => "stays in the file",
            Self::Within => "its fields",
        })
    }
}

/// The tokens of one account.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Account {
    /// What the file calls it: a user, a host, a server. It is no secret.
    pub name: String,
    /// Its tokens. What is not about tokens is in their extra fields.
    pub tokens: AuthTokens,
    /// The provider that refreshes them, as far as the file names it.
    pub provider: Provider,
}

/// The provider that refreshes tokens, and the client that is registered there. The client's secret is in the
/// tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provider {
    /// The URL of the token endpoint.
    pub token_url: Option<String>,
    /// The id of the client.
    pub client_id: Option<String>,
    /// The issuer, from which the endpoints can be found.
    pub issuer: Option<String>,
}

impl Account {
    fn new(name: impl Into<String>, tokens: AuthTokens) -> Self {
        Self { name: name.into(), tokens, provider: Provider::default() }
    }
}

/// A form that other programs keep tokens in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// AWS IAM Identity Center: the JSON files in `~/.aws/sso/cache`.
    AwsSso,
    /// Claude Code: `~/.claude/.credentials.json`.
    ClaudeCode,
    /// Codex: `~/.codex/auth.json`, and its MCP servers in `.credentials.json`.
    Codex,
    /// Docker: `~/.docker/config.json`.
    Docker,
    /// The command of GitHub: `~/.config/gh/hosts.yml`, and the keychain items `gh:HOST`.
    Gh,
    /// Programs in Go that use `golang.org/x/oauth2`: `token.json`.
    Golang,
    /// google-auth and gcloud: `application_default_credentials.json`.
    Google,
    /// Programs in JavaScript that use google-auth-library or googleapis: `token.json`.
    GoogleAuthLibrary,
    /// kubelogin: the files in `~/.kube/cache/oidc-login`.
    Kubelogin,
    /// MSAL of Microsoft: `msal_token_cache.json`.
    Msal,
    /// rclone: `rclone.conf`, and what `rclone config dump` prints.
    Rclone,
    /// Clients of MCP servers in Rust that use rmcp.
    Rmcp,
    /// The answer of a token endpoint (RFC 6749, 5.1), as spotipy, requests-oauthlib and others keep it.
    TokenResponse,
    /// yup-oauth2: `tokencache.json`.
    YupOauth2,
}

/// What is known about a text besides its content.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Its form, if it is not to be told by the content.
    pub format: Option<Format>,
    /// When the tokens were obtained, if the text itself does not say it. A lifetime such as `expires_in` counts
    /// from then.
    pub obtained_at: Option<DateTime<Utc>>,
}

/// One form: how it is recognised and read.
struct Shape {
    format: Format,
    /// Its name in `import:FORMAT:PATH`.
    name: &'static str,
    /// The program, in words for people.
    program: &'static str,
    fits: fn(&Document<'_>) -> bool,
    read: fn(&Document<'_>, &Options) -> Result<Read, Reason>,
    /// How one signs out in the other program.
    sign_out: &'static str,
}

/// What a mapping found.
struct Read {
    accounts: Vec<Account>,
    /// Whether the file holds something that is not about the tokens of these accounts.
    has_more: bool,
}

/// All forms. A form that others contain stands behind them.
const SHAPES: [&Shape; 14] = [
    &codex::SHAPE,
    &claude_code::SHAPE,
    &aws_sso::SHAPE,
    &msal::SHAPE,
    &docker::SHAPE,
    &yup_oauth2::SHAPE,
    &google::SHAPE,
    &google_auth_library::SHAPE,
    &rmcp::SHAPE,
    &kubelogin::SHAPE,
    &golang::SHAPE,
    &token_response::SHAPE,
    &rclone::SHAPE,
    &gh::SHAPE,
];

impl Format {
    /// Returns the name in `import:FORMAT:PATH`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.shape().name
    }

    /// Returns the form of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        SHAPES.iter().find(|shape| shape.name == name).map(|shape| shape.format)
    }

    /// Returns the program that keeps tokens in this form, in words for people.
    #[must_use]
    pub fn program(self) -> &'static str {
        self.shape().program
    }

    /// Returns how one signs out in that program, in words for people.
    #[must_use]
    pub fn sign_out(self) -> &'static str {
        self.shape().sign_out
    }

    /// Returns all forms.
    pub fn all() -> impl Iterator<Item = Self> {
        SHAPES.iter().map(|shape| shape.format)
    }

    fn shape(self) -> &'static Shape {
        SHAPES.iter().find(|shape| shape.format == self).expect("each form has its shape")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the form of a text, told by its content.
#[must_use]
pub fn recognize(bytes: &[u8]) -> Option<Format> {
    let text = text::decoded(bytes)?;
    let document = Document::of(&text, None);
    if document.is_ours() {
        return None;
    }
    SHAPES.iter().find(|shape| (shape.fits)(&document)).map(|shape| shape.format)
}

/// A text cannot be taken over. The reason names a field, and quotes nothing of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidSource {
    reason: String,
}

impl Source {
    /// Reads a text in the form that the options name, or in the form that [`recognize`] tells.
    ///
    /// # Errors
    ///
    /// What is wrong, and in which field.
    ///
    /// # Security
    ///
    /// The caller's bytes are the caller's to wipe.
    pub fn parse(bytes: &[u8], options: &Options) -> Result<Self, InvalidSource> {
        parse(bytes, options).map_err(|reason| InvalidSource { reason })
    }

    /// Returns the account of this name. Without a name, returns the only one.
    #[must_use]
    pub fn account(&self, name: Option<&str>) -> Option<&Account> {
        match name {
            Some(name) => self.accounts.iter().find(|account| account.name == name),
            None => self.accounts.first().filter(|_| self.accounts.len() == 1),
        }
    }
}

/// The most accounts of one source. Each can become a profile.
const MOST_ACCOUNTS: usize = 1000;

fn parse(bytes: &[u8], options: &Options) -> Result<Source, Reason> {
    let text = text::decoded(bytes).ok_or("it is neither UTF-8 nor UTF-16 text")?;
    let recognized = {
        let document = Document::of(&text, None);
        match options.format {
            Some(format) => Some(format.shape()).filter(|shape| (shape.fits)(&document)),
            None => SHAPES.iter().copied().find(|shape| (shape.fits)(&document)),
        }
    };
    if Document::of(&text, None).is_ours() {
        return Err(
            "it is a record of tokenkeep; move it with `tokenkeep migrate --from plaintext:PATH`"
                .into(),
        );
    }
    let shape = recognized.ok_or_else(|| match options.format {
        Some(format) => format!("it is not a file of {}", format.program()),
        None => "it has none of the forms that can be imported".into(),
    })?;
    // What becomes of a field is noted when it is read, and recognising reads some too.
    let document = Document::of(&text, options.obtained_at);
    let Read { mut accounts, has_more } = (shape.read)(&document, options)?;
    if accounts.is_empty() {
        return Err("it holds no tokens".into());
    }
    if accounts.len() > MOST_ACCOUNTS {
        return Err(format!("it holds more than {MOST_ACCOUNTS} accounts"));
    }
    if let Some(fields) = document.object() {
        fields.leave_rest();
    }
    tell_apart(&mut accounts);
    let mut fields = document.trail.take();
    let is_more = |field: &Field| matches!(field.fate, Fate::Left | Fate::Other);
    let is_only_tokens = accounts.len() == 1 && !has_more && !fields.iter().any(is_more);
    fields.retain(|field| field.fate != Fate::Within);
    Ok(Source { format: shape.format, accounts, fields, is_only_tokens })
}

/// Gives each account a name of its own.
fn tell_apart(accounts: &mut [Account]) {
    let mut names: BTreeSet<String> = accounts.iter().map(|account| account.name.clone()).collect();
    let mut counts = BTreeMap::new();
    for account in accounts {
        let count = counts.entry(account.name.clone()).or_insert(0);
        *count += 1;
        while *count > 1 {
            let name = format!("{} {count}", account.name);
            if names.insert(name.clone()) {
                account.name = name;
                break;
            }
            *count += 1;
        }
    }
}
