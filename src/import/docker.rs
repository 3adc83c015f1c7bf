//! Docker: the identity tokens of `config.json`, which are refresh tokens of a registry.
//!
//! Sources: <https://docs.docker.com/reference/cli/docker/login/>,
//! <https://distribution.github.io/distribution/spec/auth/oauth/>.

use super::fields::Reason;
use super::text::Document;
use super::{Account, Fate, Format, Options, Read, Shape};
use crate::tokens::{AuthTokens, RefreshToken};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Docker,
    name: "docker",
    program: "Docker",
    fits: |document| {
        document.object().is_some_and(|it| {
            it.has_object("auths") || it.has("credsStore") || it.has_object("credHelpers")
        })
    },
    read,
    sign_out: "`docker logout HOST`",
};

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    let mut accounts = Vec::new();
    if let Some(hosts) = fields.object("auths")? {
        for host in hosts.names().map(str::to_owned).collect::<Vec<_>>() {
            let Some(entry) = hosts.object(&host)? else { continue };
            let Some(token) = entry.token("identitytoken", Fate::RefreshToken)? else { continue };
            let tokens = AuthTokens::without_access_token(RefreshToken::from(token));
            accounts.push(Account::new(host, tokens));
        }
    }
    if accounts.is_empty() {
        let reason = if fields.has("credsStore") || fields.has("credHelpers") {
            "its credentials are in the store that its credsStore names, and not in this file"
        } else {
            "it has no identitytoken; a user name and a password are no token"
        };
        return Err(reason.into());
    }
    Ok(Read { accounts, has_more: true })
}
