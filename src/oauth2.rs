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
mod revocation;
mod settings;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use chrono::TimeDelta;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
};
use oauth2::url::Url;
use oauth2::{
    AuthType, ClientId, ClientSecret, ErrorResponse, RequestTokenError, Scope,
    StandardRevocableToken, TokenUrl,
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
use self::http::Http;
use self::parameters::Parameters;
pub use self::refusal::Refusal;
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
/// networks without a proxy, or `*`; a port behind a host limits the entry to that port. This machine has none: `localhost` and loopback addresses. `HTTP_PROXY` is for plain
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
/// - Connecting may take 10 seconds, and the answer another 15. A refresh of tokens that are still good takes less:
///   5 seconds for connecting, and 15 for all. An answer may have 256 KiB.
/// - An error contains the host, the status and a registered error code, and nothing else that was sent or
///   received.
/// - The secrets that this crate holds are wiped. The `oauth2` crate, hyper and rustls make copies of
///   requests and answers, and do not wipe them.
#[derive(Clone)]
pub struct OAuth2Client {
    token_url: TokenUrl,
    client_id: ClientId,
    secret: Option<SecretString>,
    /// Whether the secret is that of the tokens.
    has_secret_of_tokens: bool,
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
            has_secret_of_tokens: false,
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
        Ok(on_io(async move { client.own_tokens(client.http.clone()).await }).await?)
    }

    async fn trade(&self, token: &RefreshToken, http: Http) -> Result<AuthTokens, Failed> {
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let spent = oauth2::RefreshToken::new(token.expose_secret().to_owned());
        let (client, sent) = (self.client(), self.clock.now());
        let forms = self.forms(http, self.parameters.for_token());
        let request = client.exchange_refresh_token(&spent).add_scopes(self.refresh_scopes.clone());
        let answer = request.request_async(&forms).await;
        spent.into_secret().zeroize();
        let answer = answer.map_err(|error| failed(error, self.token_url.url()).in_a_session())?;
        let new = self.received(answer, sent);
        let is_another = new.refresh_token.as_ref().is_some_and(|new| new != token);
        if new.has_access_token() || is_another {
            Ok(new)
        } else {
            Err(unreadable(self.token_url.url().authority()))
        }
    }

    /// Returns what sends the request for new tokens instead of these.
    fn http_instead_of(&self, current: &AuthTokens, permit: RefreshPermit) -> Http {
        let http = self.http.permitted(permit);
        let is_good = !current.is_expired(clock::date(self.clock.now()));
        if is_good && current.has_access_token() { http.while_good() } else { http }
    }

    /// Returns the tokens of an answer to a request that was sent at this time.
    fn received(&self, answer: Answer, sent: SystemTime) -> AuthTokens {
        let mut tokens = answer.into_tokens(sent);
        if let (None, Some(lifetime)) = (tokens.expiry(), self.default_lifetime)
            && tokens.has_access_token()
        {
            tokens.expires_at = clock::date(sent).checked_add_signed(lifetime);
        }
        tokens
    }

    /// Gets tokens for the client itself.
    async fn own_tokens(&self, http: Http) -> Result<AuthTokens, Failed> {
        let (client, sent) = (self.client(), self.clock.now());
        let added = self.parameters.for_client_credentials();
        let forms = self.forms(http, added);
        let request = client.exchange_client_credentials().add_scopes(self.scopes.clone());
        let answer = request.request_async(&forms).await;
        let answer = answer.map_err(|error| failed(error, self.token_url.url()))?;
        let mut tokens = self.received(answer, sent);
        if !tokens.has_access_token() {
            return Err(unreadable(self.token_url.url().authority()));
        }
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
                let secret = secret.expose_secret().trim_end_matches(['\r', '\n']);
                let secret = ClientSecret::new(secret.to_owned());
                client.set_client_secret(secret)
            }
        }
    }

    fn not_set(&self, setting: &'static str) -> OAuth2Error {
        let reason = match &self.issuer {
            Some(_) => {
                "is not set, and no metadata of the issuer names one that can be used; set it first"
            }
            None => "is not set; set it first",
        };
        OAuth2Error::InvalidSetting { setting, reason }
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
/// | a proxy that does not accept the user; a TLS connection that the server refuses, mostly without the client's certificate; a variable for the proxy that cannot be used | misconfigured | yes |
/// | 429 | transient | yes |
/// | 503, 403 without an error code, `server_error`, `slow_down`, `temporarily_unavailable`; any other answer without tokens and without an error code that the other rows name, with `Retry-After`; a new refresh token without an access token that can be read, which is saved | transient | no |
/// | the request or a part of it was sent, and neither a complete answer nor all of its tokens came; a success without readable tokens; more than 256 KiB; a redirect; 408; 425; any other 5xx | ambiguous | no |
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
/// error code counts with the status of a success, and with any 4xx except 404, 408, 425 and 429. Tokens count with any
/// status, if there is no error code: they may be the only copy.
#[async_trait]
impl TokenRefresher for OAuth2Client {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let (client, mut http) = (self.clone(), self.http_instead_of(&current, permit.clone()));
        http.report = http.report.knowing(&current.access_token);
        let client = client.with_secret_of(&current);
        let client = client.ok_or_else(|| {
            RefreshFailure::misconfigured(format!("the client secret {NO_SECRET}"))
        })?;
        if self.grant == Grant::ClientCredentials {
            let own = on_io(async move { client.own_tokens(http).await }).await;
            return own.map_err(|failed: Failed| match failed.into() {
                // There is no session that has ended.
                RefreshFailure::Rejected { reason } => RefreshFailure::misconfigured(reason),
                failure => failure,
            });
        }
        let Some(token) = current.refresh_token.clone() else {
            return Err(RefreshFailure::rejected("the server issued no refresh token"));
        };
        let new = on_io(async move { client.trade(&token, http).await }).await?;
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

/// There is no secret with the tokens.
const NO_SECRET: &str = "is kept with the tokens, and there is none with them; import them again";

/// Adds the fields that the answer to a refresh did not repeat. An answer without a `scope` has the same one
/// (RFC 6749, 5.1), the ID token stays (`OpenID` Connect Core, 12.2), and so does what providers send at the
/// sign-in only, such as `instance_url`. A value that is empty repeats nothing. Fields that are a time from then on say
/// nothing now.
fn with_what_stays(new: AuthTokens, current: &AuthTokens) -> AuthTokens {
    let is_a_time = |name: &str| name.contains("expires");
    let stays = current.typed_extras().filter(|(name, ..)| !is_a_time(name));
    let mut kept: Vec<_> = stays.collect();
    kept.retain(|(name, value, is_json)| {
        let sent = new.typed_extras().find(|(sent, ..)| sent == name);
        sent.is_none_or(|(_, sent, is_sent_json)| {
            let sent_no_text = *name == "id_token" && is_sent_json && !is_json;
            sent_no_text || says_nothing(sent, is_sent_json, is_boolean(value))
        })
    });
    kept.into_iter().fold(new, |new, (name, value, is_json)| match is_json {
        true => new.with_json_extra(name, value.clone()),
        false => new.with_extra(name, value.clone()),
    })
}

/// Returns whether a value is empty. `false` is, where there was no boolean before.
fn says_nothing(value: &SecretString, is_json: bool, was_boolean: bool) -> bool {
    #[expect(clippy::disallowed_methods, reason = "looks whether there is anything")]
    let text = value.expose_secret();
    let text = text.trim();
    let holds_nothing = |start, end| {
        let inner = text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        inner.is_some_and(|inner: &str| inner.trim().is_empty())
    };
    text.is_empty()
        || is_json
            && (holds_nothing('[', ']')
                || holds_nothing('{', '}')
                || text == "false" && !was_boolean)
}

fn is_boolean(value: &SecretString) -> bool {
    #[expect(clippy::disallowed_methods, reason = "compared with two words only")]
    let text = value.expose_secret();
    matches!(text, "true" | "false")
}

/// Runs an exchange on the I/O runtime of this crate.
async fn on_io<T: Send + 'static, E: From<Failed> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    io_runtime::run(work)
        .await
        .unwrap_or_else(|error| Err(Failed::NotSent { reason: error.to_string() }.into()))
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
    Failed::Unreadable { reason: format!("{place} answered, but its answer cannot be read") }
}
