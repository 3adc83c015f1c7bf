//! Clients of MCP servers in Rust: the `StoredCredentials` of rmcp.
//!
//! Source: <https://docs.rs/rmcp/latest/rmcp/transport/auth/struct.StoredCredentials.html>. The answer of the
//! token endpoint is in `token_response`, and its lifetime counts from `token_received_at`, in seconds.

use super::fields::Reason;
use super::text::Document;
use super::{Account, Fate, Format, Options, Provider, Read, Shape, token_response};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Rmcp,
    name: "rmcp",
    program: "a client of MCP servers in Rust (rmcp)",
    fits: |document| {
        document.object().is_some_and(|it| {
            it.has("client_id")
                && !it.has("access_token")
                && it.names().any(|name| name == "token_response")
        })
    },
    read,
    sign_out: "sign out of the server in the program that wrote it",
};

fn read(document: &Document<'_>, options: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    // A client that was registered, and that nobody has signed in with.
    let Some(answer) = fields.object("token_response")? else {
        return Ok(Read { accounts: Vec::new(), has_more: true });
    };
    let obtained_at = fields.time("token_received_at", Fate::Obtained)?.or(options.obtained_at);
    let account = token_response::account(&answer, &Options { obtained_at, ..*options })
        .map_err(|reason| format!("in its token_response: {reason}"))?;
    let client_id = fields.plain("client_id", Fate::Provider)?;
    let issuer = fields.plain("issuer", Fate::Provider)?;
    let name = issuer.clone().or_else(|| client_id.clone()).unwrap_or_else(|| "token".into());
    let provider = Provider { client_id, issuer, ..Provider::default() };
    let account = Account { name, tokens: fields.rest(account.tokens, None)?, provider };
    Ok(Read { accounts: vec![account], has_more: false })
}
