//! A client that signs in as axiomtrade-rs does, and refreshes for a `TokenManager`.

use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, RETRY_AFTER, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::{AccessToken, AuthTokens, RefreshFailure, TokenRefresher, async_trait};
use zeroize::Zeroizing;

const ACCESS: &str = "auth-access-token";
const REFRESH: &str = "auth-refresh-token";
const OTP: &str = "auth-otp-login-token";

/// For the name, the connection and the TLS handshake. Shorter than [`ANSWER`], so that it is known
/// that nothing was sent when this runs out.
const CONNECT: Duration = Duration::from_secs(10);

/// From the start to the last byte of the answer; shorter than the 30 seconds that the manager gives
/// a refresh.
const ANSWER: Duration = Duration::from_secs(25);

/// More than any answer of this API has.
const LONGEST_BODY: usize = 256 * 1024;

/// No server is obeyed for longer than this: an hour.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Talks to one server, and sends what is secret to no other. Clones share its connections.
#[derive(Clone)]
pub(crate) struct AuthClient {
    http: Client,
    base: Url,
    answer: Duration,
}

/// What a login brings.
#[derive(Debug)]
pub(crate) struct LoginResult {
    pub(crate) tokens: AuthTokens,
}

/// A login that waits for the one-time code, which comes by mail.
pub(crate) struct PendingLogin<'c> {
    client: &'c AuthClient,
    email: String,
    password: SecretString,
    otp_token: SecretString,
}

/// How an exchange failed. Of what the server said, only the status is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// 403, 429 or 503.
    #[error("{reason}; try again later")]
    Busy { status: u16, reason: String, retry_after: Option<Duration> },
    #[error("the base URL {reason}")]
    InvalidBase { reason: &'static str },
    /// The request was sent, and no answer came that says what became of it.
    #[error("{reason}")]
    NoAnswer { reason: String },
    #[error("{reason}; try again later")]
    NotSent { reason: String },
    #[error("{reason}")]
    Refused { reason: String },
    #[error("{reason}")]
    Unsendable { reason: String },
    #[error("{reason}")]
    Wrong { reason: String },
}

impl AuthClient {
    /// Talks to the server at this URL, which is `https`, or `http` to an address of this machine
    /// (a name could lead elsewhere).
    pub(crate) fn new(base: &str) -> Result<Self, ClientError> {
        let invalid = |reason| ClientError::InvalidBase { reason };
        let mut base = Url::parse(base).map_err(|_| invalid("is none"))?;
        let is_secure = base.scheme() == "https";
        let is_local = base.scheme() == "http" && is_loopback(&base);
        if !(is_secure || is_local) {
            return Err(invalid("must be https, or http to 127.0.0.1 or [::1]"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid("must not have a user name or a password"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("must not have a query or a fragment"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path())); // else its last part would be replaced
        }
        // The first one in a process stays, and any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .https_only(is_secure)
            // 307 and 308 send everything again, to wherever they point.
            .redirect(Policy::none())
            // One that the environment names is another host.
            .no_proxy()
            // Whether to send a refresh token twice is for the manager to decide.
            .retry(reqwest::retry::never())
            // On a kept connection nobody can tell whether a request that failed was read; a
            // connection that was never made has sent nothing.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .build()
            .map_err(|_| invalid("cannot be used: this machine has no root certificates"))?;
        Ok(Self { http, base, answer: ANSWER })
    }

    /// Begins a login. The password goes as axiomtrade-rs sends it: hashed, in Base64.
    pub(crate) async fn login(
        &self,
        email: &str,
        password: &str,
    ) -> Result<PendingLogin<'_>, ClientError> {
        let body = serde_json::json!({ "email": email, "b64Password": password });
        let response = self.send(Method::POST, "login-password-v2", None, Some(body)).await?;
        let body = self.body(self.judge(response)?).await?;
        // What serde_json says of a wrong answer would quote it.
        let mut answer: serde_json::Value =
            serde_json::from_slice(&body).map_err(|_| self.wrong("answered no JSON"))?;
        let serde_json::Value::String(otp_token) = answer["otpJwtToken"].take() else {
            return Err(self.wrong("answered without an otpJwtToken"));
        };
        Ok(PendingLogin {
            client: self,
            email: email.to_owned(),
            password: SecretString::from(password),
            otp_token: SecretString::from(Zeroizing::new(otp_token).as_str()),
        })
    }

    /// Trades the refresh token for new tokens. If the server sends no other refresh token, the old
    /// one stays.
    pub(crate) async fn refresh_tokens(
        &self,
        current: &AuthTokens,
    ) -> Result<AuthTokens, ClientError> {
        let Some(token) = &current.refresh_token else {
            return Err(ClientError::Refused { reason: "there is no refresh token".into() });
        };
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let cookie = (REFRESH, token.expose_secret());
        let response = self.send(Method::POST, "refresh-access-token", Some(cookie), None).await?;
        let response = self.judge(response)?;
        let mut new = current.clone(); // what else belongs to the session stays
        self.take_cookies(response.headers(), &mut new)?;
        Ok(new)
    }

    /// Makes a request with the access token, and returns what came.
    pub(crate) async fn get(&self, path: &str, token: &AccessToken) -> Result<String, ClientError> {
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let cookie = (ACCESS, token.expose_secret());
        let response = self.send(Method::GET, path, Some(cookie), None).await?;
        let body = self.body(self.judge(response)?).await?;
        std::str::from_utf8(&body)
            .map(str::to_owned)
            .map_err(|_| self.wrong("answered what is no text"))
    }

    #[cfg(test)]
    pub(crate) fn answer_within(mut self, time: Duration) -> Self {
        self.answer = time;
        self
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        cookie: Option<(&str, &str)>,
        json: Option<serde_json::Value>,
    ) -> Result<Response, ClientError> {
        // A path may be a URL of its own.
        let url = self.base.join(path).ok().filter(|url| url.origin() == self.base.origin());
        let url = url.ok_or_else(|| self.unsendable("is not where that path leads"))?;
        let mut request = self.http.request(method, url).timeout(self.answer);
        if let Some((name, value)) = cookie {
            let header = cookie_header(name, value);
            request = request.header(
                COOKIE,
                header
                    .ok_or_else(|| self.unsendable("cannot be sent a token that is no cookie"))?,
            );
        }
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json.to_string());
        }
        request.send().await.map_err(|error| self.failed(&error))
    }

    /// Lets a success through.
    fn judge(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        let reason = format!("{} answered {}", self.place(), status.as_u16());
        match status.as_u16() {
            200..=299 => Ok(response),
            300..=399 => {
                let advice = "a redirect, which is not followed; set the URL that it leads to";
                Err(ClientError::NoAnswer { reason: format!("{reason}, {advice}") })
            }
            401 => Err(ClientError::Refused { reason }),
            // A firewall in between says 403. This server says 401.
            status @ (403 | 429 | 503) => {
                let retry_after = retry_after(response.headers(), Utc::now());
                Err(ClientError::Busy { status, reason, retry_after })
            }
            // A gateway in between may say this after the server has spent a refresh token.
            408 | 500..=599 => Err(ClientError::NoAnswer { reason }),
            _ => Err(ClientError::Wrong { reason: format!("{reason}; check the URL") }),
        }
    }

    /// Takes the tokens out of an answer's head. Its body is not waited for: what came is the only
    /// copy of a refresh token that was rotated, and must not be lost with the rest.
    fn take_cookies(
        &self,
        headers: &HeaderMap,
        tokens: &mut AuthTokens,
    ) -> Result<(), ClientError> {
        let access = cookie(headers, ACCESS)
            .ok_or_else(|| self.no_answer("answered without the cookie auth-access-token"))?;
        tokens.access_token = AccessToken::from(access);
        if let Some(refresh) = cookie(headers, REFRESH) {
            tokens.refresh_token = Some(refresh.into());
        }
        // The token itself says when it ends, and the manager when it came.
        tokens.expires_at = None;
        tokens.obtained_at = None;
        Ok(())
    }

    async fn body(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error))? {
            if chunk.len() > LONGEST_BODY - body.len() {
                return Err(self.wrong("answered at too great length"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Says why there is no answer, in words of its own: those of others may quote one.
    fn failed(&self, error: &reqwest::Error) -> ClientError {
        let place = self.place();
        if error.is_connect() {
            return ClientError::NotSent { reason: format!("{place} cannot be reached") };
        }
        let mut cause = error.source();
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
                return self.wrong("answered what cannot be read");
            }
            cause = error.source();
        }
        self.no_answer(if error.is_timeout() { "did not answer in time" } else { "broke off" })
    }

    fn no_answer(&self, what: &str) -> ClientError {
        ClientError::NoAnswer { reason: format!("{} {what}", self.place()) }
    }

    fn unsendable(&self, what: &str) -> ClientError {
        ClientError::Unsendable { reason: format!("{} {what}", self.place()) }
    }

    fn wrong(&self, what: &str) -> ClientError {
        ClientError::Wrong { reason: format!("{} {what}", self.place()) }
    }

    fn place(&self) -> String {
        self.base.origin().ascii_serialization()
    }
}

impl PendingLogin<'_> {
    /// Completes the login.
    pub(crate) async fn enter_code(self, code: &str) -> Result<LoginResult, ClientError> {
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let cookie = (OTP, self.otp_token.expose_secret());
        #[expect(clippy::disallowed_methods, reason = "sent to the server that it is for")]
        let password = self.password.expose_secret();
        let body =
            serde_json::json!({ "code": code, "email": self.email, "b64Password": password });
        let client = self.client;
        let response = client.send(Method::POST, "login-otp", Some(cookie), Some(body)).await?;
        let response = client.judge(response)?;
        let mut tokens = AuthTokens::new("");
        client.take_cookies(response.headers(), &mut tokens)?;
        if tokens.refresh_token.is_none() {
            return Err(client.wrong("answered without the cookie auth-refresh-token"));
        }
        Ok(LoginResult { tokens })
    }
}

#[async_trait]
impl TokenRefresher for AuthClient {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        // `reqwest` connects and writes in one step, so it cannot be asked in between. The lease of a file,
        // as here, does not end.
        permit.check()?;
        Ok(self.refresh_tokens(&current).await?)
    }
}

/// Says what became of the refresh token. Only what proves that the server did not spend it is `unspent`.
impl From<ClientError> for RefreshFailure {
    fn from(error: ClientError) -> Self {
        match error {
            // 429 is said before any work is done.
            ClientError::Busy { status, reason, retry_after } => {
                Self::Transient { reason, retry_after, unspent: status == 429 }
            }
            ClientError::InvalidBase { .. } => Self::misconfigured(error.to_string()),
            ClientError::NoAnswer { reason } => Self::ambiguous(reason),
            ClientError::NotSent { reason } => Self::transient(reason),
            ClientError::Refused { reason } => Self::rejected(reason),
            ClientError::Unsendable { reason } => Self::misconfigured(reason),
            ClientError::Wrong { reason } => Self::misconfigured(reason).maybe_spent(),
        }
    }
}

impl fmt::Debug for AuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthClient({})", self.place())
    }
}

impl fmt::Debug for PendingLogin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingLogin({}, [REDACTED])", self.client.place())
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    }
}

/// `None` for a value that would be read as something else: `;` begins another cookie.
fn cookie_header(name: &str, value: &str) -> Option<HeaderValue> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        return None;
    }
    let text = Zeroizing::new(format!("{name}={value}"));
    // The HTTP client keeps copies of this, and of the answer, that nobody wipes.
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Finds what an answer sets a cookie to: the last one counts, and an empty one deletes it.
///
/// The name ends at the first `=`; Base64 may end with others.
fn cookie<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let mut cookies = headers.get_all(SET_COOKIE).iter().filter_map(|header| {
        let (pair, _attributes) =
            header.to_str().ok().map(|it| it.split_once(';').unwrap_or((it, "")))?;
        let (name, value) = pair.split_once('=')?;
        (name.trim() == wanted).then_some(value.trim())
    });
    cookies.next_back().filter(|value| !value.is_empty())
}

/// Reads `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = DateTime::parse_from_rfc2822(text).ok()?;
            // A date that has passed asks for no wait.
            (date.to_utc() - now).to_std().unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}
