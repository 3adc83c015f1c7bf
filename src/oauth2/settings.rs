//! The settings of a client: how it authenticates itself, what it asks for, and where.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::TimeDelta;
use oauth2::{AuthType, Scope};
use secrecy::SecretString;

use super::assertion::PrivateKeyJwt;
use super::endpoint::endpoint;
use super::http::client_certificate;
use super::refusal::{Refusal, Report};
use super::{Grant, OAuth2Client, OAuth2Error, parameters};
use crate::sys::clock::Clock;
use crate::tokens::AuthTokens;

impl OAuth2Client {
    /// Adds the client's secret. It is sent by HTTP Basic.
    #[must_use]
    pub fn with_secret(mut self, secret: SecretString) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Takes the client's secret from the tokens ([`AuthTokens::client_secret`]) to refresh or revoke them. Use it for
    /// tokens of another program, whose client they bring along. For a sign-in, add the secret itself.
    #[must_use]
    pub fn with_secret_of_tokens(mut self) -> Self {
        self.has_secret_of_tokens = true;
        self
    }

    /// Returns this client with the secret that it uses for these tokens. Returns `None` if they have none.
    pub(super) fn with_secret_of(self, tokens: &AuthTokens) -> Option<Self> {
        if !self.has_secret_of_tokens {
            return Some(self);
        }
        Some(self.with_secret(tokens.client_secret()?.clone()))
    }

    /// Sends the client's secret in the request's body, for a provider that does not accept HTTP Basic.
    #[must_use]
    pub fn with_secret_in_body(mut self) -> Self {
        self.auth_type = AuthType::RequestBody;
        self
    }

    /// Authenticates this client with a signature instead of a secret (`private_key_jwt`, RFC 7523): at the
    /// token endpoint, for a device code, and for a revocation.
    #[must_use]
    pub fn with_private_key_jwt(mut self, key: PrivateKeyJwt) -> Self {
        self.private_key = Some(key);
        self
    }

    /// Gets tokens for the client itself, and not for a person (RFC 6749, 4.4). There is no sign-in and no
    /// refresh token: as a refresher, this client requests a new token each time, also the first one for an
    /// empty slot. It needs a secret, a key or a certificate.
    #[must_use]
    pub fn with_client_credentials(mut self) -> Self {
        self.grant = Grant::ClientCredentials;
        self
    }

    /// Requests these scopes at sign-in. A refresh requests no scopes, so the granted ones stay.
    #[must_use]
    pub fn with_scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = scopes.into_iter().map(|scope| Scope::new(scope.into())).collect();
        self
    }

    /// Requests these scopes at each refresh too (RFC 6749, 6). They must be among those that were granted.
    /// Some providers narrow the token to them, and a few demand them.
    #[must_use]
    pub fn with_refresh_scopes<S: Into<String>>(
        mut self,
        scopes: impl IntoIterator<Item = S>,
    ) -> Self {
        self.refresh_scopes = scopes.into_iter().map(|scope| Scope::new(scope.into())).collect();
        self
    }

    /// Names the API that the tokens are for, as Auth0 and others want it (`audience`). It is sent at the
    /// start of a sign-in, and with the client's own credentials.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if it is empty or contains control characters.
    pub fn with_audience(mut self, audience: &str) -> Result<Self, OAuth2Error> {
        self.parameters.set_audience(audience.to_owned())?;
        Ok(self)
    }

    /// Names the resources that the tokens are for (RFC 8707). They are sent at the start of a sign-in and in
    /// each request for tokens, also at a refresh. An MCP server demands its own URL here.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if one is not an absolute URI, or has a fragment.
    pub fn with_resources<R: Into<String>>(
        mut self,
        resources: impl IntoIterator<Item = R>,
    ) -> Result<Self, OAuth2Error> {
        self.parameters.set_resources(resources.into_iter().map(Into::into).collect())?;
        Ok(self)
    }

    /// Adds parameters to the URL at which a person signs in: names and values. A name may occur more than
    /// once.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] for a parameter that this crate sends itself, a name that RFC 6749 does
    /// not allow, and a value that is empty or contains control characters.
    pub fn with_authorize_parameters<N: Into<String>, V: Into<String>>(
        mut self,
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, OAuth2Error> {
        self.parameters.authorize = parameters::checked("authorize_parameters", parameters)?;
        Ok(self)
    }

    /// Adds parameters to the request for a device code.
    ///
    /// # Errors
    ///
    /// Those of [`with_authorize_parameters`](Self::with_authorize_parameters).
    pub fn with_device_parameters<N: Into<String>, V: Into<String>>(
        mut self,
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, OAuth2Error> {
        self.parameters.device = parameters::checked("device_parameters", parameters)?;
        Ok(self)
    }

    /// Adds parameters to each request to the token endpoint, also at a refresh.
    ///
    /// # Errors
    ///
    /// Those of [`with_authorize_parameters`](Self::with_authorize_parameters).
    pub fn with_token_parameters<N: Into<String>, V: Into<String>>(
        mut self,
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, OAuth2Error> {
        self.parameters.token = parameters::checked("token_parameters", parameters)?;
        Ok(self)
    }

    /// Sets the URL for [`sign_in_by_browser`](Self::sign_in_by_browser). It may have a query with parameters
    /// that the provider needs beyond the standard: `?access_type=offline`.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`], as for [`new`](Self::new).
    pub fn with_authorization_url(mut self, url: &str) -> Result<Self, OAuth2Error> {
        self.authorization_url = Some(endpoint("authorization_url", url)?);
        Ok(self)
    }

    /// Sets the URL for [`sign_in_by_device`](Self::sign_in_by_device).
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`], as for [`new`](Self::new).
    pub fn with_device_authorization_url(mut self, url: &str) -> Result<Self, OAuth2Error> {
        self.device_authorization_url = Some(endpoint("device_authorization_url", url)?);
        Ok(self)
    }

    /// Sets the URL for [`revoke`](Self::revoke).
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`], as for [`new`](Self::new).
    pub fn with_revocation_url(mut self, url: &str) -> Result<Self, OAuth2Error> {
        self.revocation_url = Some(endpoint("revocation_url", url)?);
        Ok(self)
    }

    /// Assumes that an access token lives this long if the provider does not state its lifetime.
    ///
    /// RFC 6749 (5.1) lets a provider document a default instead of sending `expires_in`. Salesforce does. An
    /// `expires_in` or an `expires_on` of the answer counts before this, and so does the expiry in the claims
    /// of a JWT. Without any of them the token has no expiry, and is refreshed only after
    /// [`invalidate`](crate::TokenManager::invalidate).
    #[must_use]
    pub fn with_default_lifetime(mut self, lifetime: Duration) -> Self {
        self.default_lifetime = TimeDelta::from_std(lifetime).ok();
        self
    }

    /// Calls `report` with what the provider says, each time that it refuses a request: see [`Refusal`]. Errors
    /// contain only an error code.
    ///
    /// It is called before the error is returned, on the thread that does the network I/O. So it must not block.
    ///
    /// # Security
    ///
    /// The text is the provider's. Show it to the person who signs in, or who asked for it. Keep it out of logs.
    #[must_use]
    pub fn with_report(mut self, report: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        self.http.report = Report::to(report);
        self
    }

    /// Proves who the client is by a certificate: mutual TLS (RFC 8705). Both are PEM: the certificate, followed
    /// by those of its authorities, and its key. They are used at all endpoints. The client's id is sent in the
    /// body, and no secret is needed.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if one of them cannot be used, or if the key is not that of the
    /// certificate. It quotes neither.
    ///
    /// # Security
    ///
    /// rustls and ring keep the key as long as the client lives, and do not wipe it. A proxy never gets the
    /// certificate.
    pub fn with_client_certificate(
        mut self,
        certificates: &str,
        key: &SecretString,
    ) -> Result<Self, OAuth2Error> {
        self.http.certificate = Some(client_certificate(certificates, key)?);
        Ok(self)
    }

    /// Ignores the proxy that the environment names.
    #[must_use]
    pub fn without_proxy(mut self) -> Self {
        self.http.by_proxy = false;
        self
    }

    /// Uses `now` as the clock, instead of the system's wall clock.
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(Clock::new(now));
        self
    }
}
