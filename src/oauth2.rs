//! OAuth 2.0: refresh tokens of any provider, sign in, and revoke tokens.
//! This module needs the feature `oauth2`: `cargo add tokenkeep --features oauth2`.
//! [Providers](crate::docs::providers) shows how to set it up.

mod answer;
mod assertion;
mod body;
mod browser;
mod device;
mod discovery;
mod endpoint;
mod failure;
mod form;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod hard_close;
mod http;
mod parameters;
mod refusal;
mod retry_after;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::TimeDelta;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
};
use oauth2::url::Url;
use oauth2::{
    AuthType, ClientId, ClientSecret, ErrorResponse, HttpRequest, RequestTokenError, RevocationUrl,
    Scope, StandardRevocableToken, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

use self::answer::Answer;
pub use self::assertion::PrivateKeyJwt;
use self::browser::callback::Issuer;
use self::browser::redirect::Redirect;
pub use self::browser::{BrowserSignIn, RedirectPaste};
pub use self::device::DeviceSignIn;
pub use self::discovery::{ProtectedResource, ProviderMetadata};
use self::endpoint::endpoint;
use self::failure::Failed;
pub use self::failure::OAuth2Error;
use self::form::FormClient;
use self::http::{Http, client_certificate};
use self::parameters::Parameters;
pub use self::refusal::Refusal;
use self::refusal::Report;
use crate::error::RefreshFailure;
use crate::net::io_runtime;
use crate::refresh::{RefreshPermit, TokenRefresher};
use crate::sys::clock::{self, Clock};
use crate::tokens::{AuthTokens, RefreshToken};

/// A client as it is registered at an OAuth 2.0 provider (RFC 6749).
///
/// It is a [`TokenRefresher`] for tokens of that provider. It signs in with a code on another device
/// ([`sign_in_by_device`](Self::sign_in_by_device)) or in a browser on this machine
/// ([`sign_in_by_browser`](Self::sign_in_by_browser)). It also [revokes](Self::revoke) tokens.
///
/// ```
/// use tokenkeep::TokenManager;
/// use tokenkeep::oauth2::{OAuth2Client, OAuth2Error};
///
/// fn manager() -> Result<TokenManager, OAuth2Error> {
///     let client = OAuth2Client::new("https://issuer.example/token", "app")?;
///     Ok(TokenManager::builder().refresher(client).build())
/// }
/// ```
///
/// It works on any executor. One thread of this crate does the network I/O of the whole process. Each request
/// has a connection of its own. The root certificates of the system are trusted.
///
/// The first of `HTTPS_PROXY`, `https_proxy`, `ALL_PROXY` and `all_proxy` that is set names a proxy: `http://` or
/// `https://` (CONNECT), `socks5://`, or `socks5h://`, which also resolves names. A user and a password may stand
/// before the host, with `%` and two digits for special characters. `NO_PROXY` lists the hosts, domains and
/// networks without a proxy. This machine has none: `localhost` and loopback addresses. `HTTP_PROXY` is for plain
/// HTTP, which is only used for this machine, so it has no effect. [`without_proxy`](Self::without_proxy) ignores
/// the proxy.
///
/// # Security
///
/// - Each URL must be `https`. Plain `http` is accepted only for a loopback address (127.0.0.0/8, `[::1]`).
///   It is not accepted for `localhost`, because that name has to be resolved.
/// - A proxy sees the host and the port of an endpoint, and nothing that is sent there. No error shows its user or
///   its password.
/// - No redirect is followed: 307 and 308 would send the refresh token to another URL.
/// - Connecting may take 10 seconds, and the answer another 15. An answer may have
///   [`MAX_RECORD`](crate::store::MAX_RECORD) bytes.
/// - An error contains the host, the status and a registered error code, and nothing else that was sent or
///   received.
/// - The secrets that this crate holds are wiped. The `oauth2` crate, hyper and rustls make copies of
///   requests and answers, and do not wipe them.
#[derive(Clone)]
pub struct OAuth2Client {
    token_url: TokenUrl,
    client_id: ClientId,
    secret: Option<SecretString>,
    auth_type: AuthType,
    private_key: Option<PrivateKeyJwt>,
    grant: Grant,
    scopes: Vec<Scope>,
    refresh_scopes: Vec<Scope>,
    parameters: Parameters,
    authorization_url: Option<Url>,
    device_authorization_url: Option<Url>,
    revocation_url: Option<Url>,
    redirect: Option<Redirect>,
    issuer: Option<Issuer>,
    default_lifetime: Option<TimeDelta>,
    clock: Arc<Clock>,
    http: Http,
}

/// What a client sends to get new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// The refresh token of a sign-in (RFC 6749, 6).
    RefreshToken,
    /// Its own credentials (RFC 6749, 4.4).
    ClientCredentials,
}

/// The client of the `oauth2` crate. This crate reads the answers.
type Client<Token> = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    Token,
>;

impl OAuth2Client {
    /// Makes a client from the provider's token endpoint and the id under which the client is registered.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] for a URL to which secrets must not be sent.
    pub fn new(token_url: &str, client_id: impl Into<String>) -> Result<Self, OAuth2Error> {
        Ok(Self {
            token_url: TokenUrl::from_url(endpoint("token_url", token_url)?),
            client_id: ClientId::new(client_id.into()),
            secret: None,
            auth_type: AuthType::BasicAuth,
            private_key: None,
            grant: Grant::RefreshToken,
            scopes: Vec::new(),
            refresh_scopes: Vec::new(),
            parameters: Parameters::default(),
            authorization_url: None,
            device_authorization_url: None,
            revocation_url: None,
            redirect: None,
            issuer: None,
            default_lifetime: None,
            clock: Arc::default(),
            http: Http::new(),
        })
    }

    /// Adds the client's secret. It is sent by HTTP Basic.
    #[must_use]
    pub fn with_secret(mut self, secret: SecretString) -> Self {
        self.secret = Some(secret);
        self
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

    /// Gets tokens for the client itself (RFC 6749, 4.4), for a program that keeps them on its own. A
    /// [manager](crate::TokenManager) does this when it needs them.
    ///
    /// # Errors
    ///
    /// The error says how the exchange failed.
    ///
    /// # Cancel safety
    ///
    /// If tokens were just issued, they are lost, and expire.
    pub async fn sign_in_by_client_credentials(&self) -> Result<AuthTokens, OAuth2Error> {
        let client = self.clone();
        Ok(on_io(async move { client.own_tokens(RefreshPermit::unlimited()).await }).await?)
    }

    /// Revokes tokens at the provider (RFC 7009): first the refresh token, then the access token.
    ///
    /// Succeeds also if the provider does not know the tokens, or if the refresh token was revoked and the
    /// access token cannot be: it expires soon. The store is not changed.
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
        let url = self.revocation_url.clone().ok_or_else(|| not_set("revocation_url"))?;
        let (client, tokens) = (self.clone(), tokens.clone());
        Ok(on_io(async move { client.revoke_all(&url, &tokens).await }).await?)
    }

    async fn revoke_all(&self, url: &Url, tokens: &AuthTokens) -> Result<(), Failed> {
        if let Some(token) = &tokens.refresh_token {
            #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
            let token = oauth2::RefreshToken::new(token.expose_secret().to_owned());
            match self.revoke_one(url, token.into()).await {
                // RFC 7009 (2.2) wants a success for such a token, and some providers answer this.
                Err(Failed::Refused { code, .. }) if code == "invalid_token" => {}
                done => done?,
            }
        }
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let token = oauth2::AccessToken::new(tokens.access_token.expose_secret().to_owned());
        match self.revoke_one(url, token.into()).await {
            // The refresh token is revoked, so the access token expires soon. Many providers cannot revoke it.
            Err(_) if tokens.refresh_token.is_some() => Ok(()),
            Err(Failed::Refused { code, .. }) if code == "invalid_token" => Ok(()),
            done => done,
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

    async fn trade(
        &self,
        token: &RefreshToken,
        permit: RefreshPermit,
    ) -> Result<AuthTokens, Failed> {
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let token = oauth2::RefreshToken::new(token.expose_secret().to_owned());
        let (client, sent) = (self.client(), self.clock.now());
        let forms = self.forms(self.http.permitted(permit), self.parameters.for_token());
        let request = client.exchange_refresh_token(&token).add_scopes(self.refresh_scopes.clone());
        let answer = request.request_async(&forms).await;
        token.into_secret().zeroize();
        let answer = answer.map_err(|error| failed(error, self.token_url.url()).in_a_session())?;
        Ok(self.received(answer, sent))
    }

    /// Returns the tokens of an answer to a request that was sent at this time.
    fn received(&self, answer: Answer, sent: SystemTime) -> AuthTokens {
        let mut tokens = answer.into_tokens(sent);
        if let (None, Some(lifetime)) = (tokens.expiry(), self.default_lifetime) {
            tokens.expires_at = clock::date(sent).checked_add_signed(lifetime);
        }
        tokens
    }

    /// Gets tokens for the client itself.
    async fn own_tokens(&self, permit: RefreshPermit) -> Result<AuthTokens, Failed> {
        let (client, sent) = (self.client(), self.clock.now());
        let added = self.parameters.for_client_credentials();
        let forms = self.forms(self.http.permitted(permit), added);
        let request = client.exchange_client_credentials().add_scopes(self.scopes.clone());
        let answer = request.request_async(&forms).await;
        let answer = answer.map_err(|error| failed(error, self.token_url.url()))?;
        let mut tokens = self.received(answer, sent);
        // A server should send none (RFC 6749, 4.4.3), and this client would never use it.
        tokens.refresh_token = None;
        Ok(tokens)
    }

    /// Sends forms to the token endpoint, during a sign-in.
    fn to_token_endpoint(&self) -> FormClient {
        self.forms(self.http.clone(), self.parameters.for_token())
    }

    /// Returns this client as the `oauth2` crate needs it.
    fn client(&self) -> Client<oauth2::EndpointSet> {
        let client = Client::new(self.client_id.clone())
            .set_token_uri(self.token_url.clone())
            .set_auth_type(self.auth_type.clone());
        match &self.secret {
            None => client,
            Some(secret) => {
                #[expect(clippy::disallowed_methods, reason = "sent to the provider it is for")]
                let secret = ClientSecret::new(secret.expose_secret().to_owned());
                client.set_client_secret(secret)
            }
        }
    }
}

/// Shows the token URL and the client's id, and no secret.
impl fmt::Debug for OAuth2Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2Client")
            .field("token_url", &self.token_url.as_str())
            .field("client_id", &self.client_id.as_str())
            .finish_non_exhaustive()
    }
}

/// Sends the refresh token to the token endpoint only.
///
/// The answer becomes [`AuthTokens`]: `expires_in` becomes `expires_at`, `refresh_token_expires_in` and the like
/// become `refresh_expires_at`, and unknown fields become `extra`.
///
/// | what happens | failure | proves that the token is unspent |
/// |---|---|---|
/// | no connection, no trusted certificate | transient | yes |
/// | 429 | transient | yes |
/// | 503, 403 without an error code, `server_error`, `slow_down`, `temporarily_unavailable` | transient | no |
/// | the request or a part of it was sent, and neither a complete answer nor all of its tokens came; a success without readable tokens; more than 256 KiB; a redirect; 408; any other 5xx | ambiguous | no |
/// | `invalid_client`, `invalid_request`, `unauthorized_client`, `unsupported_grant_type` | misconfigured | yes |
/// | any other error code; 404, any other 4xx; an answer that is not HTTP/1.1 | misconfigured | no |
/// | `invalid_grant`, `login_required`, `interaction_required`, `consent_required`, `account_selection_required`, `invalid_token`, `expired_token`, and the like of GitHub and Slack; no refresh token to send | rejected | yes |
///
/// The permit is checked after connecting, right before the request is written. If the permit has an end, the
/// connection is reset at that time, or earlier if the future is dropped or the process ends before the whole
/// answer was read. After a reset, the kernel delivers no more of the request. On Linux and Android the
/// kernel resets the connection even while the process is stopped. A proxy that has received a part of the request
/// may still deliver that part.
///
/// A transient failure contains the time of `Retry-After`, up to 1 hour, or 30 seconds if it cannot be read. An
/// error code counts with the status of a success, and with any 4xx except 404, 408 and 429.
#[async_trait]
impl TokenRefresher for OAuth2Client {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let (client, permit) = (self.clone(), permit.clone());
        if self.grant == Grant::ClientCredentials {
            let own = on_io(async move { client.own_tokens(permit).await }).await;
            return own.map_err(|failed: Failed| match failed.into() {
                // There is no session that has ended.
                RefreshFailure::Rejected { reason } => RefreshFailure::misconfigured(reason),
                failure => failure,
            });
        }
        let Some(token) = current.refresh_token.clone() else {
            return Err(RefreshFailure::rejected("the server issued no refresh token"));
        };
        let new = on_io(async move { client.trade(&token, permit).await }).await?;
        Ok(with_what_stays(new, &current))
    }

    /// Returns the token URL, a space, and the client's id.
    fn client(&self) -> String {
        format!("{} {}", self.token_url.as_str(), self.client_id.as_str())
    }

    fn needs_refresh_token(&self) -> bool {
        self.grant == Grant::RefreshToken
    }
}

/// Adds the fields that the answer to a refresh did not repeat. An answer without a `scope` has the same one
/// (RFC 6749, 5.1), the ID token stays (`OpenID` Connect Core, 12.2), and so does what providers send at the
/// sign-in only, such as `instance_url`. Fields that are a time from then on say nothing now.
fn with_what_stays(new: AuthTokens, current: &AuthTokens) -> AuthTokens {
    let is_a_time = |name: &str| name.contains("expires");
    let stays = current.typed_extras().filter(|(name, ..)| !is_a_time(name));
    stays.fold(new, |new, (name, value, is_json)| match new.extra(name) {
        Some(_) => new,
        None if is_json => new.with_json_extra(name, value.clone()),
        None => new.with_extra(name, value.clone()),
    })
}

/// Runs an exchange on the I/O runtime of this crate.
async fn on_io<T: Send + 'static, E: From<Failed> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    io_runtime::run(work)
        .await
        .unwrap_or_else(|error| Err(Failed::NotSent { reason: error.to_string() }.into()))
}

fn not_set(setting: &'static str) -> OAuth2Error {
    OAuth2Error::InvalidSetting { setting, reason: "is not set; set it first" }
}

fn unsendable() -> Failed {
    Failed::Unsendable { reason: "the URL cannot be put into a request; check it".into() }
}

/// Returns the failure of the exchange. Other errors of the `oauth2` crate contain what the server sent, so
/// they are not passed on.
fn failed<T: ErrorResponse + 'static>(error: RequestTokenError<Failed, T>, url: &Url) -> Failed {
    match error {
        RequestTokenError::Request(failed) => failed,
        _ => unreadable(url.authority()),
    }
}

fn unreadable(place: &str) -> Failed {
    Failed::Unreadable { reason: format!("{place} answered 200, but its answer cannot be read") }
}
