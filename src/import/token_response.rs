//! The answer of a token endpoint (RFC 6749, 5.1) as it is, or with the `expires_at` that spotipy,
//! requests-oauthlib and others add. GitHub's answer is a form.
//!
//! Sources: <https://www.rfc-editor.org/rfc/rfc6749#section-5.1>,
//! <https://github.com/spotipy-dev/spotipy> (`cache_handler.py`),
//! <https://requests-oauthlib.readthedocs.io/en/latest/oauth2_workflow.html>.

use chrono::TimeDelta;
use form_urlencoded::parse;
use zeroize::Zeroizing;

use super::fields::{Fields, Reason};
use super::text::Document;
use super::{Account, Format, Options, Read, Shape};

pub(super) const SHAPE: Shape = Shape {
    format: Format::TokenResponse,
    name: "token-response",
    program: "a program that keeps the answer of a token endpoint (spotipy, requests-oauthlib)",
    fits: |document| match document {
        Document::Object(fields) => fields.has("access_token"),
        Document::Array(_) => false,
        Document::Other(text) => is_form(text),
    },
    read,
    sign_out: "delete its token file, so that it signs in anew",
};

/// Returns whether a text is a form with an access token.
fn is_form(text: &str) -> bool {
    let is_one_line = !text.contains(|character: char| character.is_ascii_whitespace());
    is_one_line
        && text.contains('&')
        && parse(text.as_bytes()).any(|(name, _)| name == "access_token")
}

fn read(document: &Document<'_>, options: &Options) -> Result<Read, Reason> {
    let account = match document {
        Document::Object(fields) => account(fields, options)?,
        Document::Other(text) if is_form(text) => {
            let json = json_of_form(text);
            account(&Fields::of(json.as_bytes())?, options)?
        }
        _ => return Err("it is neither a JSON object nor a form".into()),
    };
    Ok(Read { accounts: vec![account], has_more: false })
}

fn account(fields: &Fields<'_>, options: &Options) -> Result<Account, Reason> {
    let mut tokens = fields.tokens("access_token", "refresh_token", "expires_at")?;
    // Doorkeeper, which GitLab uses, says when it issued the token.
    tokens.obtained_at = fields.time("created_at")?.or(options.obtained_at);
    let lifetime = fields.seconds("expires_in")?;
    if let (None, Some(lifetime)) = (tokens.expires_at, lifetime) {
        let from = tokens.obtained_at.ok_or(
            "its expires_in counts from a time that it does not name; say that it was written then",
        )?;
        let expiry = TimeDelta::try_seconds(lifetime).and_then(|it| from.checked_add_signed(it));
        tokens.expires_at = Some(expiry.ok_or("its expires_in is beyond all dates")?);
    }
    Ok(Account::new("token", fields.rest(tokens)))
}

/// Returns a form as JSON.
fn json_of_form(text: &str) -> Zeroizing<String> {
    // JSON escapes a byte by 6 at most. The buffer does not grow and leave copies behind.
    let mut json = Zeroizing::new(String::with_capacity(6 * text.len() + 16));
    json.push('{');
    for (index, (name, value)) in parse(text.as_bytes()).enumerate() {
        if index > 0 {
            json.push(',');
        }
        let quoted = |text: &str| Zeroizing::new(serde_json::Value::from(text).to_string());
        json.push_str(&quoted(&name));
        json.push(':');
        json.push_str(&quoted(&value));
    }
    json.push('}');
    json
}
