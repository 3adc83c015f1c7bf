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
mod kubelogin;
mod msal;
mod rclone;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod token_response;
mod yup_oauth2;

use std::fmt;

use chrono::{DateTime, Utc};

use self::fields::Reason;
use self::text::Document;
use crate::tokens::AuthTokens;

/// What a file of another program holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Import {
    /// The program, or the library that it uses.
    pub format: Format,
    /// The accounts in it. There is at least one.
    pub accounts: Vec<Account>,
    /// Whether it holds nothing else, so that nothing is lost if it is deleted: one account, and only fields of
    /// tokens.
    pub is_only_tokens: bool,
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
    /// AWS IAM Identity Center: `~/.aws/sso/cache/*.json`.
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
    /// kubelogin: `~/.kube/cache/oidc-login/*`.
    Kubelogin,
    /// MSAL of Microsoft: `msal_token_cache.json`.
    Msal,
    /// rclone: `rclone.conf`.
    Rclone,
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
const SHAPES: [&Shape; 12] = [
    &codex::SHAPE,
    &claude_code::SHAPE,
    &aws_sso::SHAPE,
    &msal::SHAPE,
    &docker::SHAPE,
    &yup_oauth2::SHAPE,
    &google::SHAPE,
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
    #[must_use]
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
    let document = Document::of(&text);
    SHAPES.iter().find(|shape| (shape.fits)(&document)).map(|shape| shape.format)
}

/// Reads a text in the form that the options name, or in the form that [`recognize`] tells.
///
/// # Errors
///
/// What is wrong, and in which field. It quotes nothing of the text.
///
/// # Security
///
/// The caller's bytes are the caller's to wipe.
pub fn read(bytes: &[u8], options: &Options) -> Result<Import, String> {
    let text = text::decoded(bytes).ok_or("it is neither UTF-8 nor UTF-16 text")?;
    let document = Document::of(&text);
    let shape = match options.format {
        Some(format) => format.shape(),
        None => *SHAPES
            .iter()
            .find(|shape| (shape.fits)(&document))
            .ok_or("it has none of the forms that can be imported")?,
    };
    if !(shape.fits)(&document) {
        return Err(format!("it is not a file of {}", shape.program));
    }
    let Read { accounts, has_more } = (shape.read)(&document, options)?;
    if accounts.is_empty() {
        return Err("it holds no tokens".into());
    }
    let is_only_tokens = accounts.len() == 1 && !has_more;
    Ok(Import { format: shape.format, accounts, is_only_tokens })
}
