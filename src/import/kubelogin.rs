//! kubelogin: the cache of `kubectl oidc-login`. Kubernetes takes the ID token as the bearer.
//!
//! Source: <https://github.com/int128/kubelogin> (`pkg/tokencache/repository`).

use super::fields::Reason;
use super::text::Document;
use super::{Account, Format, Options, Read, Shape};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Kubelogin,
    name: "kubelogin",
    program: "kubelogin",
    fits: |document| {
        document.object().is_some_and(|it| {
            it.has("id_token")
                && it.names().all(|name| ["id_token", "refresh_token"].contains(&name))
        })
    },
    read,
    sign_out: "`kubectl oidc-login clean`",
};

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    // The ID token is a JWT, and its `exp` is the expiry.
    let tokens = fields.tokens("id_token", "refresh_token")?;
    Ok(Read { accounts: vec![Account::new("kubernetes", tokens)], has_more: false })
}
