//! google-auth and gcloud: credentials of the type `authorized_user`.
//!
//! Sources: <https://google-auth.readthedocs.io/en/latest/reference/google.oauth2.credentials.html>
//! (`to_json`), <https://cloud.google.com/docs/authentication/application-default-credentials>.

use super::fields::Reason;
use super::text::Document;
use super::{Account, Fate, Format, Options, Provider, Read, Shape};

/// The file of gcloud names no endpoint, and this is the one of Google
/// (<https://accounts.google.com/.well-known/openid-configuration>).
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

pub(super) const SHAPE: Shape = Shape {
    format: Format::Google,
    name: "google",
    program: "google-auth or gcloud",
    fits: |document| {
        document.object().is_some_and(|it| {
            let can_refresh = it.has("refresh_token") && it.has("client_id");
            !it.has("access_token")
                && (can_refresh && (it.has("token_uri") || it.has("type"))
                    // Credentials that nobody can refresh.
                    || it.has("token") && it.has("universe_domain"))
        })
    },
    read,
    sign_out: "`gcloud auth application-default revoke`, or delete the file",
};

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    match fields.plain("type", Fate::Provider)?.as_deref() {
        None | Some("authorized_user") => {}
        Some(_) => return Err("its type is not authorized_user, so it holds no session".into()),
    }
    let mut tokens = fields.tokens("token", "refresh_token")?;
    tokens.expires_at = fields.time_in_utc("expiry", Fate::Expiry)?;
    let tokens = fields.client_secret("client_secret", tokens)?;
    let default_url = tokens.refresh_token.is_some().then(|| TOKEN_URL.to_owned());
    let provider = Provider {
        token_url: fields.plain("token_uri", Fate::Provider)?.or(default_url),
        client_id: fields.plain("client_id", Fate::Provider)?,
        issuer: None,
    };
    let name = fields.plain("account", Fate::Account)?.unwrap_or_else(|| "google".into());
    let account = Account { name, tokens: fields.rest(tokens, None)?, provider };
    Ok(Read { accounts: vec![account], has_more: false })
}
