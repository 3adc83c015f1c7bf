//! Programs in Go: `oauth2.Token` of `golang.org/x/oauth2`, as JSON.
//!
//! Source: <https://pkg.go.dev/golang.org/x/oauth2#Token>. A zero `expiry` is the first moment of the year 1.

use super::fields::{Fields, Reason};
use super::{Account, Fate, Format, Read, Shape};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Golang,
    name: "golang",
    program: "a program in Go (golang.org/x/oauth2)",
    fits: |document| {
        document.object().is_some_and(|it| {
            it.has("expiry") && (it.has("access_token") || it.has("refresh_token"))
        })
    },
    read: |document, _| {
        let fields = document.object().ok_or("it is not a JSON object")?;
        Ok(Read { accounts: vec![account("token", fields)?], has_more: false })
    },
    sign_out: "delete its token file, so that it signs in anew",
};

/// Reads one token.
pub(super) fn account(name: &str, fields: &Fields<'_>) -> Result<Account, Reason> {
    let mut tokens = fields.tokens("access_token", "refresh_token")?;
    tokens.expires_at = fields.time("expiry", Fate::Expiry)?;
    let provider = fields.provider()?;
    Ok(Account { name: name.into(), tokens: fields.rest(tokens, None)?, provider })
}
