//! Claude Code: its own session and those of its MCP servers, in `.credentials.json` or in the keychain item
//! `Claude Code-credentials`.
//!
//! Source: the files that Claude Code writes; <https://docs.anthropic.com/en/docs/claude-code/iam>.

use super::fields::{Fields, Reason};
use super::text::Document;
use super::{Account, Fate, Format, Options, Provider, Read, Shape};

pub(super) const SHAPE: Shape = Shape {
    format: Format::ClaudeCode,
    name: "claude-code",
    program: "Claude Code",
    fits: |document| {
        document
            .object()
            .is_some_and(|it| it.has_object("claudeAiOauth") || it.has_object("mcpOAuth"))
    },
    read,
    sign_out: "`/logout` in Claude Code",
};

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    let (mut accounts, mut has_more) = (Vec::new(), false);
    if let Some(inner) = fields.object("claudeAiOauth")? {
        accounts.push(Account::new("claude-code", tokens(&inner)?));
    }
    if let Some(servers) = fields.object("mcpOAuth")? {
        let names: Vec<_> = servers.names().map(str::to_owned).collect();
        for key in names {
            let Some(server) = servers.object(&key)? else { continue };
            // A server that was registered, and that nobody has signed in to.
            if !server.has_text("accessToken") && !server.has_text("refreshToken") {
                has_more = true;
                continue;
            }
            let name = server.plain("serverName", Fate::Account)?.unwrap_or(key);
            let client_id = server.plain("clientId", Fate::Provider)?;
            let secret = server.text("clientSecret", Fate::ClientSecret)?;
            let mut tokens = tokens(&server)?;
            if let Some(secret) = secret {
                tokens = tokens.with_client_secret(secret);
            }
            let provider = Provider { client_id, ..Provider::default() };
            accounts.push(Account { name, tokens, provider });
        }
    }
    Ok(Read { accounts, has_more })
}

fn tokens(fields: &Fields<'_>) -> Result<crate::tokens::AuthTokens, Reason> {
    let mut tokens = fields.tokens("accessToken", "refreshToken")?;
    tokens.expires_at = fields.time("expiresAt", Fate::Expiry)?;
    tokens.refresh_expires_at = fields.time("refreshTokenExpiresAt", Fate::RefreshExpiry)?;
    fields.rest(tokens, None)
}
