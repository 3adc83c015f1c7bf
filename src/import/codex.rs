//! Codex: the session of `auth.json`, and those of its MCP servers in `.credentials.json`.
//!
//! Source: <https://github.com/openai/codex> (`login/src/auth/storage.rs`, `rmcp-client/src/oauth.rs`).

use super::fields::{Fields, Reason};
use super::text::Document;
use super::{Account, Fate, Format, Options, Provider, Read, Shape};

/// Where Codex signs in and refreshes.
const ISSUER: &str = "https://auth.openai.com";

pub(super) const SHAPE: Shape = Shape {
    format: Format::Codex,
    name: "codex",
    program: "Codex",
    fits: |document| document.object().is_some_and(|it| is_auth(it) || servers(it).is_some()),
    read,
    sign_out: "`codex logout`",
};

/// Returns a URL without what may be a secret in it: a password, a query.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

fn is_auth(fields: &Fields<'_>) -> bool {
    fields.has("OPENAI_API_KEY") || fields.has_object("tokens") && fields.has("last_refresh")
}

/// Returns the MCP servers, if each field is one.
fn servers<'a>(fields: &Fields<'a>) -> Option<Vec<(String, Fields<'a>)>> {
    let names: Vec<_> = fields.names().map(str::to_owned).collect();
    let servers: Option<Vec<_>> = names
        .into_iter()
        .map(|name| {
            let server = fields.object(&name).ok()??;
            let is_one = server.has("server_url")
                && (server.has_text("access_token") || server.has_text("refresh_token"));
            is_one.then_some((name, server))
        })
        .collect();
    servers.filter(|servers| !servers.is_empty())
}

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    if is_auth(fields) {
        let Some(inner) = fields.object("tokens")? else {
            return Err("it holds an API key and no session; `set` takes the key".into());
        };
        // The access token is a JWT, and its `exp` is the expiry.
        let mut tokens = inner.tokens("access_token", "refresh_token")?;
        tokens.obtained_at = fields.time("last_refresh", Fate::Obtained)?;
        let name = inner.plain("account_id", Fate::Account)?;
        if let Some(id) = &name {
            tokens = tokens.with_extra("account_id", id.as_str().into());
        }
        let tokens = inner.rest(tokens, None)?;
        let has_key = fields.has("OPENAI_API_KEY");
        let fate = if has_key { Fate::Left } else { Fate::Unknown };
        let _ = fields.take("OPENAI_API_KEY", fate);
        let provider = Provider { issuer: Some(ISSUER.into()), ..Provider::default() };
        let account = Account {
            name: name.unwrap_or_else(|| "codex".into()),
            tokens: fields.rest(tokens, None)?,
            provider,
        };
        return Ok(Read { accounts: vec![account], has_more: has_key });
    }
    let mut accounts = Vec::new();
    for (_, server) in servers(fields).ok_or("it holds no MCP servers")? {
        let mut tokens = server.tokens("access_token", "refresh_token")?;
        tokens.expires_at = server.time("expires_at", Fate::Expiry)?;
        let url = server.plain("server_url", Fate::Account)?.unwrap_or_default();
        let name =
            server.plain("server_name", Fate::Account)?.filter(|name| !name.trim().is_empty());
        let name = name.unwrap_or_else(|| without_secrets(&url));
        let client_id = server.plain("client_id", Fate::Provider)?;
        let tokens = server.rest(tokens, None)?.with_extra("server_url", url.as_str().into());
        let provider = Provider { client_id, ..Provider::default() };
        accounts.push(Account { name, tokens, provider });
    }
    Ok(Read { accounts, has_more: false })
}
