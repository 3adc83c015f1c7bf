//! The answer of a token endpoint (RFC 6749, 5.1) as it is, or with the `expires_at` that spotipy,
//! requests-oauthlib and others add. GitHub's answer is a form.
//!
//! Sources: <https://www.rfc-editor.org/rfc/rfc6749#section-5.1>,
//! <https://github.com/spotipy-dev/spotipy> (`cache_handler.py`),
//! <https://requests-oauthlib.readthedocs.io/en/latest/oauth2_workflow.html>.

use super::fields::{Fields, Reason};
use super::text::{Content, Document};
use super::{Account, Format, Options, Read, Shape};
use crate::sys::wipe::Bytes;
use crate::tokens::text::json_of_form;

pub(super) const SHAPE: Shape = Shape {
    format: Format::TokenResponse,
    name: "token-response",
    program: "a program that keeps the answer of a token endpoint (spotipy, requests-oauthlib)",
    fits: |document| match &document.content {
        Content::Object(fields) => fields.has("access_token") || fields.has("refresh_token"),
        Content::Array(_) => false,
        Content::Other(text) => form(text).is_some(),
    },
    read,
    sign_out: "delete its token file, so that it signs in anew",
};

/// Returns a form as JSON if it has a token.
fn form(text: &str) -> Option<Bytes> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    json_of_form(text.as_bytes(), |name| matches!(name, "access_token" | "refresh_token"))
}

fn read(document: &Document<'_>, options: &Options) -> Result<Read, Reason> {
    let account = match &document.content {
        Content::Object(fields) => account(fields, options)?,
        Content::Other(text) => {
            let json = form(text).ok_or("it is neither a JSON object nor a form")?;
            account(&Fields::of(&json, "", &document.trail)?, options)?
        }
        Content::Array(_) => return Err("it is neither a JSON object nor a form".into()),
    };
    Ok(Read { accounts: vec![account], has_more: false })
}

/// Reads one answer.
pub(super) fn account(fields: &Fields<'_>, options: &Options) -> Result<Account, Reason> {
    let tokens = fields.tokens("access_token", "refresh_token")?;
    let provider = fields.provider()?;
    let tokens = fields.rest(tokens, options.obtained_at)?;
    Ok(Account { name: "token".into(), tokens, provider })
}
