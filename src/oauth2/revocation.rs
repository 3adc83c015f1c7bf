//! Revoking tokens (RFC 7009).

use oauth2::url::Url;
use oauth2::{HttpRequest, RevocationUrl, StandardRevocableToken};

use super::failure::Failed;
use super::{NO_SECRET, OAuth2Client, OAuth2Error, failed, on_io, unsendable};
use crate::tokens::AuthTokens;

impl OAuth2Client {
    /// Revokes tokens at the provider (RFC 7009): first the refresh token, then the access token.
    ///
    /// Succeeds also if the provider does not know the tokens, or if the refresh token was revoked and the
    /// access token cannot be: it expires soon. If the provider cannot revoke refresh tokens, the access token is
    /// revoked, and the error says that the other is not. The store is not changed.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if no revocation URL is set. Otherwise the error says how the exchange
    /// failed.
    ///
    /// # Cancel safety
    ///
    /// The tokens may have been revoked or not. The call can be repeated.
    pub async fn revoke(&self, tokens: &AuthTokens) -> Result<(), OAuth2Error> {
        let url = self.revocation_url.clone().ok_or_else(|| self.not_set("revocation_url"))?;
        let client = self
            .clone()
            .with_secret_of(tokens)
            .ok_or(OAuth2Error::InvalidSetting { setting: "client_secret", reason: NO_SECRET })?;
        let tokens = tokens.clone();
        Ok(on_io(async move { client.revoke_all(&url, &tokens).await }).await?)
    }

    async fn revoke_all(&self, url: &Url, tokens: &AuthTokens) -> Result<(), Failed> {
        let mut stays = Ok(());
        if let Some(token) = &tokens.refresh_token {
            #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
            let token = oauth2::RefreshToken::new(token.expose_secret().to_owned());
            match known(self.revoke_one(url, token.into()).await) {
                // The provider revokes no refresh tokens. It may still revoke the access token.
                Err(failed) if failed.is_refused_with("unsupported_token_type") => {
                    stays = Err(failed);
                }
                done => done?,
            }
        }
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let token = oauth2::AccessToken::new(tokens.access_token.expose_secret().to_owned());
        match known(self.revoke_one(url, token.into()).await) {
            // The refresh token is revoked, so the access token expires soon. Many providers cannot revoke it.
            Err(_) if tokens.refresh_token.is_some() => stays,
            done => stays.and(done),
        }
    }

    async fn revoke_one(&self, url: &Url, token: StandardRevocableToken) -> Result<(), Failed> {
        // The `oauth2` crate accepts only https. The URL was checked when it was set.
        let mut checked = url.clone();
        if url.scheme() == "http" {
            checked = format!("https{}", &url.as_str()[4..]).parse().map_err(|_| unsendable())?;
        }
        let uri: ::http::Uri = url.as_str().parse().map_err(|_| unsendable())?;
        let forms = self.forms(self.http.clone(), std::iter::empty());
        let to_url = move |mut request: HttpRequest| {
            *request.uri_mut() = uri.clone();
            let forms = forms.clone();
            async move { forms.exchange(request).await }
        };
        let client = self.client().set_revocation_url(RevocationUrl::from_url(checked));
        let request = client.revoke_token(token).map_err(|_| unsendable())?;
        request.request_async(&to_url).await.map_err(|error| failed(error, url))
    }
}

/// Counts a token that the provider does not know as revoked. RFC 7009 (2.2) wants a success for it, and some
/// providers answer one of these.
fn known(revoked: Result<(), Failed>) -> Result<(), Failed> {
    match revoked {
        Err(Failed::Refused { code, .. }) if is_over(&code) => Ok(()),
        done => done,
    }
}

/// Returns whether an error code says that a token has ended. The last three are Slack's.
fn is_over(code: &str) -> bool {
    matches!(
        code,
        "expired_token"
            | "invalid_grant"
            | "invalid_token"
            | "invalid_refresh_token"
            | "token_expired"
            | "token_revoked"
    )
}

impl Failed {
    fn is_refused_with(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}
